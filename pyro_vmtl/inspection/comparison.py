r"""Which of several fits predicts best, and whether the difference is more than noise.

Fits are ranked by their log predictive density on held-out samples. Two fits see the same samples,
so what counts is the difference sample by sample: its standard error is that of a paired
comparison, far smaller than the scatter of either density.

Without held-out data, leave-one-out densities can sometimes be had from the posterior draws alone
(PSIS-LOO; Vehtari, Gelman, Gabry 2017). A variational posterior is not the exact one, so draws
:math:`w^s \sim q(w_t)` are first corrected to it, by the ratios

.. math::
    r_s = \frac{p(\alpha_t^s)\,p(w_t^s \mid \alpha_t^s)\,\prod_n p(y_{tn} \mid w_t^s)}
               {q(\alpha_t^s)\,q(w_t^s)},

and then, to leave sample n out, by :math:`1 / p(y_{tn} \mid w_t^s)`. Lenders, encoder and noise are
held fixed, as they were fitted to all samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inference.noise import fixed_noise
from pyro_vmtl.inspection.arviz_adapter import pareto_smoothed
from pyro_vmtl.inspection.draws import borrowing_of
from pyro_vmtl.inspection.latent_draws import posterior_draws
from pyro_vmtl.inspection.leave_one_out import can_leave_out, leave_one_out
from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.model.architectures import takes_no_gradient

__all__ = ["PARETO_THRESHOLD", "compare"]

PARETO_THRESHOLD = 0.7
"""Pareto's k above which importance weights are not to be trusted (Vehtari et al. 2024)."""

_Array = npt.NDArray[Any]


