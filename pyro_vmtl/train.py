"""Train a variational multi-task model: ``python -m pyro_vmtl.train [group=option] [key=value]``"""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs import RunFolder, config_folder, run_experiment
from pyro_vmtl.runs.processes import is_first_process, refuse_parallel
from pyro_vmtl.runs.refusals import check_flags, ending_in_a_sentence
from pyro_vmtl.runs.resuming import with_configuration_of_run
from pyro_vmtl.runs.screen import plain_console
from pyro_vmtl.runs.stopping import stopping_in_a_sentence
from pyro_vmtl.runs.trust import checked_by_hydra, named_by_the_user

__all__ = ["main"]


def _folder(config: DictConfig) -> RunFolder | None:
    """The folder of this run; None where another process of the same run writes it."""
    job = HydraConfig.get()
    plain = OmegaConf.to_container(config.trainer)
    assert isinstance(plain, dict)
    trainer = {str(key): value for key, value in plain.items()}
    if job.mode == RunMode.MULTIRUN:
        refuse_parallel(trainer, "a sweep")
    if not is_first_process(trainer):
        return None
    if job.mode == RunMode.MULTIRUN:
        return RunFolder(job.runtime.output_dir).claim()
    if config.run_dir is not None:
        return RunFolder(_name(config, "run_dir")).claim()
    if config.get("resume") is not None:
        folder = RunFolder.existing(_name(config, "resume"))
        if folder.is_unfinished:
            return folder.claim(goes_on=True)
    experiment = Path(_name(config, "experiment"))
    if experiment.is_absolute() or ".." in experiment.parts:
        raise InputError(
            f"experiment is {config.experiment!r}; expected a name, of a folder under runs/"
        )
    return RunFolder.named_by_time("runs" / experiment)


def _name(config: DictConfig, key: str) -> str:
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value == "":
        raise InputError(f"{key} is {value!r}; expected the name of a folder")
    return str(value)


@hydra.main(config_path=str(config_folder()), config_name="train", version_base="1.3")
def _train(config: DictConfig) -> None:
    with ending_in_a_sentence():  # of a job's errors Hydra would print the overrides first
        # Of a sweep by other processes the command line is here alone.
        trusted = named_by_the_user(HydraConfig.get().overrides.task)
        folder = _folder(config)
        with stopping_in_a_sentence(folder):
            run_experiment(config, folder, plain_console(), trusted)


def main() -> None:
    """The command."""
    with ending_in_a_sentence():  # of a configuration that Hydra cannot compose
        sys.argv[1:] = with_configuration_of_run(sys.argv[1:])
        check_flags(sys.argv[1:])
        with checked_by_hydra(named_by_the_user(sys.argv[1:])):
            _train()


if __name__ == "__main__":
    main()
