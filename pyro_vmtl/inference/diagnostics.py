"""Numbers that tell early that a fit goes wrong, and the sentences that say what to change."""

from __future__ import annotations

import math

import torch

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import RelatednessGates, RelatednessWeights
from pyro_vmtl.inference.counted_evidence import times_counted
from pyro_vmtl.inference.noise import fixed_noise
from pyro_vmtl.model import SITES, VMTL, Borrowing, evaluating

__all__ = [
    "DRIFT_THRESHOLD",
    "EVIDENCE_THRESHOLD",
    "INFORMATION_THRESHOLD",
    "SOFTNESS_THRESHOLD",
    "UNIFORMITY_THRESHOLD",
    "diagnose",
    "explain",
]

EVIDENCE_THRESHOLD = 3.0
"""How often the posteriors may seem to count all tasks' data before sigma is called too small.

More than once is more than there is; the margin is for standard deviations that start small and
have not grown to their size yet. In the fits of the built-in table, which counts warnings
(benchmarks/results/table/tables.md), only tasks that lend each other their posteriors pass it, and
not all: tempered, or stopped early, the recursion has had little time.
"""

DRIFT_THRESHOLD = 2.0
"""Root mean square of the weights, in standard deviations of N(0, I), above which they drifted."""

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

_RELATEDNESS_DRAWS = 256


@torch.no_grad()
def diagnose(vmtl: VMTL, batch: Batch) -> dict[str, float]:
    """Diagnostics of the posteriors on a batch; the random state stays as it was.

    - ``weights_scale``, ``weights_loc``: mean posterior standard deviation and mean absolute mean
      of the weights;
    - ``weights_drift``: the root mean square of the weights under their posterior, in standard
      deviations of N(0, I);
    - ``weights_evidence``: how often the tasks' posteriors have counted the data of all tasks,
      ``layers_evidence``: the same of tasks' own encoder layers
      (:func:`pyro_vmtl.inference.times_counted`);
    - ``relatedness_<site>_information``: what relatedness has learned: the KL divergence of its
      probabilities from those it started with, in nats per task (of gates: per gate);
    - ``relatedness_<site>_softness``: of the relaxed draws, E[sum a (1 - a)] over sum p (1 - p),
      with p the probabilities. Gradients pass through a (1 - a): at low temperature draws are 0 or
      1, and it is 0;
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
    with fixed_noise(0, loc.device), evaluating(vmtl):
        law = vmtl.encoder(batch.x)
        numbers |= times_counted(vmtl, batch)
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


def _relatedness(borrowing: Borrowing) -> dict[str, float]:
    law = borrowing.relatedness_posterior()
    if not isinstance(law, (RelatednessWeights, RelatednessGates)):
        return {}  # nothing is learned by gradients
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


def explain(numbers: dict[str, float], vmtl: VMTL | None = None) -> list[str]:
    """Sentences for a person, one for each number past its documented threshold.

    :param numbers: of :func:`diagnose`; those that are missing are passed over.
    :param vmtl: the model that they are of: what a sentence advises depends on who lends. None, it
        names every possibility.
    """
    sentences = []
    for name, site, start in (
        ("weights", "weights", "model.initial_scale"),
        ("layers", "representations", "model.encoder.initial_scale"),
    ):
        counted = numbers.get(f"{name}_evidence", 0.0)
        if counted > EVIDENCE_THRESHOLD:
            scale = numbers.get(f"{name}_scale")
            shown = "" if scale is None else f" (mean scale {scale:.3g})"
            sentences.append(
                f"The posteriors of the {name} are as narrow as if the data of all tasks had been "
                f"counted {counted:.0f} times{shown}: intervals are too narrow. "
                f"{_why_narrow(vmtl, site, start)}"
            )
    drift = numbers.get("weights_drift", 0.0)
    # Weights in closed form have no KL weight to raise, nor need Nested's be of order 1.
    if drift > DRIFT_THRESHOLD and not (vmtl is not None and vmtl.classifier.is_conjugate):
        sentences.append(
            f"The weights have drifted: their root mean square is {drift:.1f} standard deviations "
            f"of N(0, I), over {DRIFT_THRESHOLD:g}, and predictions may be overconfident. Raise "
            "their KL weight (trainer.kl_weights.value, 1 is Bayes' rule), take weights in closed "
            "form (model.classifier=conjugate), or rescale the inputs."
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
        sentences += _explain_relatedness(site, numbers, vmtl)
    return sentences


def _why_narrow(vmtl: VMTL | None, site: str, start: str) -> str:
    scales = (
        "the scales still stand near their start: train longer (trainer.epochs) or start wider "
        f"({start})."
    )
    if vmtl is None or site in vmtl.borrowing:
        return (
            "Evidence comes back to its own task through what tasks lend each other: take weights "
            f"in closed form (model.classifier=conjugate), which count it once; or {scales}"
        )
    return f"Nobody lends, so {scales}"


def _explain_relatedness(site: str, numbers: dict[str, float], vmtl: VMTL | None) -> list[str]:
    instead = ", or infer clusters instead (pool=nested)" if site == "weights" else ""
    untempered = site == "weights" and vmtl is not None and vmtl.classifier.is_conjugate
    kl = "" if untempered else f" or trainer.kl_{site}.value"
    sentences = []
    learned = numbers.get(f"relatedness_{site}_information", math.inf)
    if learned < UNIFORMITY_THRESHOLD:
        sentences.append(
            f"The relatedness of the {site} is where it started ({learned:.4f} nats away, under "
            f"{UNIFORMITY_THRESHOLD}): nothing told one task from another, so do not read the "
            "table of relatedness. Either the tasks are not related, or it had no time to learn: "
            f"train longer (trainer.epochs), raise trainer.learning_rate.value{kl}{instead}."
        )
    softness = numbers.get(f"relatedness_{site}_softness", math.inf)
    if softness < SOFTNESS_THRESHOLD:
        sentences.append(
            f"The drawn relatedness of the {site} is all but 0 or 1 (softness {softness:.3f}, "
            f"under {SOFTNESS_THRESHOLD}): the temperature is too low for gradients to pass. Raise "
            "where it ends (trainer.temperature.end=0.5)."
        )
    return sentences
