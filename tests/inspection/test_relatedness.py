"""The relatedness table says what the guide says, by name."""

import copy
import dataclasses
import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from pyro_vmtl.data import TaskSplits
from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inspection.draws import borrowing_of, relatedness_draws, responsibility_draws
from pyro_vmtl.inspection.relatedness import (
    COLUMNS,
    chance_level,
    highest_density_interval,
    independence,
    kind_of,
    partitions,
    rank_correlations,
    related_pairs,
    relatedness,
    relatedness_auc,
    relatedness_matrix,
    relatedness_roc,
    relatedness_stability,
    true_clusters,
)
from pyro_vmtl.model import NestedWeights, PooledWeights

MakeFit = Callable[..., tuple[FittedVMTL, TaskSplits]]
MakeTable = Callable[..., pd.DataFrame]


def table_of(
    matrix: list[list[float]], base: list[float] | None = None, kind: str = "weights"
) -> pd.DataFrame:
    names = ["a", "b", "c", "d", "e"][: len(matrix)]
    rows = [
        (task, other, matrix[t][i])
        for t, task in enumerate(names)
        for i, other in enumerate(names)
        if i != t
    ]
    rows += [(task, "base", value) for task, value in zip(names, base or [], strict=False)]
    table = pd.DataFrame(rows, columns=["task", "other", "probability"])
    table["site"] = "weights"
    table["kind"] = kind
    table["draws_of"] = "posterior"
    for name in COLUMNS:
        if name not in table.columns:
            table[name] = table["probability"]
    return table[list(COLUMNS)]


@pytest.mark.parametrize("settings", ["mixture", "paper", "power", "nested", "geometric", "layers"])
def test_every_pair_of_every_site_has_one_row(make_fit: MakeFit, settings: str) -> None:
    fitted, _ = make_fit(settings)
    table = relatedness(fitted, num_samples=20)
    assert tuple(table.columns) == COLUMNS
    assert not table.duplicated(["site", "task", "other"]).any()
    assert (table["task"] != table["other"]).all()
    assert list(table["site"].unique()) == list(fitted.vmtl.borrowing)
    for site, rows in table.groupby("site"):
        pool = fitted.vmtl.pool if site == "weights" else fitted.vmtl.representation_pool
        others = set(fitted.names) | ({"base"} if pool.base else set())
        for task, of_task in rows.groupby("task"):
            assert set(of_task["other"]) == others - {task}


@pytest.mark.parametrize("settings", ["mixture", "paper", "geometric", "layers"])
def test_weights_and_responsibilities_sum_to_one(make_fit: MakeFit, settings: str) -> None:
    fitted, _ = make_fit(settings)
    table = relatedness(fitted, num_samples=30)
    table = table[table["kind"] == "weights"]
    sums = table.groupby(["site", "task"])[["mean", "probability", "responsibility"]].sum()
    np.testing.assert_allclose(sums[["mean", "probability"]], 1, atol=1e-9)
    mixes = settings != "geometric"
    assert table["responsibility"].notna().all() == mixes
    if mixes:
        np.testing.assert_allclose(sums["responsibility"], 1, atol=1e-9)
    low_to_high = table[["hdi_low", "mean", "hdi_high"]].to_numpy()
    assert (low_to_high >= 0).all()
    assert (low_to_high <= 1).all()


@pytest.mark.parametrize(("settings", "kind"), [("power", "gates"), ("nested", "clusters")])
def test_gates_and_clusters_are_chances_of_their_own_without_responsibilities(
    make_fit: MakeFit, settings: str, kind: str
) -> None:
    fitted, _ = make_fit(settings)
    table = relatedness(fitted, num_samples=20)
    assert (table["kind"] == kind).all()
    assert (table["before_data"] == borrowing_of(fitted.vmtl, "weights").chance_before_data()).all()
    assert table["probability"].between(0, 1).all()
    assert table["responsibility"].isna().all()


@pytest.mark.parametrize("settings", ["standard", "mixture"])
def test_nothing_borrowed_is_an_empty_table(make_fit: MakeFit, settings: str) -> None:
    fitted, _ = make_fit(settings, num_tasks=1 if settings == "mixture" else 3)
    table = relatedness(fitted)
    assert tuple(table.columns) == COLUMNS
    assert table.empty
    assert independence(table).empty


