"""The digit sets: the protocol's counts, no shared image, and the images what they should be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.datasets import load_digits

from pyro_vmtl.data import (
    ANGLES,
    DOMAINS,
    IMAGE_SHAPE,
    TaskSplits,
    digit_domains,
    relabelled_digits,
    rotated_digits,
)
from pyro_vmtl.errors import InputError

DIGITS = load_digits()
IMAGES = torch.from_numpy(DIGITS.images / 16).float()
LABELS = torch.from_numpy(DIGITS.target)

each = pytest.mark.parametrize("make", [rotated_digits, digit_domains, relabelled_digits])
Make = Callable[..., TaskSplits]


def sources(splits: TaskSplits) -> list[list[int]]:
    return [part.sources.tolist() for part in splits if part.sources is not None]


class TestEach:
    @each
    @pytest.mark.parametrize("options", [{}, {"shots": 4, "validation_shots": 1}])
    def test_every_image_is_in_one_place(self, make: Make, options: dict[str, int]) -> None:
        train, validation, test = sources(make(**options))
        assert sorted(train + validation + test) == list(range(len(LABELS)))

    @each
    def test_the_same_seed_gives_the_same_set(self, make: Make) -> None:
        for part, again in zip(make(seed=3), make(seed=3), strict=True):
            assert part.x.equal(again.x)
            assert part.y.equal(again.y)
        assert sources(make(seed=3)) != sources(make(seed=4))

    @each
    def test_images_are_flat_and_in_the_unit_interval(self, make: Make) -> None:
        for part in make():
            assert part.input_shape == (64,)
            assert IMAGE_SHAPE == (8, 8)
            assert part.x.min() == 0
            assert part.x.max() == 1
            part.check_training()

    @each
    def test_validation_can_be_empty(self, make: Make) -> None:
        splits = make(validation_shots=0)
        assert len(splits.validation) == 0
        assert splits.validation.names == splits.train.names

    @each
    def test_too_many_shots_are_refused_with_the_largest_number(self, make: Make) -> None:
        for options in ({}, {"validation_shots": 0}, {"validation_shots": 3}):
            with pytest.raises(InputError, match=r"expected at most \d+,") as caught:
                make(shots=1000, **options)
            largest = int(str(caught.value).split("at most ")[1].split(",")[0])
            assert (make(shots=largest, **options).test.sizes > 0).all()
            with pytest.raises(InputError, match=f"at most {largest},"):
                make(shots=largest + 1, **options)
        with pytest.raises(InputError, match="validation_shots of at most"):
            make(shots=1, validation_shots=1000)

    @each
    @pytest.mark.parametrize(
        "options", [{"shots": 0}, {"shots": 1.5}, {"validation_shots": -1}, {"seed": -1}]
    )
    def test_numbers_out_of_range(self, make: Make, options: dict[str, int]) -> None:
        name, value = next(iter(options.items()))
        with pytest.raises(InputError, match=f"{name} is {value}"):
            make(**options)


class TestRotatedDigits:
    @pytest.mark.parametrize(("shots", "validation_shots"), [(1, None), (3, 2), (8, None)])
    def test_shots_per_angle_and_task(self, shots: int, validation_shots: int | None) -> None:
        splits = rotated_digits(shots, validation_shots)
        wanted = shots if validation_shots is None else validation_shots
        for part, count in ((splits.train, shots), (splits.validation, wanted)):
            for task in range(10):
                _, counts = torch.unique(part.y[part.indices(task)], return_counts=True)
                assert counts.tolist() == [count] * len(ANGLES)
        for task in range(10):
            _, counts = torch.unique(splits.test.y[splits.test.indices(task)], return_counts=True)
            assert len(counts) == len(ANGLES)
            assert counts.max() - counts.min() <= 1

    def test_the_target_is_the_scaled_angle(self) -> None:
        train = rotated_digits().train
        assert train.outputs == ("angle",)
        assert train.classes is None
        scaled = [-1 + 2 * angle / 90 for angle in ANGLES]
        assert torch.unique(train.y).tolist() == pytest.approx(scaled)
        assert (float(train.y.min()), float(train.y.max())) == (-1, 1)

    def test_a_task_is_a_digit(self) -> None:
        for part in rotated_digits():
            assert part.names == tuple(f"digit {digit}" for digit in range(10))
            assert part.sources is not None
            assert LABELS[part.sources].equal(part.task)

    def test_the_image_is_the_source_rotated_by_the_target(self) -> None:
        train = rotated_digits().train
        assert train.sources is not None
        for row in range(len(train)):
            angle = round(float(train.y[row] + 1) * 45)
            source = IMAGES[train.sources[row]].numpy()
            expected = ndimage.rotate(source, angle, reshape=False, order=1).clip(0, 1)
            np.testing.assert_allclose(train.x[row].reshape(IMAGE_SHAPE), expected, atol=1e-5)


class TestDigitDomains:
    def test_shots_per_class_and_task(self) -> None:
        splits = digit_domains(shots=4, validation_shots=2)
        assert splits.train.class_counts.eq(4).all()
        assert splits.validation.class_counts.eq(2).all()
        assert splits.test.class_counts.min() >= 174 // 6 - 6

    def test_names_and_classes(self) -> None:
        for part in digit_domains():
            assert part.names == tuple(DOMAINS)
            assert part.names == (
                "original",
                "rotated +20",
                "rotated -20",
                "rotated 90",
                "inverted",
                "blurred",
            )
            assert part.classes == tuple("0123456789")
            assert part.sources is not None
            assert LABELS[part.sources].equal(part.y)

    def test_what_each_domain_does(self) -> None:
        test = digit_domains().test
        assert test.sources is not None
        shown = test.x.reshape(-1, *IMAGE_SHAPE)

        def pair(task: str) -> tuple[torch.Tensor, torch.Tensor]:
            rows = test.indices(task)
            assert test.sources is not None
            return shown[rows], IMAGES[test.sources[rows]]

        image, source = pair("original")
        assert image.equal(source)
        image, source = pair("inverted")
        assert torch.allclose(image, 1 - source)
        image, source = pair("rotated 90")
        assert torch.allclose(image, source.rot90(dims=(1, 2)), atol=1e-6)
        image, source = pair("blurred")
        assert torch.allclose(image.sum((1, 2)), source.sum((1, 2)), rtol=0.05)
        assert (image.var((1, 2)) < source.var((1, 2))).all()
        for task, angle in (("rotated +20", 20), ("rotated -20", -20)):
            image, source = pair(task)
            expected = ndimage.rotate(source[0].numpy(), angle, reshape=False, order=1).clip(0, 1)
            np.testing.assert_allclose(image[0], expected, atol=1e-5)


class TestRelabelledDigits:
    def test_tasks_of_a_code_label_the_digits_alike_and_others_do_not(self) -> None:
        splits = relabelled_digits(num_tasks=5, num_codes=2, seed=4)
        codes: dict[int, list[int]] = {}
        for part in splits:
            assert part.truth is not None
            assert part.truth.tolist() == [0, 1, 0, 1, 0]
            assert part.sources is not None
            for task in range(5):
                rows = part.indices(task)
                pairs = set(
                    zip(LABELS[part.sources[rows]].tolist(), part.y[rows].tolist(), strict=True)
                )
                assert len(pairs) == 10, "a digit has two labels in one task"
                code = [label for _, label in sorted(pairs)]
                assert codes.setdefault(task % 2, code) == code
        assert codes[0] == list(range(10))
        assert sorted(codes[1]) == codes[0]
        assert codes[1] != codes[0]

    def test_images_are_as_they_were(self) -> None:
        train = relabelled_digits().train
        assert train.sources is not None
        assert train.x.reshape(-1, *IMAGE_SHAPE).equal(IMAGES[train.sources])
        assert train.class_counts.eq(3).all()

    def test_there_is_a_task_for_every_code(self) -> None:
        with pytest.raises(InputError, match="num_codes is 7; expected at most the 6 tasks"):
            relabelled_digits(num_codes=7)

    @pytest.mark.parametrize("exchanged", [2, 3, 10])
    def test_some_digits_are_exchanged_and_the_others_keep_their_labels(
        self, exchanged: int
    ) -> None:
        train = relabelled_digits(exchanged=exchanged, seed=5).train
        _, digits = load_digits(return_X_y=True)
        assert train.sources is not None
        differs = train.y.numpy() != digits[train.sources.numpy()]
        moved = {int(digits[row]) for row in train.sources[torch.from_numpy(differs)].tolist()}
        assert len(moved) == exchanged
        assert not differs[train.task.numpy() % 2 == 0].any()  # tasks of the first code

    @pytest.mark.parametrize("exchanged", [1, 11])
    def test_one_digit_or_eleven_cannot_be_exchanged(self, exchanged: int) -> None:
        with pytest.raises(InputError, match="exchanged is"):
            relabelled_digits(exchanged=exchanged)


@pytest.mark.parametrize("make", [digit_domains, relabelled_digits])
def test_category_shift_takes_classes_out_of_training_and_validation(make: Make) -> None:
    whole, shifted = make(seed=2), make(seed=2, category_shift=0.3)
    assert shifted.test.x.equal(whole.test.x)
    kept = shifted.train.class_counts > 0
    assert kept.sum(1).tolist() == [7] * 6
    assert kept.any(0).all()
    for part, all_of_it in zip(shifted[:2], whole[:2], strict=True):
        assert part.class_counts.equal(all_of_it.class_counts * kept)
    with pytest.raises(InputError, match=r"category_shift is 0\.95"):
        make(category_shift=0.95)
