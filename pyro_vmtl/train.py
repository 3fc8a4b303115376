"""Train a variational multi-task model: ``python -m pyro_vmtl.train [group=option] [key=value]``"""

import os
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs import RunFolder, config_folder, run_experiment

__all__ = ["main"]


def _folder(config: DictConfig) -> RunFolder:
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        return RunFolder(job.runtime.output_dir)
    if config.run_dir is not None:
        return RunFolder(config.run_dir)
    return RunFolder.named_by_time(Path("runs") / config.experiment)


@hydra.main(config_path=str(config_folder()), config_name="train", version_base="1.3")
def _train(config: DictConfig) -> None:
    try:
        run_experiment(config, _folder(config), Console())
    except InputError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        Console(stderr=True, soft_wrap=True).print(f"Error: {error}", markup=False)
        sys.exit(2)


def main() -> None:
    """The command."""
    _train()


if __name__ == "__main__":
    main()
