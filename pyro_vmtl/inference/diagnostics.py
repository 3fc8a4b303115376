"""Numbers that tell early that a fit goes wrong, and the sentences that say what to change."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import RelatednessGates, RelatednessWeights
from pyro_vmtl.model import (
    SITES,
    VMTL,
    Borrowing,
    ClusteredBorrowing,
    evaluating,
    linear_predictor,
)

__all__ = [
    "DRIFT_THRESHOLD",
    "EVIDENCE_THRESHOLD",
    "INFORMATION_THRESHOLD",
    "LENDERS_THRESHOLD",
    "SOFTNESS_THRESHOLD",
    "UNIFORMITY_THRESHOLD",
    "diagnose",
    "explain",
]

EVIDENCE_THRESHOLD = 10.0
"""How often the posteriors may seem to count all tasks' data before sigma is called collapsed.

More than once is more than there is; the margin is for standard deviations that start small and
have not grown to their size yet. Measured: honest priors 0.05 to 0.2, training stopped early up to
4, the recursion 10 to 120.
"""

LENDERS_THRESHOLD = 1.0
"""How much of all tasks' data a lender may seem to have counted: its own data are a part of it."""

DRIFT_THRESHOLD = 2.0
"""Root mean square of the weights, in standard deviations of N(0, I), above which they drifted.

Measured: honest priors 0.1 to 1.1, KL weights near 0 2.1 and growing.
"""

INFORMATION_THRESHOLD = 0.1
"""Nats per sample under which representations are reported as carrying no information."""

UNIFORMITY_THRESHOLD = 0.002
"""Nats under which relatedness is reported as being where it started.

Probabilities then lie within about 6% of their start (of gates: within 0.03 of 1/2).
"""

SOFTNESS_THRESHOLD = 0.05
"""Softness of the drawn relatedness under which gradients are reported as vanishing.

It is close to the temperature below 0.2, and 0.45 to 0.75 for temperatures between 0.5 and 1.
"""

_DRAWS = 8
_RELATEDNESS_DRAWS = 256


@torch.no_grad()
def diagnose(vmtl: VMTL, batch: Batch) -> dict[str, float]:
    """Diagnostics of the posteriors on a batch; the random state stays as it was.

    - ``weights_scale``, ``weights_loc``: mean posterior standard deviation and mean absolute mean
      of the weights;
    - ``weights_drift``: the root mean square of the weights under their posterior, in standard
      deviations of N(0, I);
    - ``weights_evidence``: the precision that the tasks' posteriors have beyond N(0, I), over what
      the data of *all* tasks together would add to it if every task shared one and the same weights
      (the Fisher information, divided by the KL weight). 1 / T where each task counts its own data
      once; more than 1 says that data were counted more than once, since there are no more. For the
      likelihoods of this library, and not for point estimates, whose scale is 0. The pool
      ``clustered`` infers the scale of the weights and the size of the noise: there it is the
      precision beyond N(0, tau^2), divided by kappa;
    - ``lenders_evidence``: the same for anchored lenders, of which each counts its own data alone;
    - ``relatedness_<site>_information``: what relatedness has learned: the KL divergence of its
      probabilities from those it started with, in nats per task (of gates: per gate);
    - ``relatedness_<site>_softness``: of the relaxed draws, E[sum a (1 - a)] over sum p (1 - p),
      with p the probabilities. Gradients pass through a (1 - a): at low temperature draws are 0 or
      1, and it is 0;
    - ``relatedness_<site>_correlation``: of the pool ``clustered``, the mean prior correlation of
      two tasks: the chance that they share a cluster times 1 - s^2;
    - for a stochastic encoder ``representations_scale``, the mean posterior standard deviation of
      z, and ``representations_information`` in nats per sample: half the sum over latent dimensions
      of log(1 + variance of the means / mean variance), the capacity of a Gaussian channel with
      that signal and noise, an upper bound on what z can say about x.

    :param vmtl: a model.
    :param batch: training data.
    """
    loc, scale = vmtl.classifier.gaussians()
    drift = (loc.square() + scale.square()).mean().sqrt()
    numbers = {
        "weights_scale": scale.mean().item(),
        "weights_loc": loc.abs().mean().item(),
        "weights_drift": drift.item(),
    }
    noise = torch.random.fork_rng(devices=[loc.device] if loc.device.type == "cuda" else [])
    with evaluating(vmtl), noise:
        torch.manual_seed(0)
        law = vmtl.encoder(batch.x)
        evidence = _evidence(vmtl, batch, law)
        if evidence is not None:
            numbers["weights_evidence"] = evidence
        for anchor in vmtl.programs()[1:]:
            lent = _evidence(anchor, batch, law)
            if lent is not None:
                numbers["lenders_evidence"] = lent
        for site in vmtl.borrowing:
            borrowing = vmtl.borrowing[site]
            assert isinstance(borrowing, Borrowing)
            numbers |= {f"relatedness_{site}_{k}": v for k, v in _relatedness(borrowing).items()}
    base = getattr(law, "base_dist", None)
    if isinstance(base, torch.distributions.Normal) and int(batch.mask.sum()) > 1:
        means, variances = base.loc[batch.mask], base.scale[batch.mask].square()
        signal = means.var(0, correction=0) / variances.mean(0)
        numbers["representations_scale"] = variances.sqrt().mean().item()
        numbers["representations_information"] = 0.5 * signal.log1p().sum().item()
    return numbers


