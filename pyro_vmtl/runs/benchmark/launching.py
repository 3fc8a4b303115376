"""Cells through a Hydra launcher: in sequence, in processes of this machine, on a Ray cluster."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs.benchmark.cells import run_cell
from pyro_vmtl.runs.benchmark.grid import Cell, quoted

__all__ = ["launch"]


def launch(
    cells: Sequence[Cell],
    path: Path,
    launcher: DictConfig,
    threads: int,
    config_folders: Sequence[str] = (),
    trusted: Collection[str] = (),
) -> list[str]:
    """Compute cells, each as a job of a sweep over the training configuration.

    A launcher composes the configuration of a job as ``python -m pyro_vmtl.train`` would and hands
    it to the job, here to :func:`.cells.run_cell`. Hydra must be initialised on the configs.

    :param cells: to compute, all of them.
    :param path: the benchmark's folder.
    :param launcher: the node ``hydra.launcher`` of a configuration.
    :param threads: of each fit.
    :param config_folders: of the user's own configs.
    :param trusted: what configurations may name; see :func:`pyro_vmtl.runs.read_plan`.
    :return: sentences about jobs that ended without a file.
    """
    loader = GlobalHydra.instance().config_loader()
    # A launcher makes the sweep's folder, whatever the job does; here it is the cells' own.
    folders = [f"hydra.sweep.dir={quoted(str(path / 'cells'))}", "hydra.sweep.subdir=."]
    sweep = loader.load_configuration("train", folders, run_mode=RunMode.MULTIRUN)
    with open_dict(sweep):
        sweep.hydra.launcher = launcher
    known = {cell.fingerprint: cell for cell in cells}
    task = partial(
        run_cell, path, known, threads, tuple(config_folders), trusted=frozenset(trusted)
    )
    engine = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(loader, Callbacks(sweep)), task_function=task, config=sweep
    )
    try:
        jobs = engine.launch([list(cell.overrides) for cell in cells], 0)
    except Exception as error:
        # A worker that was killed, a cluster that went away: what is done is on disk.
        return [f"the launcher ended early ({type(error).__name__}: {_first_line(error)})"]
    complaints = []
    for cell, job in zip(cells, jobs, strict=True):
        try:
            _ = job.return_value  # raises what the job raised
        except Exception as error:
            reason = str(error) if isinstance(error, InputError) else _first_line(error)
            complaints.append(f"{cell.title} left no file ({reason})")
    return complaints


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
