"""Small benchmarks of the real command."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from pyro_vmtl.benchmark import main
from pyro_vmtl.runs.benchmark import cells
from tests.runs.conftest import SMALL

Benchmark = Callable[..., Path]
CLUSTERS = (
    "{data: clusters, axis: data.samples, sizes: [12], overrides: {model: identity, "
    "data.num_tasks: 4, data.num_clusters: 2, data.dimensions: 3, data.test_samples: 20}}"
)


@pytest.fixture
def benchmark_(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Benchmark:
    """Run the command in an empty folder: two methods, four small tasks, two seeds."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0, extra: str = "", figures: bool = False) -> Path:
        if not figures:  # they take a second, and have tests of their own
            monkeypatch.setattr(
                "pyro_vmtl.runs.benchmark.command._write_figures", lambda *given: []
            )
        budget = ",".join(f"'{override}'" for override in (*SMALL, *extra.split()))
        given = [
            f"datasets=[{CLUSTERS}]",
            "methods=[default,recursive]",
            "seeds=[0,1]",
            f"overrides=[{budget}]",
            "run_dir=bench",
        ]
        names = {argument.partition("=")[0] for argument in arguments}
        given = [argument for argument in given if argument.partition("=")[0] not in names]
        monkeypatch.setattr("sys.argv", ["pyro_vmtl.benchmark", *given, *arguments])
        if code:
            with pytest.raises(SystemExit) as exit_:
                main()
            assert exit_.value.code == code
        else:
            main()
        return tmp_path / "bench"

    return run


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[DictConfig]:
    """The configurations that were fitted, in their order."""
    seen: list[DictConfig] = []
    score = cells.score

    def spy(config: DictConfig, trusted: Collection[str] = ()) -> dict[str, Any]:
        seen.append(config)
        return score(config, trusted)

    monkeypatch.setattr(cells, "score", spy)
    return seen