def test_a_single_lender_has_all_the_weight(make_fit: MakeFit) -> None:
    fitted, _ = make_fit("paper", num_tasks=2)
    table = relatedness(fitted, num_samples=5)
    assert list(table["other"]) == ["task 1", "task 0"]
    assert (table["mean"] == 1).all()
    assert (table["probability"] == 1).all()


@pytest.mark.parametrize("settings", ["mixture", "power", "paper"])
def test_each_name_gets_the_logit_of_its_lender(make_fit: MakeFit, settings: str) -> None:
    fitted, _ = make_fit(settings)
    borrowing = borrowing_of(fitted.vmtl, "weights")
    before = borrowing.logits.detach().clone()
    generator = torch.Generator().manual_seed(1)
    borrowing.logits.data = torch.randn(before.shape, generator=generator)
    try:
        matrix = relatedness_matrix(relatedness(fitted, num_samples=2))
        for t, task in enumerate(fitted.names):
            # A lender's component is its task's number, or after the base at 0 one more.
            lenders = borrowing.lender_of_slot[t].tolist()
            logits = borrowing.logits[t].double()
            chances = logits.sigmoid() if settings == "power" else logits.softmax(-1)
            for slot, component in enumerate(lenders):
                if fitted.vmtl.pool.base:
                    other = "base" if component == 0 else fitted.names[component - 1]
                else:
                    other = fitted.names[component]
                assert matrix.loc[task, other] == pytest.approx(chances[slot].item())
        assert np.isnan(np.diag(matrix)).all()
    finally:
        borrowing.logits.data = before


def test_statistics_are_those_of_the_draws(make_fit: MakeFit) -> None:
    fitted, _ = make_fit("mixture")
    draws = relatedness_draws(fitted.vmtl, "weights", 50, seed=3)
    table = relatedness(fitted, num_samples=50, seed=3)
    for value, expected in {"mean": draws.mean(0), "sd": draws.std(0)}.items():
        matrix = relatedness_matrix(table, value=value)  # type: ignore[arg-type]
        np.testing.assert_allclose(matrix, expected)


def test_responsibilities_are_weights_times_the_exponential_of_minus_kl(
    make_fit: MakeFit,
) -> None:
    """The lenders are what the others' own data said."""
    fitted, _ = make_fit("mixture")
    vmtl = fitted.vmtl
    alpha = relatedness_draws(vmtl, "weights", 3, seed=5)
    measured = responsibility_draws(vmtl, "weights", 3, seed=5)
    assert measured is not None
    with torch.no_grad():
        q = vmtl.classifier.gaussians()
        assert isinstance(vmtl.classifier, PooledWeights)
        lent, unit = vmtl.classifier.lent(), vmtl.classifier.unit  # in units of the prior's scale
        q = Gaussians(q.loc / unit, q.scale / unit)
        spread = borrowing_of(vmtl, "weights").spread
        assert spread is not None
        for t in range(vmtl.num_tasks):
            logs = []
            for i in [i for i in range(vmtl.num_tasks) if i != t]:
                scale = (lent.scale[i].double() ** 2 + spread.double() ** 2).sqrt().squeeze(0)
                lender = Normal(lent.loc[i].double(), scale)
                kl = kl_divergence(Normal(q.loc[t].double(), q.scale[t].double()), lender).sum()
                logs.append(np.log(alpha[:, t, i]) - kl.item())
            base = Normal(torch.zeros_like(q.loc[t]).double(), torch.ones_like(q.loc[t]).double())
            kl = kl_divergence(Normal(q.loc[t].double(), q.scale[t].double()), base).sum()
            logs.append(np.log(alpha[:, t, -1]) - kl.item())
            expected = torch.tensor(np.array(logs)).softmax(0).numpy()
            found = np.delete(measured[:, t], t, axis=1).T
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_shared_logits_are_labelled_as_relaxation_noise(make_fit: MakeFit) -> None:
    kinds = {"paper": "relaxation", "mixture": "posterior", "nested": "posterior"}
    for settings, expected in kinds.items():
        assert set(relatedness(make_fit(settings)[0], 2)["draws_of"]) == {expected}


