"""What lenders and rows do for others, against dense Gaussians and against fits without them."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import roc_auc_score

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSet, clusters
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.cavities import factors
from pyro_vmtl.inspection import influence_doubts, influence_matrix, leave_one_out
from pyro_vmtl.model import NestedWeights, with_bias
from pyro_vmtl.model.priors import nested
from pyro_vmtl.model.priors.conditionals import across, averaged
from pyro_vmtl.model.priors.gibbs import State, mean_variance, spread
from pyro_vmtl.model.priors.subsets import typical

FIELDS = tuple(State.__dataclass_fields__)


@pytest.fixture(scope="module", params=["regression", "binary"])
def fitted_tasks(request: pytest.FixtureRequest) -> tuple[pv.FittedVMTL, TaskSet, TaskSet]:
    """Six tasks in two clusters, and few draws of partition and scales."""
    splits = clusters(6, 2, 25, dimensions=4, kind=request.param, test_samples=30, seed=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nested, "_ROUND", 10)
        patch.setattr(nested, "_ROUNDS", 1)
        fitted = pv.fit(splits.train, log_warnings=False)
    weights = weights_of(fitted)
    for name in FIELDS:
        setattr(weights, f"draw_{name}", getattr(weights, f"draw_{name}")[::20].clone())
    weights.loc, weights.covariance = averaged(weights.by_draw())
    return fitted, splits.train, splits.test


def weights_of(fitted: pv.FittedVMTL) -> NestedWeights:
    weights = fitted.vmtl.classifier
    assert isinstance(weights, NestedWeights)
    return weights


def is_regression(tasks: TaskSet) -> bool:
    return not tasks.is_classification


def refitted(fitted: pv.FittedVMTL, train: TaskSet, gone: torch.Tensor) -> pv.FittedVMTL:
    """The fit without some rows, partition and scales given: sites are found anew."""
    vmtl = copy.deepcopy(fitted.vmtl)
    weights = weights_of(replace(fitted, vmtl=vmtl))
    batch = train.dense()
    stays = torch.zeros(len(train)).index_fill(0, gone, 1.0)[batch.index] == 0
    mask = (batch.mask & stays).double().unsqueeze(-1)
    for _ in range(15):
        phi, _, shift, precision = factors(vmtl, batch)
        weights.precision.lerp_(torch.einsum("tbk,tbi,tbj->tkij", mask * precision, phi, phi), 0.7)
        weights.shift.lerp_((mask * shift).mT @ phi, 0.7)
        weights.loc, weights.covariance = averaged(weights.by_draw())
    return replace(fitted, vmtl=vmtl)


def dense_pair(
    fitted: pv.FittedVMTL, train: TaskSet, row: int, lender: int | None
) -> tuple[float, float]:
    """Mean and variance of eta of a row given all others, under one dense Gaussian of two tasks."""
    weights = weights_of(fitted)
    state, prior = typical(weights.draws), weights.prior
    base = (mean_variance(prior, state) + state.cluster)[0, 0]
    own = spread(state.deviation, prior.groups)[0]
    x = fitted.vmtl.encoder(train.x[None]).mean[0].double()
    phi = with_bias(x, weights.event_shape[-1])
    y = fitted.vmtl.likelihood.standardised(train.y.unsqueeze(0))[0, :, 0]
    task = int(train.task[row])
    rows = (train.task == task) | (train.task == (task if lender is None else lender))
    rows[row] = False
    seen = torch.cat([rows.nonzero()[:, 0], torch.tensor([row])])
    same = train.task[seen, None] == train.task[seen]
    kernel = (phi[seen] * base) @ phi[seen].T + same * ((phi[seen] * own) @ phi[seen].T)
    noise = state.noise[0, train.task[seen], 0]
    known = kernel[:-1, :-1] + noise[:-1].diag()
    gain = torch.linalg.solve(known, kernel[:-1, -1])
    return float(gain @ y[seen[:-1]]), float(kernel[-1, -1] - gain @ kernel[:-1, -1] + noise[-1])


def test_a_pair_is_one_dense_gaussian(
    fitted_tasks: tuple[pv.FittedVMTL, TaskSet, TaskSet],
) -> None:
    fitted, train, _ = fitted_tasks
    if not is_regression(train):
        pytest.skip("targets are Gaussian in the regression alone")
    gains = influence_matrix(pv.influence(fitted, train, kinds=["alone"]))
    scale = fitted.vmtl.likelihood.standardised(train.y.unsqueeze(0))[0, :, 0]
    for borrower, lender in ((0, 2), (3, 4)):
        away = []
        for row in (train.task == borrower).nonzero()[:, 0].tolist():
            logs = [
                torch.distributions.Normal(mean, variance**0.5).log_prob(scale[row])
                for mean, variance in (
                    dense_pair(fitted, train, row, lender),
                    dense_pair(fitted, train, row, None),
                )
            ]
            away.append(float(logs[0] - logs[1]))
        assert gains.iloc[borrower, lender] == pytest.approx(np.mean(away), abs=1e-6)


def test_pairs_read_nothing_of_the_partition(
    fitted_tasks: tuple[pv.FittedVMTL, TaskSet, TaskSet],
) -> None:
    fitted, train, _ = fitted_tasks
    before = pv.influence(fitted, train, kinds=["alone"])
    other = replace(fitted, vmtl=copy.deepcopy(fitted.vmtl))
    weights = weights_of(other)
    weights.draw_labels = torch.zeros_like(weights.draws.labels)
    weights.loc, weights.covariance = averaged(weights.by_draw())
    again = pv.influence(other, train, kinds=["alone"])
    pd.testing.assert_frame_equal(before, again, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["left out", "held out"])
def test_a_lender_taken_out_is_a_fit_without_it(
    fitted_tasks: tuple[pv.FittedVMTL, TaskSet, TaskSet], where: str
) -> None:
    fitted, train, test = fitted_tasks
    heldout = None if where == "left out" else test
    found = influence_matrix(
        pv.influence(fitted, train, heldout, kinds=["without"]), "without"
    ).to_numpy()

    def densities(model: pv.FittedVMTL) -> np.ndarray:
        if heldout is not None:
            return model.predict(heldout, seed=0).log_density.double().numpy()
        return leave_one_out(model.vmtl, train).log_density

    whole = densities(refitted(fitted, train, torch.tensor([], dtype=torch.int64)))
    task = (train if heldout is None else heldout).task.numpy()
    expected = np.full_like(found, np.nan)
    for j in range(6):
        gone = (train.task == j).nonzero()[:, 0]
        away = whole - densities(refitted(fitted, train, gone))
        for t in set(range(6)) - {j}:
            expected[t, j] = away[task == t].mean()
    off = ~np.eye(6, dtype=bool)
    assert pearsonr(found[off], expected[off]).statistic > 0.99


@pytest.mark.parametrize(("lender", "borrower"), [(2, 0), (3, 3)])
def test_rows_taken_out_are_fits_without_them(
    fitted_tasks: tuple[pv.FittedVMTL, TaskSet, TaskSet], lender: int, borrower: int
) -> None:
    fitted, train, test = fitted_tasks
    names = fitted.names
    for heldout in (None, test):
        found = pv.row_influence(fitted, train, names[lender], names[borrower], heldout)
        assert found["sample"].tolist() == (train.task == lender).nonzero()[:, 0].tolist()
        expected = []
        scored = train if heldout is None else heldout
        for row in found["sample"].iloc[:8]:
            other = refitted(fitted, train, torch.tensor([row]))
            if heldout is None:
                pair = [leave_one_out(model.vmtl, train).log_density for model in (fitted, other)]
            else:
                pair = [model.predict(test).log_density.numpy() for model in (fitted, other)]
            away = (pair[0] - pair[1])[(scored.task == borrower).numpy()]
            if heldout is None and lender == borrower:
                away = np.delete(away, int(row) - int(found["sample"].iloc[0]))
            expected.append(away.mean())
        assert spearmanr(found["gain"].iloc[:8], expected).statistic > 0.9


def test_tasks_covary_as_in_one_dense_gaussian(
    fitted_tasks: tuple[pv.FittedVMTL, TaskSet, TaskSet],
) -> None:
    """Moving a task's evidence moves another's mean by their covariance."""
    fitted, _, _ = fitted_tasks
    weights = copy.deepcopy(weights_of(fitted))
    before = weights.by_draw().loc
    for task, other in ((0, 2), (0, 1), (4, 4)):
        between = across(weights.evidence, weights.prior, weights.draws, task, other)
        push = torch.linspace(-1, 1, before.shape[-1]).double()
        moved = copy.deepcopy(weights)
        moved.shift[other] += push * weights.draws.noise[0, other, 0]
        away = (moved.by_draw().loc - before)[0, task, 0]
        torch.testing.assert_close(away, between[0, 0] @ push)


def test_known_relatives_gain_and_a_liar_costs() -> None:
    """Of four tasks that are thought to be one and the same, one has all labels flipped."""
    splits = clusters(4, 1, 40, dimensions=5, spread=0.1, seed=1)
    y = torch.where(splits.train.task == 3, 1 - splits.train.y, splits.train.y)
    train = replace(splits.train, y=y)
    pool = pv.Nested(known=[0, 0, 0, 0], deviation="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nested, "_ROUND", 10)
        patch.setattr(nested, "_ROUNDS", 1)
        fitted = pv.fit(train, settings=pv.Settings(pool=pool), log_warnings=False)
    table = pv.influence(fitted, train)
    assert len(table) == 2 * 4 * 3
    np.testing.assert_allclose(table["high"] - table["gain"], 2 * table["se"])
    for kind in ("alone", "without"):
        matrix = influence_matrix(table, kind)
        assert (matrix.iloc[:3, 3] < 0).all()
        assert np.nanmean(matrix.iloc[:3, :3]) > 0


def test_a_relative_is_missed_more_than_a_stranger() -> None:
    """Of pairs, each task has one relative, for whom no other task stands in."""
    train = clusters(num_tasks=8, num_clusters=4, samples=60, seed=0).train
    assert train.truth is not None
    fitted = pv.fit(train, log_warnings=False)
    gain = influence_matrix(pv.influence(fitted, train, kinds=["without"]), "without").to_numpy()
    code = train.truth.numpy()
    others = ~np.eye(8, dtype=bool)
    akin = code[:, None] == code
    assert roc_auc_score(akin[others], gain[others]) > 0.8


def test_gains_are_not_computed_twice(
    fitted_tasks: tuple[pv.FittedVMTL, TaskSet, TaskSet],
) -> None:
    fitted, train, _ = fitted_tasks
    table = pv.influence(fitted, train, kinds=["without"])
    gained = table.rename(columns={"borrower": "task", "lender": "other"})
    gained = gained.assign(against="without a task")[::-1]
    gained = pd.concat([gained, gained.assign(task="all tasks")])
    names = [*fitted.names, "all tasks"]
    gained["task"] = pd.Categorical(gained["task"], names)
    gained = gained.sort_values("task").astype({"task": str})
    again = pv.influence(fitted, train, kinds=["without"], gained=gained)
    pd.testing.assert_frame_equal(table, again)


def test_sets_of_two_are_pairs(fitted_tasks: tuple[pv.FittedVMTL, TaskSet, TaskSet]) -> None:
    fitted, train, test = fitted_tasks
    one, two, three = fitted.names[:3]
    for heldout in (None, test):
        table = pv.influence(fitted, train, heldout, kinds=["alone"])
        gains = influence_matrix(table)
        found = pv.set_gains(fitted, train, [(one,), (two, one), (one, two, three)], heldout)
        assert found["gain"][0] == pytest.approx(0, abs=1e-12)
        pair = gains.loc[one, two] + gains.loc[two, one]
        assert found["gain"][1] == pytest.approx(pair, abs=1e-9)
        assert np.isfinite(found["gain"][2])


def test_doubts_name_who_costs_and_where_gains_disagree() -> None:
    columns = ["kind", "borrower", "lender", "gain", "se", "low", "high"]
    rows = [
        ("without", "a", "b", -0.05, 0.01, -0.07, -0.03),
        ("without", "b", "a", 0.05, 0.01, 0.03, 0.07),
        ("alone", "a", "b", -0.2, 0.02, 0, 0),
        ("alone", "b", "a", -0.1, 0.02, 0, 0),
        ("alone", "a", "c", 0.1, 0.02, 0, 0),
        ("alone", "c", "a", 0.1, 0.02, 0, 0),
        ("alone", "b", "c", 0.1, 0.2, 0, 0),
        ("alone", "c", "b", 0.1, 0.2, 0, 0),
    ]
    chances = [("a", "b", 0.9), ("a", "c", 0.1), ("b", "c", 0.1)]
    relatedness = pd.DataFrame(
        [("weights", *pair) for pair in chances],
        columns=["site", "task", "other", "probability"],
    )
    costs, together, apart = influence_doubts(pd.DataFrame(rows, columns=columns), relatedness)
    assert "a to b (-0.050 ± 0.010)" in costs
    assert "1 of 2 gains" in costs
    assert "a and b (-0.150 ± 0.014)" in together
    assert "a and c (+0.100 ± 0.014)" in apart
    assert "b and c" not in apart


def test_what_they_need(fitted_tasks: tuple[pv.FittedVMTL, TaskSet, TaskSet]) -> None:
    fitted, train, _ = fitted_tasks
    trained = replace(fitted, settings=pv.Settings(encoder=pv.MLP()))
    with pytest.raises(InputError, match="influences cannot be scored by leaving them out"):
        pv.influence(trained, train)
    with pytest.raises(InputError, match="the training set has the tasks"):
        pv.influence(fitted, train.select(list(train.names[:2])))
    with pytest.raises(InputError, match="a kind is 'both'"):
        pv.influence(fitted, train, kinds=["both"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="there is no task 'north'"):
        pv.row_influence(fitted, train, "north", train.names[0])
    with pytest.raises(InputError, match="there is no task 'north'"):
        pv.set_gains(fitted, train, [("north",)])
    with pytest.raises(InputError, match="different tasks"):
        pv.set_gains(fitted, train, [(train.names[0], train.names[0])])