def compare(
    fits: Mapping[str, FittedVMTL],
    heldout: TaskSet,
    train: TaskSet | None = None,
    num_samples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank fits of the same tasks by how well they predict samples that they did not see.

    Example::

        fits = {"standard": fit(train, settings=Settings(pool=Standard())),
                "nested": fit(train, settings=Settings(pool=Nested()))}
        table = compare(fits, heldout, train)
        table[table["task"] == "all tasks"]

    A row per fit and task, the best fit first, and of each fit the row ``all tasks`` first:

    - ``rank``: by ``log_density`` of all tasks, 1 is the best; ``fit``, ``task``;
    - ``samples``: labelled held-out samples; ``log_density``: the sum of their log predictive
      densities, in nats; ``per_sample``: its mean;
    - ``difference``: ``log_density`` minus that of the best fit on the same samples; ``se``: its
      standard error, from the scatter of the pointwise differences, NaN for fewer than two samples;
    - ``within_noise``: whether the difference is within two standard errors of 0: data do not
      say which of the two predicts better. The error is that of drawing held-out samples for these
      tasks and these fits; other training data would move the fits as well;
    - with ``train``: ``loo``, the sum of leave-one-out log densities of the training samples of a
      task (of all tasks: the sum, if every task has one), ``loo_samples``, ``pareto_k`` of the
      correction for the posterior q alone (of all tasks: the largest), ``pareto_k_samples``, the
      largest k when a sample is left out, and ``loo_unavailable``, the reason where ``loo`` is NaN.

    Under the pool Nested, where the encoder takes no gradient, LOO takes
    each sample out by itself (:func:`pyro_vmtl.inspection.leave_one_out`), and partition and scales
    are weighed as if they had not seen it. An encoder that was trained has seen all samples: such
    fits are compared on held-out data.

    Elsewhere LOO is available where both k are at most :data:`PARETO_THRESHOLD`: else draws of q do
    not reach where the exact posterior lies, and the held-out density is what there is. A posterior
    fitted with KL weights below 1 is narrower than the exact one, so expect none there. Nor is it
    available where tasks lend each other posteriors that carry their own data (``mean_field``
    weights): a sample left out of the likelihood would still speak through the prior. It holds
    fixed what was learned from all samples together (the encoder, noise scales, relatedness), and
    is a little optimistic for that.

    :param fits: by name.
    :param heldout: labelled samples that played no part in any fit. Ranked on test data, the best
        one's score is no longer that of a model chosen beforehand: choose on validation data.
    :param train: the training samples, for PSIS-LOO; None leaves it out.
    :param num_samples: posterior draws.
    :param seed: of the draws.
    :raises InputError: for no fit, no labelled held-out sample, or fits of other tasks.
    """
    if not isinstance(fits, Mapping):
        raise InputError(
            f"fits is a {type(fits).__name__}; expected a dictionary {{name: fitted model}}"
        )
    if not fits:
        raise InputError("fits is empty; expected at least one fit to compare")
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; expected at least 1")
    labelled = heldout.labelled.cpu().numpy()
    if not labelled.any():
        raise InputError("the held-out set has no labelled sample; expected some to score")
    densities = {
        name: fitted.predict(heldout, num_samples, seed=seed)
        .log_density.double()
        .cpu()
        .numpy()[labelled]
        for name, fitted in fits.items()
    }
    task = heldout.task.cpu().numpy()[labelled]
    order = sorted(fits, key=lambda name: -densities[name].sum())
    best = densities[order[0]]
    rows = []
    for rank, name in enumerate(order, 1):
        start = {"rank": rank, "fit": name}
        parts = [(ALL_TASKS, np.full(len(task), True))]
        parts += [(of, task == t) for t, of in enumerate(heldout.names)]
        scores = [
            start | {"task": of} | _score(densities[name][chosen], best[chosen])
            for of, chosen in parts
        ]
        if train is not None:
            loos = _leave_one_out(fits[name], train, num_samples, seed)
            for row, loo in zip(scores, [_of_all(loos), *loos], strict=True):
                row |= loo.columns()
        rows += scores
    return pd.DataFrame(rows)


def _score(density: _Array, best: _Array) -> dict[str, Any]:
    """The columns of one fit on some held-out samples."""
    difference = density - best
    count = len(density)
    total = float(difference.sum())
    error = float(difference.std(ddof=1) * np.sqrt(count)) if count > 1 else np.nan
    return {
        "samples": count,
        "log_density": float(density.sum()),
        "per_sample": float(density.mean()) if count else np.nan,
        "difference": total,
        "se": error,
        "within_noise": bool(abs(total) <= 2 * error),
    }


@dataclass(frozen=True)
class _LOO:
    """Leave-one-out density of one task's training samples, or the reason why there is none."""

    density: float
    samples: int
    k: float = np.nan
    k_samples: float = np.nan
    reason: str = ""

    def columns(self) -> dict[str, Any]:
        return {
            "loo": self.density,
            "loo_samples": self.samples,
            "pareto_k": self.k,
            "pareto_k_samples": self.k_samples,
            "loo_unavailable": self.reason,
        }


def _of_all(loos: list[_LOO]) -> _LOO:
    reasons = [loo.reason for loo in loos if loo.reason]
    reason = ""
    if reasons:
        whose = "one of them: " if len(reasons) > 1 else ""
        reason = f"not available for {len(reasons)} of {len(loos)} tasks ({whose}{reasons[0]})"
    if len(reasons) == len(loos) and len(set(reasons)) == 1:
        reason = reasons[0]
    density = sum(loo.density for loo in loos)  # NaN, if one of them is
    k = max((loo.k for loo in loos if not np.isnan(loo.k)), default=np.nan)
    worst = max((loo.k_samples for loo in loos if not np.isnan(loo.k_samples)), default=np.nan)
    return _LOO(density, sum(loo.samples for loo in loos), k, worst, reason)


@torch.no_grad()
def _leave_one_out(fitted: FittedVMTL, train: TaskSet, num_samples: int, seed: int) -> list[_LOO]:
    """PSIS-LOO of every task."""
    if train.names != fitted.names:
        raise InputError(
            f"the training set has the tasks {list(train.names)}; the model was trained on "
            f"{list(fitted.names)}"
        )
    vmtl = fitted.vmtl
    labelled, task = train.labelled.cpu().numpy(), train.task.cpu().numpy()
    reason = ""
    if vmtl.classifier.is_point:
        reason = "the weights are point estimates, of which there are no draws"
    elif vmtl.classifier.is_conjugate and not takes_no_gradient(fitted.settings.encoder):
        reason = "the encoder was trained on every sample and stays as it is"
    elif "weights" in vmtl.borrowing and not vmtl.classifier.is_conjugate:
        reason = "tasks lend each other their posteriors: the prior contains the task's data"
    if reason:
        return [
            _LOO(np.nan, int((labelled & (task == t)).sum()), reason=reason)
            for t in range(train.num_tasks)
        ]
    if can_leave_out(vmtl):
        left = leave_one_out(vmtl, train)
        chosen = [labelled & (task == t) for t in range(train.num_tasks)]
        return [
            _LOO(float(left.log_density[own].sum()), int(own.sum()), k_samples=left.k[own].max())
            if own.any()
            else _LOO(np.nan, 0, reason="no labelled training sample")
            for own in chosen
        ]
    device = vmtl.device
    draws = posterior_draws(vmtl, train, num_samples, keep=("weights",), seed=seed)
    assert draws.weights is not None
    weights = torch.from_numpy(draws.weights).to(device).unsqueeze(-3)
    posterior = -vmtl.classifier().log_prob(weights).double()
    relatedness = None
    if "weights" in vmtl.borrowing:
        borrowing = borrowing_of(vmtl, "weights")
        law = borrowing.relatedness_posterior()
        with fixed_noise(seed, device):
            relatedness = law.sample(torch.Size([num_samples]))
        if not borrowing.empirical_bayes:  # there model and guide have one and the same law
            prior = borrowing.relatedness_prior()
            posterior = posterior + prior.log_prob(relatedness) - law.log_prob(relatedness)
    correction = posterior + vmtl.weights_prior(relatedness).log_prob(weights)
    log_ratios = correction.squeeze(-1).cpu().numpy()  # [S, T]
    results = []
    for t in range(train.num_tasks):
        own = draws.log_likelihood[:, labelled & (task == t)].astype(np.float64).T
        results.append(_of_task(log_ratios[:, t], own, vmtl.tempering["weights"]))
    return results


def _of_task(correction: _Array, log_likelihood: _Array, kl_weight: float) -> _LOO:
    """PSIS-LOO of one task.

    :param correction: log of prior over posterior at the draws, ``[S]``.
    :param log_likelihood: ``[n, S]``.
    :param kl_weight: with which the posterior was fitted.
    """
    count = len(log_likelihood)
    if not count:
        return _LOO(np.nan, 0, reason="no labelled training sample")
    ratios = correction + log_likelihood.sum(0)
    if not np.isfinite(ratios).all() or not np.isfinite(log_likelihood).all():
        return _LOO(np.nan, count, reason="a draw has no finite density")
    (k,) = pareto_smoothed(ratios[None])[1]
    if k > PARETO_THRESHOLD:
        reason = f"Pareto k of the posterior is {k:.2f}, above {PARETO_THRESHOLD}"
        if kl_weight < 1:
            reason += f" (it was fitted with a KL weight of {kl_weight:g})"
        return _LOO(np.nan, count, float(k), reason=reason)
    log_weights, ks = pareto_smoothed(ratios - log_likelihood)
    worst = float(ks.max())
    if worst > PARETO_THRESHOLD:
        many = int((ks > PARETO_THRESHOLD).sum())
        reason = (
            f"Pareto k without a sample is up to {worst:.2f}, above {PARETO_THRESHOLD} at {many}"
        )
        return _LOO(np.nan, count, float(k), worst, reason)
    density = np.logaddexp.reduce(log_weights + log_likelihood, axis=-1).sum()
    return _LOO(float(density), count, float(k), worst)
