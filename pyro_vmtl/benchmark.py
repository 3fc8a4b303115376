"""Fit all methods on all data and write tables: ``python -m pyro_vmtl.benchmark [key=value]``"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs import config_folder
from pyro_vmtl.runs.benchmark import run_benchmark
from pyro_vmtl.runs.refusals import check_flags, ending_in_a_sentence
from pyro_vmtl.runs.screen import plain_console
from pyro_vmtl.runs.trust import checked_by_hydra, named_by_the_user

__all__ = ["main"]


_SWEPT = (
    "a benchmark was started with --multirun; expected it without, since it sweeps by itself: "
    "hydra/launcher=joblib or ray says how"
)


def _run(config: DictConfig) -> int:
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        raise InputError(_SWEPT)
    sources = job.runtime.config_sources
    own = [source.path for source in sources if source.provider == "command-line"]
    trusted = named_by_the_user(sys.argv[1:])
    return run_benchmark(config, job.launcher, plain_console(), own, trusted)


@hydra.main(config_path=str(config_folder()), config_name="benchmark", version_base="1.3")
def _benchmark(config: DictConfig) -> None:
    try:
        with ending_in_a_sentence():  # of a job's errors Hydra would print the overrides first
            left = _run(config)
    except KeyboardInterrupt:
        plain_console(stderr=True).print("Stopped; the same command goes on from here.")
        sys.exit(130)
    if left:
        sys.exit(1)


def main() -> None:
    """The command."""
    # A list of methods takes several lines, of which Hydra's grammar knows nothing.
    sys.argv[1:] = [" ".join(argument.split("\n")) for argument in sys.argv[1:]]
    with ending_in_a_sentence():  # of what Hydra cannot compose
        check_flags(sys.argv[1:])
        if {"--multirun", "-m"} & set(sys.argv[1:]):  # Hydra would make a folder for it first
            raise InputError(_SWEPT)
        with checked_by_hydra(named_by_the_user(sys.argv[1:])):
            _benchmark()


if __name__ == "__main__":
    main()