def _evidence(vmtl: VMTL, batch: Batch, law: dist.TorchDistribution) -> float | None:
    """How often the posteriors have counted the data of all tasks together."""
    kl_weight = vmtl.tempering["weights"]
    if kl_weight == 0 or vmtl.classifier.is_point:  # the prior, or a scale, plays no part
        return None
    information = torch.zeros_like(vmtl.classifier.gaussians().scale[0])  # [K, d_z + 1]
    for _ in range(_DRAWS):  # one at a time, in the memory of a training step
        representations, weights = law.sample(), vmtl.classifier().sample()
        curvature = _curvature(vmtl, representations, weights)  # [T, B, K]
        if curvature is None:
            return None
        counted = (batch.mask * batch.scale).unsqueeze(-1) * curvature
        features = representations.square()
        if information.shape[-1] > features.shape[-1]:  # the bias
            features = torch.cat([features, torch.ones_like(features[..., :1])], -1)
        information += (counted.mT @ features).sum(0)  # of all tasks
    information /= _DRAWS * kl_weight
    alone, factor = _as_the_prior_has_it(vmtl)
    added = (vmtl.classifier.gaussians().scale.square().reciprocal() - alone) / factor
    evidence = float(added.clamp_min(0).mean() / information.mean())
    return evidence if math.isfinite(evidence) else None


def _as_the_prior_has_it(vmtl: VMTL) -> tuple[float, float]:
    """The prior precision of a task without relatives, and how often lent evidence counts.

    1 and 1, but for clusters, which infer both: 1 / tau^2 and kappa.
    """
    for site, borrowing in vmtl.borrowing.items():
        if site == "weights" and isinstance(borrowing, ClusteredBorrowing):
            alone = borrowing.scales.square().reciprocal().mean()
            return alone.item(), borrowing.factors.mean().item()
    return 1.0, 1.0


def _curvature(vmtl: VMTL, representations: Tensor, weights: Tensor) -> Tensor | None:
    """Of minus the log-likelihood in the linear predictor, expected over targets."""
    likelihood = vmtl.likelihood(representations, weights)
    if isinstance(likelihood, torch.distributions.Categorical):
        probabilities = likelihood.probs[..., -vmtl.likelihood.num_outputs :]
        return probabilities * (1 - probabilities)
    base = getattr(likelihood, "base_dist", likelihood)
    if not isinstance(base, torch.distributions.Normal):
        return None  # a likelihood of the user's own
    precision: Tensor = base.scale.square().reciprocal()
    return precision.reshape(linear_predictor(representations, weights).shape)


def _relatedness(borrowing: Borrowing) -> dict[str, float]:
    law = borrowing.relatedness_posterior()
    if not isinstance(law, (RelatednessWeights, RelatednessGates)):
        partitions = getattr(borrowing, "partitions", None)
        if partitions is None:
            return {}
        together = partitions.together() * (1 - partitions.spread.square())[:, None, None]
        chance = together.mean(0).flatten()[1:].view(-1, borrowing.num_tasks + 1)[:, :-1]
        return {"correlation": chance.mean().item()}
    lenders = law.event_shape[0]
    probabilities = law.probs
    if isinstance(law, RelatednessGates):
        start = torch.full_like(probabilities, 0.5)
        entries = torch.stack([probabilities, 1 - probabilities], -1)
        learned = torch.special.xlogy(entries, 2 * entries).sum(-1).mean()
    elif lenders == 1:
        return {}  # there is nothing to learn
    else:
        start = torch.full_like(probabilities, 1 / lenders)
        learned = torch.special.xlogy(probabilities, probabilities / start).sum(-1).mean()
    draws = law.sample(torch.Size([_RELATEDNESS_DRAWS]))
    spread = (probabilities * (1 - probabilities)).sum()
    softness = (draws * (1 - draws)).mean(0).sum() / spread
    return {"information": learned.item(), "softness": softness.item()}


