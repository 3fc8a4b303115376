"""Fit all methods on all data and write tables: ``python -m pyro_vmtl.benchmark [key=value]``"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs import config_folder
from pyro_vmtl.runs.benchmark import run_benchmark
from pyro_vmtl.runs.refusals import ending_in_a_sentence

__all__ = ["main"]


def _run(config: DictConfig) -> int:
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        raise InputError(
            "a benchmark was started with --multirun; expected it without, since it sweeps by "
            "itself: hydra/launcher=joblib or ray says how"
        )
    sources = job.runtime.config_sources
    own = [source.path for source in sources if source.provider == "command-line"]
    return run_benchmark(config, job.launcher, Console(), own)


@hydra.main(config_path=str(config_folder()), config_name="benchmark", version_base="1.3")
def _benchmark(config: DictConfig) -> None:
    try:
        with ending_in_a_sentence():  # of a job's errors Hydra would print the overrides first
            left = _run(config)
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped; the same command goes on from here.")
        sys.exit(130)
    if left:
        sys.exit(1)


def main() -> None:
    """The command."""
    # A list of methods takes several lines, of which Hydra's grammar knows nothing.
    sys.argv[1:] = [" ".join(argument.split("\n")) for argument in sys.argv[1:]]
    with ending_in_a_sentence():  # of a configuration that Hydra cannot compose
        _benchmark()


if __name__ == "__main__":
    main()