def test_the_same_seed_gives_the_same_table_and_leaves_the_noise_alone(
    make_fit: MakeFit,
) -> None:
    fitted, _ = make_fit("mixture")
    state = torch.get_rng_state()
    first = relatedness(fitted, num_samples=20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    pd.testing.assert_frame_equal(first, relatedness(fitted, num_samples=20, seed=1))
    assert not first["mean"].equals(relatedness(fitted, num_samples=20, seed=2)["mean"])


@pytest.mark.parametrize("arguments", [{"num_samples": 0}, {"hdi_prob": 1.0}, {"hdi_prob": 0.0}])
def test_numbers_out_of_range_are_refused(make_fit: MakeFit, arguments: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments))):
        relatedness(make_fit("mixture")[0], **arguments)  # type: ignore[arg-type]


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=25),
    st.floats(0.05, 0.95),
)
def test_the_interval_is_the_narrowest_that_holds_the_share(
    values: list[float], prob: float
) -> None:
    draws = np.array(values)
    low, high = highest_density_interval(draws[:, None], prob)
    inside = ((draws >= low) & (draws <= high)).sum()
    assert inside >= prob * len(draws) - 1e-9
    steps = int(prob * len(draws))
    ordered = np.sort(draws)
    pairs = [ordered[i + steps] - ordered[i] for i in range(len(draws) - steps)]
    assert (high - low).item() == pytest.approx(min(pairs))


def test_independence_is_the_base_or_what_the_largest_gate_leaves() -> None:
    weights = table_of([[0, 0.7], [0.4, 0]], base=[0.3, 0.6])
    assert independence(weights).to_dict() == {"a": 0.3, "b": 0.6}
    gates = table_of([[0, 0.7, 0.2], [0.4, 0, 0.9], [0.1, 0.2, 0]], kind="gates")
    assert independence(gates).to_dict() == pytest.approx({"a": 0.3, "b": 0.1, "c": 0.8})
    # Weights without a base sum to 1 and cannot be declined: there is no answer.
    without = table_of([[0, 0.5, 0.5], [0.4, 0, 0.6], [0.1, 0.9, 0]])
    assert independence(without).isna().all()


def test_a_table_from_a_csv_file_still_tells_gates_from_weights(make_table: MakeTable) -> None:
    for gates in (True, False):
        table = make_table(5, gates=gates)
        read = pd.read_csv(io.StringIO(table.to_csv(index=False)))
        assert not read.attrs
        assert kind_of(read) == kind_of(table) == ("gates" if gates else "weights")
        assert chance_level(read) == (0.5 if gates else pytest.approx(1 / 5))


def test_the_matrix_has_the_tasks_in_order_then_base() -> None:
    matrix = relatedness_matrix(table_of([[0, 0.7], [0.4, 0]], base=[0.3, 0.6]))
    assert list(matrix.index) == ["a", "b"]
    assert list(matrix.columns) == ["a", "b", "base"]
    expected = [[np.nan, 0.7, 0.3], [0.4, np.nan, 0.6]]
    np.testing.assert_array_equal(matrix, expected)


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    # Symmetrised: ab .8, cd .3 are related; ac .5, ad .1, bc .2, bd .4 are not. Of the eight
    # comparisons, ab wins four and cd two.
    scores = {"ab": 0.8, "cd": 0.3, "ac": 0.5, "ad": 0.1, "bc": 0.2, "bd": 0.4}
    letters = "abcd"
    matrix = [
        [
            0 if i == j else scores["".join(sorted((i, j)))] + (0.05 if i < j else -0.05)
            for j in letters
        ]
        for i in letters
    ]
    table = table_of(matrix)
    pairs = related_pairs(table, [0, 0, 1, 1])
    assert dict(zip(pairs["task"] + pairs["other"], pairs["score"], strict=True)) == (
        pytest.approx(scores)
    )
    assert relatedness_auc(table, [0, 0, 1, 1]) == pytest.approx(6 / 8)
    assert relatedness_auc(table, torch.tensor([5, 5, 2, 2])) == pytest.approx(6 / 8)
    by_name = {"d": "x", "c": "x", "b": "y", "a": "y"}
    assert relatedness_auc(table, by_name) == pytest.approx(6 / 8)
    curve = relatedness_roc(table, by_name)
    area = np.trapezoid(curve["true_positive"], curve["false_positive"])
    assert area == pytest.approx(6 / 8)


