"""Fit all methods on all data and write tables: ``python -m pyro_vmtl.benchmark [key=value]``"""

import os
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs import config_folder
from pyro_vmtl.runs.benchmark import run_benchmark

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
        left = _run(config)
    except (InputError, OmegaConfBaseException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        Console(stderr=True, soft_wrap=True).print(f"Error: {error}", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped; the same command goes on from here.")
        sys.exit(130)
    if left:
        sys.exit(1)


def main() -> None:
    """The command."""
    _benchmark()


if __name__ == "__main__":
    main()
