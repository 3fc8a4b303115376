"""Small sets of tasks made from scikit-learn's 1797 real images of handwritten digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from sklearn.datasets import load_digits

from pyro_vmtl.data.arguments import check_whole
from pyro_vmtl.data.splits import TaskSplits, shift_categories
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = [
    "ANGLES",
    "DOMAINS",
    "IMAGE_SHAPE",
    "digit_domains",
    "relabelled_digits",
    "rotated_digits",
]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

IMAGE_SHAPE = (8, 8)
"""The shape of the images, which the sets hold flattened to 64 pixels in [0, 1]."""

ANGLES = tuple(range(0, 100, 10))
"""The angles of :func:`rotated_digits`, in degrees."""


def _rotated(angle: float) -> Callable[[_Array], _Array]:
    def rotate(images: _Array) -> _Array:
        turned: _Array = ndimage.rotate(images, angle, axes=(2, 1), reshape=False, order=1)
        return turned.clip(0, 1)

    return rotate


def _blurred(images: _Array) -> _Array:
    blurred: _Array = ndimage.gaussian_filter(images, sigma=(0, 1, 1))
    return blurred


DOMAINS: Mapping[str, Callable[[_Array], _Array]] = {
    "original": lambda images: images,
    "rotated +20": _rotated(20),
    "rotated -20": _rotated(-20),
    "rotated 90": _rotated(90),
    "inverted": lambda images: 1 - images,
    "blurred": _blurred,
}
"""The tasks of :func:`digit_domains` and what each does to images ``[n, 8, 8]``."""


def rotated_digits(
    shots: int = 1, validation_shots: int | None = None, seed: int = 0
) -> TaskSplits:
    """Regression: by what angle was the image rotated? Ten tasks, one per digit.

    The protocol of Rotated MNIST in Shen et al. (2021) on smaller images: every source image is
    rotated once, by one of the :data:`ANGLES`. Training has ``shots`` images per angle and task,
    validation ``validation_shots``, and the test part all others, the angles dealt round in turn.
    The target ``[N]`` is the angle, scaled from [0, 90] degrees to [-1, 1].

    :param shots: training images per angle and task.
    :param validation_shots: validation images per angle and task, by default as many again; with
        0 the validation part is empty.
    :param seed: of the dealing.
    :returns: three parts that share no source image (``sources``: its row in ``load_digits``).
    :raises InputError: if the digits do not suffice for one test image per angle and task.
    """
    images, labels = _digits()
    pools = _shuffled_pools(labels, seed)
    largest = min(len(pool) for pool in pools) // len(ANGLES) - 1
    validation_shots = _check_shots(shots, validation_shots, largest, "angle and task")

    angle = np.empty(len(labels), dtype=np.int64)
    held = np.empty((len(labels), *IMAGE_SHAPE))
    for pool in pools:
        angle[pool] = np.asarray(ANGLES)[np.arange(len(pool)) % len(ANGLES)]
    for degrees in ANGLES:
        held[angle == degrees] = _rotated(degrees)(images[angle == degrees])
    ends = (len(ANGLES) * shots, len(ANGLES) * (shots + validation_shots))
    return _splits(
        names=tuple(f"digit {digit}" for digit in range(10)),
        images=held,
        y=torch.from_numpy((angle / 45 - 1).astype(np.float32)),
        parts=[[np.split(pool, ends)] for pool in pools],
        classes=None,
        outputs=("angle",),
    )


def digit_domains(
    shots: int = 3,
    validation_shots: int | None = None,
    seed: int = 0,
    category_shift: float = 0.0,
) -> TaskSplits:
    """Classification: six tasks with the same ten classes, each on images of its own kind.

    Every source image is dealt to one of the :data:`DOMAINS`, class by class: the original image,
    rotated by +20, -20 or 90 degrees, inverted, or blurred (standard deviation of 1 pixel).
    Training has ``shots`` images per class and task, validation ``validation_shots``, and the test
    part all others.

    :param shots: training images per class and task.
    :param validation_shots: validation images per class and task, by default as many again; with
        0 the validation part is empty.
    :param seed: of the dealing, and of the classes that are missing.
    :param category_shift: the share of each task's classes that are missing in its training and
        validation parts; see :func:`shift_categories`.
    :returns: three parts that share no source image (``sources``: its row in ``load_digits``).
    :raises InputError: if the digits do not suffice for one test image per class and task, or a
        class stays in no task.
    """
    images, labels = _digits()
    pools = _shuffled_pools(labels, seed)
    largest = min(len(pool) for pool in pools) // len(DOMAINS) - 1
    validation_shots = _check_shots(shots, validation_shots, largest, "class and task")

    held = np.empty((len(labels), *IMAGE_SHAPE))
    parts = []
    for number, transform in enumerate(DOMAINS.values()):
        dealt = [pool[number :: len(DOMAINS)] for pool in pools]
        parts.append([np.split(rows, (shots, shots + validation_shots)) for rows in dealt])
        own = np.concatenate(dealt)
        held[own] = transform(images[own])
    splits = _splits(
        names=tuple(DOMAINS),
        images=held,
        y=torch.from_numpy(labels),
        parts=parts,
        classes=tuple(str(digit) for digit in range(10)),
        outputs=None,
    )
    return shift_categories(splits, category_shift, seed)


def _code(exchanged: int | None, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """The label of every digit, ``[10]``."""
    code = np.arange(10)
    if exchanged is None:
        return generator.permutation(code)
    chosen = generator.choice(10, exchanged, replace=False)
    code[chosen] = np.roll(chosen, 1)
    return code


def relabelled_digits(
    shots: int = 3,
    validation_shots: int | None = None,
    num_tasks: int = 6,
    num_codes: int = 2,
    seed: int = 0,
    category_shift: float = 0.0,
    exchanged: int | None = None,
) -> TaskSplits:
    """Classification of real images, where it is known which tasks are related.

    Every task has digits of the same kind, dealt class by class. Tasks of one code give the digits
    the same labels, those of another a permutation of them, drawn by ``seed``; task t has code
    t mod ``num_codes``, and ``truth`` holds the codes. Since no encoder can tell from an image to
    which task it belongs, tasks of different codes must differ in their weights.

    :param shots: training images per class and task.
    :param validation_shots: validation images per class and task, by default as many again; with
        0 the validation part is empty.
    :param num_tasks: T.
    :param num_codes: how many ways there are to label the digits, at most T.
    :param seed: of the dealing, of the codes, and of the classes that are missing.
    :param category_shift: the share of each task's labels that are missing in its training and
        validation parts; see :func:`shift_categories`. A label may stay in tasks of another code
        alone, which say nothing of it.
    :param exchanged: how many digits every further code exchanges in a circle, while the others
        keep their labels: the fewer, the more alike tasks of different codes are; None, all digits
        are permuted.
    :returns: three parts that share no source image (``sources``: its row in ``load_digits``).
    :raises InputError: if the digits do not suffice for one test image per class and task, or a
        label stays in no task.
    """
    check_whole("num_tasks", num_tasks, 1)
    check_whole("num_codes", num_codes, 1)
    if num_codes > num_tasks:
        raise InputError(f"num_codes is {num_codes}; expected at most the {num_tasks} tasks.")
    if exchanged is not None:
        check_whole("exchanged", exchanged, 2)
        if exchanged > 10:
            raise InputError(f"exchanged is {exchanged}; expected at most the 10 digits.")
    images, labels = _digits()
    pools = _shuffled_pools(labels, seed)
    largest = min(len(pool) for pool in pools) // num_tasks - 1
    validation_shots = _check_shots(shots, validation_shots, largest, "class and task")

    generator = np.random.default_rng((seed, 1))
    codes = [np.arange(10), *(_code(exchanged, generator) for _ in range(num_codes - 1))]
    given = np.empty_like(labels)
    parts = []
    for task in range(num_tasks):
        dealt = [pool[task::num_tasks] for pool in pools]
        parts.append([np.split(rows, (shots, shots + validation_shots)) for rows in dealt])
        own = np.concatenate(dealt)
        given[own] = codes[task % num_codes][labels[own]]
    splits = _splits(
        names=tuple(f"code {t % num_codes}, {t // num_codes + 1}" for t in range(num_tasks)),
        images=images,
        y=torch.from_numpy(given),
        parts=parts,
        classes=tuple(str(digit) for digit in range(10)),
        outputs=None,
        truth=torch.arange(num_tasks) % num_codes,
    )
    return shift_categories(splits, category_shift, seed)


@lru_cache(maxsize=1)
def _digits() -> tuple[_Array, _Array]:
    digits = load_digits()
    return digits.images / 16, digits.target.astype(np.int64)


def _shuffled_pools(labels: _Array, seed: int) -> list[_Array]:
    """The images of every digit, in an order of chance."""
    check_whole("seed", seed, 0)
    generator = np.random.default_rng(seed)
    return [generator.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]


def _check_shots(shots: int, validation_shots: int | None, largest: int, per: str) -> int:
    """The number of validation shots, once it is sure that the images suffice."""
    check_whole("shots", shots, 1)
    if validation_shots is not None:
        check_whole("validation_shots", validation_shots, 0)
    wanted = shots if validation_shots is None else validation_shots
    if shots + wanted > largest:
        if validation_shots is None:
            most, given = largest // 2, "as many again for validation"
        else:
            most, given = largest - wanted, f"validation_shots={wanted}"
        possible = f"at most {most}" if most >= 1 else f"validation_shots of at most {largest - 1}"
        raise InputError(
            f"shots is {shots} per {per} with {given}; expected {possible}, as there are "
            f"{largest + 1} images per {per} and one must be left for the test."
        )
    return wanted


def _splits(
    names: tuple[str, ...],
    images: _Array,
    y: torch.Tensor,
    parts: Sequence[Sequence[Sequence[_Array]]],
    classes: tuple[str, ...] | None,
    outputs: tuple[str, ...] | None,
    truth: torch.Tensor | None = None,
) -> TaskSplits:
    """``parts[task][stratum]`` are the rows for training, validation and test."""
    x = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    sets = []
    for which in range(3):
        by_task = [np.concatenate([stratum[which] for stratum in strata]) for strata in parts]
        rows = torch.from_numpy(np.concatenate(by_task))
        sizes = [len(rows_of_task) for rows_of_task in by_task]
        sets.append(
            TaskSet(
                names=names,
                x=x[rows],
                y=y[rows],
                task=torch.from_numpy(np.repeat(np.arange(len(names)), sizes)),
                classes=classes,
                outputs=outputs,
                sources=rows,
                truth=truth,
            )
        )
    return TaskSplits(*sets)
