"""Which rows of a task help, or mislead, another, without a new fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL
from pyro_vmtl.inference.cavities import factors, left_out, over_outputs
from pyro_vmtl.inspection.arviz_adapter import pareto_smoothed
from pyro_vmtl.inspection.closed_form import check_closed_form
from pyro_vmtl.model.priors.conditionals import across

__all__ = ["row_influence"]

_LEAST_LEFT = 1e-6  # of a row's precision, where all that is known of its eta is the row itself


@torch.no_grad()
def row_influence(
    fitted: FittedVMTL,
    train: TaskSet,
    lender: str,
    borrower: str,
    heldout: TaskSet | None = None,
) -> pd.DataFrame:
    """What each row of one task does for the densities of another, or of its own task's other rows.

    A row has entered the posterior as a factor of its linear predictor. Given a draw of partition
    and scales this predictor and those of the borrower are jointly Gaussian, so that the factor
    is taken out in closed form; the draws, the factors of all other rows and the encoder stay as
    they are. In a regression this is exact given the draws.

    Example::

        rows = pv.row_influence(fitted, splits.train, lender="task 3", borrower="task 0")
        rows.sort_values("gain").head()  # those that mislead task 0 the most

    :param fitted: a model with the pool Nested whose encoder is a function of the inputs; one that
        was trained is held fixed and needs ``heldout``.
    :param train: what it was trained on.
    :param lender: the task of the rows; ``borrower``: of the densities. They may be the same.
    :param heldout: labelled samples of the same tasks; None, the borrower's training samples, each
        predicted from all others.
    :return: a row for each labelled row of the lender: ``sample``, its row in ``train``; ``gain``,
        the mean over the borrower's samples of their log density with the row less without it, in
        nats; ``se``, the standard error of the paired differences.
    :raises InputError: for another model or other tasks.
    """
    weights = check_closed_form("influences of rows", fitted, train, heldout, may_learn=True)
    for name in (lender, borrower):
        if name not in fitted.names:
            raise InputError(f"there is no task {name!r}; expected one of {list(fitted.names)}")
    vmtl, likelihood, device = fitted.vmtl, fitted.vmtl.likelihood, fitted.vmtl.device
    j, t = fitted.names.index(lender), fitted.names.index(borrower)
    batch = train.dense().to(device)
    told = factors(vmtl, batch)
    scored_batch = batch if heldout is None else heldout.dense().to(device)
    scored = told if heldout is None else factors(vmtl, scored_batch)
    rows, samples = batch.mask[j], scored_batch.mask[t]
    phi, psi, targets = told.features[j, rows], scored.features[t, samples], scored.targets[t]
    targets = targets[samples].expand(len(phi), *targets[samples].shape)
    draws, moments = weights.draws, weights.by_draw()
    between = across(weights.evidence, weights.prior, draws, j, t)  # [S, K, q, q]
    before, after = [], []
    for s, noise in enumerate(draws.noise):
        mean, variance = weights.predictor(phi, moments.loc[s, j], moments.covariance[s, j])
        loc, spread = weights.predictor(psi, moments.loc[s, t], moments.covariance[s, t])
        shared = torch.einsum("iq,kqp,np->ink", phi, between[s], psi)  # [I, N, K]
        shift = told.shift[j, rows] / noise[j]
        precision = told.precision[j, rows] / noise[j]
        left = (1 - precision * variance).clamp_min(_LEAST_LEFT)
        moved = loc - shared * ((shift - precision * mean) / left).unsqueeze(1)
        widened = spread + shared.square() * (precision / left).unsqueeze(1)
        own = torch.zeros_like(loc), torch.zeros_like(loc)
        if heldout is None:
            own = scored.shift[t, samples] / noise[t], scored.precision[t, samples] / noise[t]
        pair = []
        for where, width in ((loc[None], spread[None]), (moved, widened)):
            site = tuple(part.expand_as(where) for part in own)
            width = width.clamp_min(1e-12)
            if heldout is None:
                where, width = left_out(where, width, *site)
            of_noise = noise[t].expand(len(where), 1, -1)
            density = likelihood.log_predictive(
                where, width, targets[: len(where)], of_noise, (site[0], site[1])
            )
            pair.append(over_outputs(density, scored_batch.observed[t, samples]))
        before.append(pair[0][0])
        after.append(pair[1])
    difference = _difference(torch.stack(before), torch.stack(after), heldout is None)
    if j == t and heldout is None:
        difference.diagonal().fill_(torch.nan)  # a row that is left out does not help itself
    known = difference.cpu().numpy()
    count = (~np.isnan(known)).sum(1)
    spread_of = np.nanstd(known, axis=1, ddof=1) if known.shape[1] > 2 else np.nan
    return pd.DataFrame(
        {
            "sample": batch.index[j, rows].cpu().numpy(),
            "gain": np.nanmean(known, axis=1),
            "se": spread_of / np.sqrt(count),
        }
    )


def _difference(before: Tensor, after: Tensor, left_out: bool) -> Tensor:
    """Log densities over all draws, with a row less without it, ``[I, N]``.

    :param before: by draw, ``[S, N]``; ``after``: ``[S, I, N]``.
    :param left_out: whether draws have seen the samples and are weighed by one over their density.
    """
    log_weights = torch.full_like(before, -np.log(len(before)))
    if left_out:
        smoothed, _ = pareto_smoothed(-before.T.cpu().numpy())
        log_weights = torch.from_numpy(smoothed.T.copy()).to(before)
    with_row = (log_weights + before).logsumexp(0)
    return with_row - (log_weights.unsqueeze(1) + after).logsumexp(0)
