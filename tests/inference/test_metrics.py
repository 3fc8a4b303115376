"""Metrics of one task and of all tasks: worked cases, invariances, what calibration promises."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import metrics
from pyro_vmtl.inference.metrics import (
    calibration_range,
    category_shift_metrics,
    classification_metrics,
    metrics_per_task,
    regression_metrics,
)

seeds = st.integers(0, 2**31 - 1)


def random_classification(seed: int, num_samples: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Probabilities ``[N, C]`` and classes that were drawn from them, ``[N]``."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_samples, num_classes, generator=generator)
    probabilities = logits.softmax(-1)
    targets = torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
    return probabilities, targets


def random_regression(
    seed: int, num_draws: int, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, log density, draws and targets that agree with no one in particular."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, generator=generator)
    draws = mean + torch.randn(num_draws, *shape, generator=generator)
    targets = torch.randn(shape, generator=generator)
    return mean, torch.randn(shape[0], generator=generator), draws, targets


class TestCategoryShift:
    # The answers are 0, 0, 1, 2, 2; the targets 0, 1, 1, 2, 1.
    ANSWERS = torch.tensor([0, 0, 1, 2, 2])
    TARGETS = torch.tensor([0, 1, 1, 2, 1])

    def scores(self, seen: list[bool], targets: Tensor = TARGETS) -> dict[str, float]:
        return category_shift_metrics(torch.eye(3)[self.ANSWERS], targets, torch.tensor(seen))

    def test_worked_case(self) -> None:
        scores = self.scores([True, False, True])
        assert scores["accuracy_seen"] == 1
        assert scores["accuracy_missing"] == pytest.approx(1 / 3)
        assert scores["harmonic_mean"] == pytest.approx(2 / (1 / 1 + 1 / (1 / 3)))

    def test_it_is_0_where_an_accuracy_is(self) -> None:
        wrong = torch.tensor([1, 1, 0, 2, 2])
        assert self.scores([True, True, False], wrong)["harmonic_mean"] == 0
        assert self.scores([False, False, True], wrong)["harmonic_mean"] == 0

    @pytest.mark.parametrize("seen", [[True] * 3, [False] * 3])
    def test_there_is_none_without_both_kinds(self, seen: list[bool]) -> None:
        assert self.scores(seen) == {}

    def test_the_two_accuracies_make_up_the_accuracy(self) -> None:
        probabilities, targets = random_classification(3, 200, 5)
        seen = torch.tensor([True, False, True, True, False])
        scores = category_shift_metrics(probabilities, targets, seen)
        share = float(seen[targets].double().mean())
        mixed = share * scores["accuracy_seen"] + (1 - share) * scores["accuracy_missing"]
        assert classification_metrics(probabilities, targets)["accuracy"] == pytest.approx(mixed)

    def test_one_truth_value_a_class(self) -> None:
        with pytest.raises(InputError, match=r"seen has the shape \[2\]"):
            self.scores([True, False])


class TestClassification:
    def test_worked_case(self) -> None:
        probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
        metrics = classification_metrics(probabilities, torch.tensor([0, 1, 1, 1]))
        assert metrics["accuracy"] == pytest.approx(3 / 4)
        assert metrics["nll"] == pytest.approx(
            -(math.log(0.9) + math.log(0.1) + 2 * math.log(0.6)) / 4
        )
        # Per sample (1 - p)^2 + (0 - (1 - p))^2 with p the probability of the class that came.
        assert metrics["brier"] == pytest.approx(2 * (0.1**2 + 0.9**2 + 2 * 0.4**2) / 4)
        # Half the samples at confidence 0.9, half of those right; half at 0.6, all of those right.
        assert metrics["ece"] == pytest.approx(0.5 * (0.9 - 0.5) + 0.5 * (1 - 0.6))

    def test_certain_and_right_is_perfect(self) -> None:
        metrics = classification_metrics(torch.eye(5), torch.arange(5))
        assert metrics == {"accuracy": 1, "nll": 0, "brier": 0, "ece": pytest.approx(0, abs=1e-12)}

    def test_certain_and_wrong_is_bad_but_finite(self) -> None:
        metrics = classification_metrics(torch.eye(2), torch.tensor([1, 0]))
        assert metrics["accuracy"] == 0
        assert metrics["brier"] == 2
        assert metrics["ece"] == pytest.approx(1)
        assert 50 < metrics["nll"] < 200

    @given(seeds, st.integers(2, 8), st.integers(1, 30))
    def test_knowing_nothing_scores_what_theory_says(
        self, seed: int, num_classes: int, num_samples: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        targets = torch.randint(num_classes, (num_samples,), generator=generator)
        metrics = classification_metrics(
            torch.full((num_samples, num_classes), 1 / num_classes), targets
        )
        assert metrics["nll"] == pytest.approx(math.log(num_classes), rel=1e-5)
        assert metrics["brier"] == pytest.approx(1 - 1 / num_classes, rel=1e-5)
        assert metrics["ece"] == pytest.approx(abs(metrics["accuracy"] - 1 / num_classes), abs=1e-6)

    @given(seeds, st.integers(1, 40), st.integers(2, 6))
    def test_order_of_samples_does_not_matter(
        self, seed: int, num_samples: int, num_classes: int
    ) -> None:
        probabilities, targets = random_classification(seed, num_samples, num_classes)
        order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
        assert classification_metrics(probabilities[order], targets[order]) == pytest.approx(
            classification_metrics(probabilities, targets)
        )

    @given(seeds, st.integers(1, 40), st.integers(2, 6))
    def test_names_of_classes_do_not_matter(
        self, seed: int, num_samples: int, num_classes: int
    ) -> None:
        probabilities, targets = random_classification(seed, num_samples, num_classes)
        renamed = torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed))
        assert classification_metrics(
            probabilities[:, renamed], renamed.argsort()[targets]
        ) == pytest.approx(classification_metrics(probabilities, targets))

    def test_confidence_one_shares_the_last_of_fifteen_bins(self) -> None:
        # Both confidences lie in [14/15, 1]: one bin, half right. Two bins would score 0.53.
        probabilities = torch.tensor([[1.0, 0.0], [0.94, 0.06]])
        metrics = classification_metrics(probabilities, torch.tensor([1, 0]))
        assert metrics["ece"] == pytest.approx(0.97 - 0.5)

    @pytest.mark.parametrize("rounding", [1.2e-7, 4e-3])  # of float32 and of bfloat16
    def test_rounding_above_one_changes_nothing(self, rounding: float) -> None:
        targets = torch.tensor([0, 1])
        exact = torch.tensor([[1.0, 0.0], [0.3, 0.7]])
        rounded = exact + torch.tensor([[rounding, 0.0], [0.0, 0.0]])
        assert rounded.max() > 1
        assert classification_metrics(rounded, targets) == pytest.approx(
            classification_metrics(exact, targets), abs=2 * rounding
        )

    def test_no_labelled_sample_gives_no_metric(self) -> None:
        assert classification_metrics(torch.empty(0, 3), torch.empty(0, dtype=torch.long)) == {}

    @pytest.mark.parametrize(
        ("probabilities", "targets", "message"),
        [
            (torch.full((2, 3), 1 / 3), torch.tensor([0, 3]), "the class 3.*from 0 to 2"),
            (torch.full((2, 3), 1 / 3), torch.tensor([0, -1]), "the class -1.*from 0 to 2"),
            (torch.full((2, 3), 1 / 3), torch.tensor([0.0, 1.0]), r"float32.*integers \[2\]"),
            (torch.full((2, 3), 1 / 3), torch.tensor([0]), r"\[1\].*integers \[2\]"),
            (torch.tensor([[0.5, math.nan]]), torch.tensor([0]), "1 of the 2 numbers.*NaN"),
            (torch.tensor([[1.5, -0.5]]), torch.tensor([0]), "down to -0.5"),
            (torch.tensor([[0.5, 0.5], [0.2, 0.2]]), torch.tensor([0, 0]), "sample 1 sum to 0.4"),
            (torch.tensor([0.5, 0.5]), torch.tensor([0]), r"\[2\].*\[N, C\]"),
        ],
    )
    def test_bad_input_is_named(self, probabilities: Tensor, targets: Tensor, message: str) -> None:
        with pytest.raises(InputError, match=message):
            classification_metrics(probabilities, targets)


class TestCalibrationRange:
    def test_calibrated_predictions_lie_in_their_range(self) -> None:
        inside = 0
        for seed in range(100):
            probabilities, targets = random_classification(seed, 60, 4)
            low, high = calibration_range(probabilities, draws=200, seed=seed)
            inside += low <= classification_metrics(probabilities, targets)["ece"] <= high
        # 95 expected; the chance of fewer than 85 is below 1 in 10,000.
        assert inside >= 85

    def test_overconfident_predictions_lie_above_it(self) -> None:
        probabilities, targets = random_classification(0, 500, 4)
        sharpened = (4 * probabilities.log()).softmax(-1)
        _, high = calibration_range(sharpened, draws=200)
        assert classification_metrics(sharpened, targets)["ece"] > high

    def test_more_samples_leave_less_room(self) -> None:
        probabilities, _ = random_classification(0, 100, 4)
        _, few = calibration_range(probabilities, draws=200)
        _, many = calibration_range(probabilities.repeat(25, 1), draws=200)
        # Scatter of a share falls with the root of the number of samples: by 5 here.
        assert many == pytest.approx(few / 5, rel=0.3)

    def test_one_bin_scatters_as_a_share_does(self) -> None:
        # In one bin ECE is |share right - mean confidence|, and a share's standard deviation is
        # sqrt(p (1 - p) / N): 95% of its absolute deviations lie below 2.24 and above 0.031 of it.
        low, high = calibration_range(torch.tensor([[0.7, 0.3]]).repeat(2000, 1), 1, 4000)
        deviation = math.sqrt(0.7 * 0.3 / 2000)
        assert low == pytest.approx(0.031 * deviation, abs=0.03 * deviation)
        assert high == pytest.approx(2.24 * deviation, rel=0.08)

    def test_certainty_has_no_scatter(self) -> None:
        assert calibration_range(torch.eye(4), draws=10) == pytest.approx((0, 0), abs=1e-12)

    @given(seeds, st.integers(1, 30), st.floats(0.5, 0.9))
    def test_range_is_ordered_repeats_and_ignores_order(
        self, seed: int, num_samples: int, level: float
    ) -> None:
        probabilities, _ = random_classification(seed, num_samples, 3)
        low, high = calibration_range(probabilities, draws=20, seed=seed, level=level)
        assert 0 <= low <= high <= 1
        order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
        assert calibration_range(
            probabilities[order], draws=20, seed=seed, level=level
        ) == pytest.approx((low, high))
        wider = calibration_range(probabilities, draws=20, seed=seed, level=0.99)
        assert wider[0] <= low
        assert wider[1] >= high

    @given(seeds, st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
    def test_errors_of_many_sets_are_those_of_each(
        self, seed: int, num_samples: int, bins: int, sets: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        confidence = torch.rand(num_samples, dtype=torch.double, generator=generator)
        # On an edge, twice the same, and all but certain.
        confidence = torch.cat([confidence, confidence[:1], torch.tensor([0.0, 0.5, 1.0])])
        confidence = confidence.sort().values
        correct = torch.bernoulli(confidence.expand(sets, -1), generator=generator)
        together = metrics._calibration_errors(confidence, correct, bins)
        apart = [metrics._calibration_error(confidence, one, bins) for one in correct]
        assert together.tolist() == pytest.approx(apart, abs=1e-6)

    def test_many_samples_are_drawn_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        probabilities, _ = random_classification(0, 200, 4)
        whole = calibration_range(probabilities, draws=500)
        monkeypatch.setattr(metrics, "_MOST_OUTCOMES", 1700)
        parts = calibration_range(probabilities, draws=500)
        assert parts == pytest.approx(whole, rel=0.1)

    def test_global_random_state_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        calibration_range(torch.full((5, 2), 0.5), draws=3)
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize(
        ("name", "value"), [("bins", 0), ("draws", 0), ("level", 0.0), ("level", 1.0)]
    )
    def test_bad_input_is_named(self, name: str, value: float) -> None:
        with pytest.raises(InputError, match=f"{name} is {value}"):
            calibration_range(torch.full((2, 2), 0.5), **{name: value})  # type: ignore[arg-type]
        with pytest.raises(InputError, match="no sample"):
            calibration_range(torch.empty(0, 2))


class TestRegression:
    def test_worked_case(self) -> None:
        targets = torch.tensor([0.0, 2.0, 4.0])
        mean = torch.tensor([1.0, 2.0, 3.0])
        draws = torch.stack([mean - 2, mean + 2])
        metrics = regression_metrics(mean, torch.tensor([-1.0, -2.0, -6.0]), draws, targets)
        # Squared errors 1, 0, 1; the targets' population variance is 8 / 3.
        assert metrics["nmse"] == pytest.approx((2 / 3) / (8 / 3))
        assert metrics["rmse"] == pytest.approx(math.sqrt(2 / 3))
        assert metrics["nll"] == pytest.approx(3)
        # E|X - y| is 2 for each sample, and E|X - X'| over pairs of different draws is 4.
        assert metrics["crps"] == pytest.approx(2 - 4 / 2)
        assert metrics["coverage_90"] == 1

    def test_outputs_are_averaged(self) -> None:
        targets = torch.tensor([[0.0, 0.0], [2.0, 20.0]])
        mean = torch.tensor([[0.0, 10.0], [1.0, 10.0]])
        draws = mean.expand(5, 2, 2)
        metrics = regression_metrics(mean, torch.zeros(2), draws, targets)
        # Output 0: MSE 1/2, variance 1. Output 1: MSE 100, variance 100.
        assert metrics["nmse"] == pytest.approx((0.5 + 1) / 2)
        assert metrics["rmse"] == pytest.approx(math.sqrt((0 + 1 + 100 + 100) / 4))
        # Draws without spread: CRPS is the absolute error, and only the exact one is covered.
        assert metrics["crps"] == pytest.approx((0 + 1 + 10 + 10) / 4)
        assert metrics["coverage_90"] == pytest.approx(1 / 4)

    @given(seeds, st.integers(2, 30), st.integers(1, 3))
    def test_predicting_the_mean_of_the_targets_scores_one(
        self, seed: int, num_samples: int, num_outputs: int
    ) -> None:
        _, log_density, draws, targets = random_regression(seed, 2, (num_samples, num_outputs))
        mean = targets.double().mean(0).expand(num_samples, num_outputs)
        metrics = regression_metrics(mean, log_density, draws, targets)
        assert metrics["nmse"] == pytest.approx(1)

    @given(seeds, st.integers(2, 20), st.integers(2, 8))
    def test_order_of_samples_and_draws_does_not_matter(
        self, seed: int, num_samples: int, num_draws: int
    ) -> None:
        mean, log_density, draws, targets = random_regression(seed, num_draws, (num_samples,))
        generator = torch.Generator().manual_seed(seed)
        samples = torch.randperm(num_samples, generator=generator)
        order = torch.randperm(num_draws, generator=generator)
        assert regression_metrics(
            mean[samples], log_density[samples], draws[order][:, samples], targets[samples]
        ) == pytest.approx(regression_metrics(mean, log_density, draws, targets))

    @given(seeds, st.floats(0.01, 100), st.booleans(), st.floats(-1000, 1000))
    def test_units(self, seed: int, size: float, flip: bool, shift: float) -> None:
        factor = -size if flip else size
        mean, log_density, draws, targets = (x.double() for x in random_regression(seed, 50, (10,)))
        before = regression_metrics(mean, log_density, draws, targets)
        after = regression_metrics(
            factor * mean + shift, log_density, factor * draws + shift, factor * targets + shift
        )
        for name in ("nmse", "coverage_90"):
            assert after[name] == pytest.approx(before[name])
        for name in ("rmse", "crps"):
            assert after[name] == pytest.approx(size * before[name])

    @given(seeds, st.integers(2, 20))
    def test_one_output_is_the_same_with_and_without_its_dimension(
        self, seed: int, num_samples: int
    ) -> None:
        mean, log_density, draws, targets = random_regression(seed, 4, (num_samples,))
        assert regression_metrics(
            mean[:, None], log_density, draws[..., None], targets[:, None]
        ) == regression_metrics(mean, log_density, draws, targets)

    def test_crps_of_a_normal(self) -> None:
        loc, scale = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1.0, 0.5, 3.0])
        targets = torch.tensor([0.3, -0.4, 5.0])
        z, standard = (targets - loc) / scale, Normal(0.0, 1.0)
        density = standard.log_prob(z).exp()
        closed = scale * (z * (2 * standard.cdf(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
        draws = loc + scale * torch.randn(
            40_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        metrics = regression_metrics(loc, torch.zeros(3), draws, targets)
        assert metrics["crps"] == pytest.approx(closed.mean().item(), rel=0.02)

    def test_crps_is_unbiased_at_two_draws(self) -> None:
        # At y = 0 the CRPS of N(0, 1) is (sqrt 2 - 1) / sqrt pi; the ensemble's own would be .52.
        draws = torch.randn(2, 40_000, generator=torch.Generator().manual_seed(0))
        zero = torch.zeros(40_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these targets are all equal, and nmse is not at stake
            metrics = regression_metrics(zero, zero, draws, zero)
        assert metrics["crps"] == pytest.approx((math.sqrt(2) - 1) / math.sqrt(math.pi), abs=0.01)

    @pytest.mark.parametrize("num_draws", [19, 39, 100])
    def test_intervals_of_the_true_distribution_cover_90_percent(self, num_draws: int) -> None:
        generator = torch.Generator().manual_seed(num_draws)
        targets, draws = (
            torch.randn(*shape, generator=generator) for shape in ((20_000,), (num_draws, 20_000))
        )
        metrics = regression_metrics(torch.zeros(20_000), torch.zeros(20_000), draws, targets)
        assert metrics["coverage_90"] == pytest.approx(0.9, abs=0.01)

    def test_targets_without_variance_have_no_nmse_and_say_so(self) -> None:
        constant = torch.full((3,), 0.1)
        draws = torch.stack([constant - 1, constant + 1])
        with pytest.warns(UserWarning, match="All 3 targets of output 0 are 0.1"):
            metrics = regression_metrics(constant + 1, torch.zeros(3), draws, constant)
        assert math.isnan(metrics.pop("nmse"))
        assert all(math.isfinite(value) for value in metrics.values())
        assert metrics["rmse"] == pytest.approx(1)

    def test_a_density_of_zero_is_infinitely_surprising(self) -> None:
        mean, _, draws, targets = random_regression(0, 3, (2,))
        log_density = torch.tensor([-math.inf, 0.0])
        assert regression_metrics(mean, log_density, draws, targets)["nll"] == math.inf

    def test_no_labelled_sample_gives_no_metric(self) -> None:
        nothing = torch.empty(0)
        assert regression_metrics(nothing, nothing, torch.empty(5, 0), nothing) == {}

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("mean", torch.zeros(4, 1), r"mean has the shape \[4, 1\].*\[4\]"),
            ("log_density", torch.zeros(4, 1), r"log_density has the shape \[4, 1\].*\[4\]"),
            ("draws", torch.zeros(4), r"draws have the shape \[4\].*\[S, 4\]"),
            ("draws", torch.zeros(1, 4), r"draws have the shape \[1, 4\].*S at least 2"),
            ("targets", torch.zeros(4, 1, 1), r"targets have the shape \[4, 1, 1\]"),
            ("mean", torch.full((4,), math.nan), "4 of the 4 numbers in mean"),
            ("draws", torch.full((2, 4), math.inf), "8 of the 8 numbers in draws"),
            ("log_density", torch.full((4,), math.nan), "4 of the 4 numbers in log_density"),
        ],
    )
    def test_bad_input_is_named(self, name: str, value: Tensor, message: str) -> None:
        mean, log_density, draws, targets = random_regression(0, 2, (4,))
        arguments = {"mean": mean, "log_density": log_density, "draws": draws, "targets": targets}
        with pytest.raises(InputError, match=message):
            regression_metrics(**{**arguments, name: value})


class TestPerTask:
    def test_tasks_count_once_each(self) -> None:
        table = metrics_per_task({"a": {"rmse": 1.0, "nll": -2.0}, "b": {"rmse": 4.0, "nll": 0.0}})
        assert table == {
            "a": {"rmse": 1.0, "nll": -2.0},
            "b": {"rmse": 4.0, "nll": 0.0},
            "mean": {"rmse": 2.5, "nll": -1.0},
        }
        assert list(table) == ["a", "b", "mean"]

    def test_a_task_without_labels_is_missing_and_not_zero(self) -> None:
        labelled = classification_metrics(torch.eye(2), torch.arange(2))
        unlabelled = classification_metrics(torch.empty(0, 2), torch.empty(0, dtype=torch.long))
        table = metrics_per_task({"empty": unlabelled, "full": labelled})
        assert table["empty"] == dict.fromkeys(labelled)
        assert table["mean"] == table["full"] == labelled

    def test_an_undefined_metric_is_left_out_of_its_mean_alone(self) -> None:
        table = metrics_per_task(
            {"a": {"nmse": math.nan, "rmse": 1.0}, "b": {"nmse": 0.5, "rmse": 2.0}}
        )
        assert table["a"] == {"nmse": None, "rmse": 1.0}
        assert table["mean"] == {"nmse": 0.5, "rmse": 1.5}

    def test_where_nothing_is_labelled_there_is_no_mean(self) -> None:
        assert metrics_per_task({"a": {}}) == {"a": {}, "mean": {}}
        assert metrics_per_task({"a": {"nmse": math.nan}})["mean"] == {"nmse": None}

    def test_no_task_may_be_called_mean(self) -> None:
        with pytest.raises(InputError, match="called 'mean'"):
            metrics_per_task({"mean": {"rmse": 1.0}})