def explain(numbers: dict[str, float]) -> list[str]:
    """Sentences for a person, one for each number past its documented threshold.

    :param numbers: of :func:`diagnose`; those that are missing are passed over.
    """
    sentences = []
    evidence = numbers.get("weights_evidence", 0.0)
    if evidence > EVIDENCE_THRESHOLD:
        sentences.append(
            f"The weights' posteriors are as narrow as if the data of all tasks had been counted "
            f"{evidence:.0f} times (mean scale {numbers['weights_scale']:.3g}): intervals are too "
            "narrow. If the lenders are recursive, evidence comes back to its own task: use "
            "lenders=anchored; else the scales may still stand near their start: train longer "
            "(trainer.epochs) or start wider (model.initial_scale)."
        )
    lent = numbers.get("lenders_evidence", 0.0)
    if lent > LENDERS_THRESHOLD:
        sentences.append(
            "The lenders' posteriors are as narrow as if each task's own data had been those of "
            f"all tasks {lent:.1f} times over, and there are no more: either their scales still "
            "lag behind (train longer, trainer.epochs), or training data are fitted all but "
            "perfectly and it was dropout, which this check leaves out, that kept training unsure "
            "(less of it, model.encoder.dropout, or raise trainer.kl_weights.value towards 1). Do "
            "not read relatedness from this fit."
        )
    drift = numbers.get("weights_drift", 0.0)
    if drift > DRIFT_THRESHOLD:
        sentences.append(
            f"The weights have drifted: their root mean square is {drift:.1f} standard deviations "
            f"of N(0, I), over {DRIFT_THRESHOLD:g}, and predictions may be overconfident. Raise "
            "their KL weight (trainer.kl_weights.value, 1 is Bayes' rule), use lenders=anchored, "
            "or rescale the inputs."
        )
    information = numbers.get("representations_information")
    if information is not None and information < INFORMATION_THRESHOLD:
        sentences.append(
            f"The representations carry {information:.3f} nats of information per sample, under "
            f"{INFORMATION_THRESHOLD}: their posterior has collapsed to the prior and predictions "
            "ignore the inputs. Lower the KL weight of representations "
            "(trainer.kl_representations.value=0.001), or use an encoder whose KL is paid once "
            "(model=bayesian_linear)."
        )
    for site in SITES:
        sentences += _explain_relatedness(site, numbers)
    return sentences


def _explain_relatedness(site: str, numbers: dict[str, float]) -> list[str]:
    # Clusters add up what each task's own data said: recursive lenders do not know it, and samples
    # have no evidence of their own.
    clusters = ", or infer clusters instead (pool=clustered lenders=anchored)"
    instead = clusters if site == "weights" else ""
    sentences = []
    learned = numbers.get(f"relatedness_{site}_information", math.inf)
    if learned < UNIFORMITY_THRESHOLD:
        sentences.append(
            f"The relatedness of the {site} is where it started ({learned:.4f} nats away, under "
            f"{UNIFORMITY_THRESHOLD}): nothing told one task from another, so do not read the "
            "table of relatedness. Either the tasks are not related, or it had no time to learn: "
            "train longer (trainer.epochs), raise trainer.learning_rate.value or "
            f"trainer.kl_{site}.value{instead}."
        )
    softness = numbers.get(f"relatedness_{site}_softness", math.inf)
    if softness < SOFTNESS_THRESHOLD:
        sentences.append(
            f"The drawn relatedness of the {site} is all but 0 or 1 (softness {softness:.3f}, "
            f"under {SOFTNESS_THRESHOLD}): the temperature is too low for gradients to pass. Raise "
            "where it ends (trainer.temperature.end=0.5)."
        )
    return sentences
