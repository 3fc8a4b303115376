"""How training went: which epoch was kept, what each task pays, how relatedness formed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from lightning.pytorch.callbacks import Callback

from pyro_vmtl.distributions import kl_or_estimate
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inference.noise import fixed_noise
from pyro_vmtl.inference.training import TrainingModule
from pyro_vmtl.inspection.draws import BASE, borrowing_of, relatedness_probabilities
from pyro_vmtl.model import SITES, VMTL

__all__ = ["Snapshots", "kept_epoch", "kl_per_task", "task_kls"]

_SNAPSHOTS = 20  # of a training, about, where nobody says


def kept_epoch(history: pd.DataFrame) -> int | None:
    """The row of the history that the fitted model stands at: the best validation density.

    :return: a position; the last where nothing was validated, None for an empty history.
    """
    if history.empty:
        return None
    density = history.get("validation_nll")
    if density is None or density.isna().all():
        return len(history) - 1
    return int(np.nanargmin(density.to_numpy(dtype=float)))


@torch.no_grad()
def task_kls(vmtl: VMTL, num_samples: int = 20, seed: int = 0) -> dict[str, list[float]]:
    """KL(q || p) of every task at each site that is paid once, averaged over the relatedness.

    ``weights``, and ``representations`` where each task has an encoder layer; of a mixture the
    analytic upper bound of its pool.

    :return: by site, a value in nats for each of the T tasks.
    """
    layer = vmtl.encoder.layer()
    own_layers = layer is not None and len(layer.loc) == vmtl.num_tasks
    totals = {site: torch.zeros(vmtl.num_tasks) for site in SITES[: 1 + own_layers]}
    with fixed_noise(seed, vmtl.device):
        # A draw at a time: the components of a prior may differ from draw to draw.
        for _ in range(num_samples if vmtl.borrowing else 1):
            draw = {
                site: borrowing_of(vmtl, site).relatedness_posterior().sample()
                for site in vmtl.borrowing
            }
            kl = kl_or_estimate(
                vmtl.classifier(draw.get("weights")), vmtl.weights_prior(draw.get("weights"))
            )
            totals["weights"] += kl.reshape(-1).cpu()
            if own_layers and layer is not None:
                loc, scale = layer.loc.unsqueeze(1), layer.scale.unsqueeze(1)
                prior = vmtl.layer_prior(layer, draw.get("representations"))
                kl = kl_or_estimate(dist.Normal(loc, scale).to_event(2), prior)
                totals["representations"] += kl.reshape(-1).cpu()
    count = num_samples if vmtl.borrowing else 1
    return {site: (total / count).tolist() for site, total in totals.items()}


def kl_per_task(fitted: FittedVMTL, num_samples: int = 50, seed: int = 0) -> pd.DataFrame:
    """What each task's posteriors cost against their priors, in nats, at KL weight 1.

    :param num_samples: draws of the relatedness to average over.
    :param seed: of the draws.
    :return: a row per task, a column per site: ``weights``, and ``representations`` where each task
        has an encoder layer of its own. For a mixture, its analytic upper bound.
    """
    values = task_kls(fitted.vmtl, num_samples, seed)
    return pd.DataFrame(values, index=pd.Index(fitted.names, name="task"))


class Snapshots(Callback):
    """Watches training: the relatedness and the KL of every task after each epoch.

    Example::

        snapshots = Snapshots(train.names)
        fitted = fit(train, validation, callbacks=[snapshots])
        plot_relatedness_over_time(snapshots.relatedness())

    :param names: of the tasks.
    :param every: take one every so many epochs; None, about twenty in all.
    :raises InputError: if ``every`` is not at least 1.
    """

    def __init__(self, names: Sequence[str], every: int | None = 1) -> None:
        if every is not None and every < 1:
            raise InputError(f"every is {every}; expected at least 1.")
        self.names = tuple(names)
        self.every = every
        # Plain lists and numbers: they go into checkpoints that are read without running code.
        self._epochs: list[int] = []
        self._probabilities: list[dict[str, list[list[float]]]] = []
        self._kls: list[dict[str, list[float]]] = []

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take a snapshot, if it is time."""
        if not isinstance(pl_module, TrainingModule):
            return
        every = self.every or -(-pl_module.settings.epochs // _SNAPSHOTS)
        if pl_module.current_epoch % every:
            return
        self.take(pl_module.vmtl, pl_module.current_epoch)

    def take(self, vmtl: VMTL, epoch: int) -> None:
        """Take a snapshot.

        :raises InputError: if the model has another number of tasks.
        """
        if vmtl.num_tasks != len(self.names):
            raise InputError(
                f"the model has {vmtl.num_tasks} tasks; expected the {len(self.names)} of the "
                "snapshots."
            )
        self._epochs.append(epoch)
        self._probabilities.append(
            {site: relatedness_probabilities(vmtl, site).tolist() for site in vmtl.borrowing}
        )
        self._kls.append(task_kls(vmtl))

    def relatedness(self) -> pd.DataFrame:
        """``epoch, site, task, other, probability``: how relatedness formed."""
        frames = []
        for epoch, sites in zip(self._epochs, self._probabilities, strict=True):
            for site, values in sites.items():
                frames.append(self._pairs(epoch, site, np.array(values)))
        columns = ["epoch", "site", "task", "other", "probability"]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def _pairs(self, epoch: int, site: str, values: np.ndarray[Any, Any]) -> pd.DataFrame:
        others = np.array([*self.names, BASE], dtype=object)
        rows, columns = np.nonzero(~np.isnan(values))
        return pd.DataFrame(
            {
                "epoch": epoch,
                "site": site,
                "task": others[rows],
                "other": others[columns],
                "probability": values[rows, columns],
            }
        )

    def kls(self) -> pd.DataFrame:
        """``epoch, site, task, kl``: what each task's posteriors cost, in nats at KL weight 1."""
        rows = [
            {"epoch": epoch, "site": site, "task": task, "kl": kl}
            for epoch, sites in zip(self._epochs, self._kls, strict=True)
            for site in SITES
            if site in sites
            for task, kl in zip(self.names, sites[site], strict=True)
        ]
        return pd.DataFrame(rows, columns=["epoch", "site", "task", "kl"])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "epochs": self._epochs,
            "probabilities": self._probabilities,
            "kls": self._kls,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._epochs = list(state_dict["epochs"])
        self._probabilities = list(state_dict["probabilities"])
        self._kls = list(state_dict["kls"])