def test_auc_without_both_kinds_of_pairs_is_not_a_number() -> None:
    table = table_of([[0, 0.7, 0.2], [0.4, 0, 0.9], [0.1, 0.2, 0]])
    assert np.isnan(relatedness_auc(table, [0, 0, 0]))
    assert np.isnan(relatedness_auc(table, [0, 1, 2]))
    assert relatedness_roc(table, [0, 1, 2]).empty


@given(st.permutations(range(4)))
def test_auc_does_not_depend_on_the_order_of_tasks(order: list[int]) -> None:
    generator = np.random.default_rng(0)
    matrix = generator.random((4, 4))
    clusters = np.array([0, 1, 0, 1])
    permuted = matrix[np.ix_(order, order)]
    assert relatedness_auc(table_of(matrix.tolist()), clusters) == pytest.approx(
        relatedness_auc(table_of(permuted.tolist()), clusters[order])
    )


def test_a_truth_that_does_not_fit_is_refused() -> None:
    table = table_of([[0, 0.7], [0.4, 0]])
    with pytest.raises(InputError, match="expected \\[2\\]"):
        relatedness_auc(table, [0, 1, 1])
    with pytest.raises(InputError, match="no cluster for task 'b'"):
        true_clusters({"a": 1}, ["a", "b"])


def test_unknown_sites_and_values_are_named() -> None:
    table = table_of([[0, 0.7], [0.4, 0]])
    with pytest.raises(InputError, match="'representations'"):
        relatedness_matrix(table, "representations")
    with pytest.raises(InputError, match="'median'"):
        relatedness_matrix(table, value="median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no column 'responsibility'"):
        independence(table.drop(columns="responsibility"))


def test_stability_over_seeds_is_taken_pair_by_pair() -> None:
    first = table_of([[0, 0.7, 0.3], [0.4, 0, 0.6], [0.5, 0.5, 0]])
    second = table_of([[0, 0.9, 0.1], [0.4, 0, 0.6], [0.5, 0.5, 0]])
    stable = relatedness_stability({0: first, 7: second.iloc[::-1]}).set_index(["task", "other"])
    row = stable.loc[("a", "b")]
    assert row["seed 0"] == 0.7
    assert row["seed 7"] == 0.9
    assert row["mean"] == pytest.approx(0.8)
    assert row["sd"] == pytest.approx(np.sqrt(0.02))
    assert (row["low"], row["high"]) == (0.7, 0.9)
    assert (stable.loc[["b", "c"], "sd"] == 0).all()


def test_rank_correlation_of_reversed_ranks_is_minus_one() -> None:
    ranks = table_of([[0, 0.1, 0.2], [0.3, 0, 0.4], [0.5, 0.6, 0]])
    reverse = table_of([[0, 0.6, 0.5], [0.4, 0, 0.3], [0.2, 0.1, 0]])
    correlations = rank_correlations({0: ranks, 1: reverse, 2: ranks})
    assert correlations.loc["seed 0", "seed 1"] == pytest.approx(-1)
    assert correlations.loc["seed 0", "seed 2"] == pytest.approx(1)


def test_stability_needs_two_fits_of_the_same_tasks() -> None:
    table = table_of([[0, 0.7], [0.4, 0]])
    with pytest.raises(InputError, match="at least two"):
        relatedness_stability({0: table})
    with pytest.raises(InputError, match="seed 1"):
        relatedness_stability({0: table, 1: table_of([[0, 0.7], [0.4, 0]], base=[0.3, 0.6])})


def with_draws(fitted: FittedVMTL, labels: list[list[int]], spreads: list[float]) -> FittedVMTL:
    """The same model, but that these partitions were drawn, with these s."""
    changed = dataclasses.replace(fitted, vmtl=copy.deepcopy(fitted.vmtl))
    weights = changed.vmtl.classifier
    assert isinstance(weights, NestedWeights)
    for name, values in vars(weights.draws).items():  # of all else, the first draw
        setattr(weights, f"draw_{name}", values[:1].repeat(len(labels), *[1] * (values.dim() - 1)))
    s = torch.tensor(spreads, dtype=torch.float64)
    weights.draw_labels = torch.tensor(labels)
    weights.draw_deviation = s.square().unsqueeze(-1).expand_as(weights.draws.deviation)
    weights.draw_cluster = 1 - s.square()
    return changed


