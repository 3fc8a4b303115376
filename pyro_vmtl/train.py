"""Train a variational multi-task model: ``python -m pyro_vmtl.train [group=option] [key=value]``"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from pyro_vmtl.runs import RunFolder, config_folder, run_experiment
from pyro_vmtl.runs.processes import is_first_process, refuse_parallel
from pyro_vmtl.runs.refusals import ending_in_a_sentence

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
        return RunFolder(job.runtime.output_dir)
    if config.run_dir is not None:
        return RunFolder(config.run_dir)
    return RunFolder.named_by_time(Path("runs") / config.experiment)


@hydra.main(config_path=str(config_folder()), config_name="train", version_base="1.3")
def _train(config: DictConfig) -> None:
    with ending_in_a_sentence():  # of a job's errors Hydra would print the overrides first
        run_experiment(config, _folder(config), Console())


def main() -> None:
    """The command."""
    with ending_in_a_sentence():  # of a configuration that Hydra cannot compose
        _train()


if __name__ == "__main__":
    main()
