"""The ELBO taken apart: in its terms, as Bayes' rule has them, and by task, as training does."""

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import kl_or_estimate
from pyro_vmtl.inference.noise import turn
from pyro_vmtl.model import SITES, VMTL, evaluating

__all__ = ["ELBOParts", "elbo_parts", "task_losses"]


@dataclass(frozen=True)
class ELBOParts:
    """Nats, summed over tasks and samples: ``elbo`` = likelihood - the three KLs.

    :ivar expected_log_likelihood: E_q log p(y | z, w).
    :ivar kl_weights: KL(q(w) || p(w)), for a mixture its analytic upper bound.
    :ivar kl_representations: KL(q(z) || p(z)), or of the encoder's Bayesian layer.
    :ivar kl_relatedness: of both relatedness sites.
    """

    expected_log_likelihood: float
    kl_weights: float
    kl_representations: float
    kl_relatedness: float

    @property
    def elbo(self) -> float:
        """The evidence lower bound."""
        kl = self.kl_weights + self.kl_representations + self.kl_relatedness
        return self.expected_log_likelihood - kl


def _kl(guide_site: Any, model_site: Any) -> Tensor:
    """Tempered, scaled and masked, over the site's batch shape."""
    kl = kl_or_estimate(guide_site["fn"], model_site["fn"], guide_site["value"])
    scaled: Tensor = scale_and_mask(kl, guide_site["scale"], guide_site["mask"])
    return scaled


@torch.no_grad()
def elbo_parts(vmtl: VMTL, batch: Batch, num_particles: int = 8) -> ELBOParts:
    """An unbiased estimate of the ELBO's parts, without dropout and with all KL weights 1.

    :param batch: training data; its ``scale`` makes a minibatch stand for the whole.
    :param num_particles: draws to average over.
    """
    totals = dict.fromkeys(("targets", *SITES, "relatedness"), 0.0)
    with turn, evaluating(vmtl), vmtl.untempered():
        for _ in range(num_particles):
            for name, value in _one_draw(vmtl, batch).items():
                totals[name] += value / num_particles
    return ELBOParts(
        totals["targets"], totals["weights"], totals["representations"], totals["relatedness"]
    )


def _one_draw(vmtl: VMTL, batch: Batch) -> dict[str, float]:
    guide = poutine.trace(vmtl.guide).get_trace(batch)
    model = poutine.trace(poutine.replay(vmtl.model, trace=guide)).get_trace(batch)
    model.compute_log_prob(lambda name, site: site["is_observed"])
    parts = dict.fromkeys(("targets", *SITES, "relatedness"), 0.0)
    for name in ("targets", "layer_kl"):
        if name in model.nodes:
            sign, part = (1, name) if name == "targets" else (-1, "representations")
            parts[part] += sign * model.nodes[name]["log_prob_sum"].item()
    for name in SITES:
        if name not in guide.nodes:  # a function of x
            continue
        parts[name] += float(_kl(guide.nodes[name], model.nodes[name]).sum())
        relatedness = f"relatedness_{name}"
        if relatedness in model.nodes:
            kl = _kl(guide.nodes[relatedness], model.nodes[relatedness])
            parts["relatedness"] += float(kl.sum())
    return parts


def task_losses(vmtl: VMTL, batch: Batch, num_particles: int = 1) -> Tensor:
    """Minus each task's part of the tempered ELBO, with gradient.

    The sum over tasks is the loss of Pyro's ``TraceMeanField_ELBO`` for the same draws. The KL of a
    Bayesian encoder layer stands in the ELBO as one number: every task gets an equal share of it.

    :param batch: training data; its ``scale`` makes a minibatch stand for the whole.
    :param num_particles: draws to average over, side by side: the programs run once.
    :return: ``[T]``, in nats.
    """
    # Outside the plates of tasks and samples; one for each program, as in Pyro's own ELBOs.
    guide, model = (
        pyro.plate("particles", num_particles, dim=-3)(program)
        for program in (vmtl.guide, vmtl.model)
    )
    drawn = poutine.trace(guide).get_trace(batch)
    trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(batch)
    trace.compute_log_prob(lambda name, site: site["is_observed"])
    losses = batch.x.new_zeros(vmtl.num_tasks)
    for name, site in prune_subsample_sites(trace).nodes.items():
        if site["type"] != "sample":
            continue
        loss = -site["log_prob"] if site["is_observed"] else _kl(drawn.nodes[name], site)
        loss = loss.expand(num_particles, -1, -1).mean(0).sum(-1)
        # What belongs to all tasks, [1], is shared out between them.
        losses = losses + (loss if len(loss) == vmtl.num_tasks else loss / vmtl.num_tasks)
    return losses