def test_partitions_are_counted_whatever_their_clusters_are_numbered(make_fit: MakeFit) -> None:
    fitted, _ = make_fit("nested")
    labels = [[0, 1, 0, 1], [7, 2, 7, 2], [0, 1, 2, 3], [1, 0, 1, 0], [0, 0, 0, 0]]
    found = partitions(with_draws(fitted, labels, [0.1, 0.2, 0.75, 0.3, 0.5]))
    a, b, c, d = fitted.names
    assert found["partition"].iloc[0] == ((a, c), (b, d))
    assert set(found["partition"]) == {((a, c), (b, d)), ((a,), (b,), (c,), (d,)), ((a, b, c, d),)}
    assert found["probability"].tolist() == [0.6, 0.2, 0.2]
    assert dict(zip(found["partition"], found["clusters"], strict=True)) == {
        ((a, c), (b, d)): 2,
        ((a, b, c, d),): 1,
        ((a,), (b,), (c,), (d,)): 4,
    }
    first = found.iloc[0]
    assert first["spread"] == pytest.approx(0.2)
    assert first["correlation"] == pytest.approx(1 - (0.01 + 0.04 + 0.09) / 3)
    alone = found[found["clusters"] == 4].iloc[0]  # s of tasks without relatives says nothing
    assert np.isnan(alone["spread"])
    assert np.isnan(alone["correlation"])
    assert found["draws"].tolist() == [3, 1, 1]


@given(
    labels=st.integers(1, 12).flatmap(
        lambda count: st.lists(
            st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=count, max_size=count
        )
    )
)
def test_pairs_are_what_is_left_of_partitions(make_fit: MakeFit, labels: list[list[int]]) -> None:
    fitted = with_draws(make_fit("nested")[0], labels, [0.3] * len(labels))
    found = partitions(fitted)
    assert found["probability"].sum() == pytest.approx(1)
    assert found["probability"].is_monotonic_decreasing
    assert found["partition"].is_unique
    for i, task in enumerate(fitted.names):
        for j, other in enumerate(fitted.names):
            together = found["partition"].map(
                lambda parts, pair=(task, other): any(set(pair) <= set(part) for part in parts)
            )
            share = np.mean([row[i] == row[j] for row in labels])
            assert found.loc[together, "probability"].sum() == pytest.approx(share)


def effective(fitted: FittedVMTL) -> float:
    """The number of its effective draws."""
    return float(fitted.vmtl.get_buffer("classifier.effective"))


def test_the_partitions_of_a_fit_agree_with_its_relatedness(make_fit: MakeFit) -> None:
    fitted, _ = make_fit("nested")
    found = partitions(fitted)
    table = relatedness(fitted).set_index(["task", "other"])["probability"]
    for (task, other), probability in table.items():
        rows = [any({task, other} <= set(part) for part in parts) for parts in found["partition"]]
        # None is said to be nearer to 0 or 1 than draws of that number can tell.
        share, draws = found.loc[rows, "probability"].sum(), effective(fitted)
        assert probability == pytest.approx((share * draws + 0.5) / (draws + 1))


def test_partitions_need_a_pool_that_draws_them(make_fit: MakeFit) -> None:
    for settings, name in (("mixture", "Mixture"), ("power", "Power"), ("standard", "Standard")):
        with pytest.raises(InputError, match=rf"the pool is {name}, .* expected Nested \("):
            partitions(make_fit(settings)[0])
    with pytest.raises(InputError, match="the model has one task"):
        partitions(make_fit("nested", num_tasks=1)[0])


def test_what_is_no_fitted_model_is_refused(make_fit: MakeFit) -> None:
    fitted, splits = make_fit("nested")
    for thing in (fitted.vmtl, splits.train, None, "model"):
        said = f"the model is a {type(thing).__name__}; expected a FittedVMTL"
        with pytest.raises(InputError, match=said):
            relatedness(thing)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=said):
            partitions(thing)  # type: ignore[arg-type]
