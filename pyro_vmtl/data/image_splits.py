"""Which images of a tree train, validate and test: drawn, or read from published lists."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pyro_vmtl.data.arguments import check_whole
from pyro_vmtl.data.image_lists import (
    ListReport,
    find_list,
    loose_name,
    match_list,
    write_list,
    write_text,
)
from pyro_vmtl.data.image_trees import ImageTree
from pyro_vmtl.data.splits import TaskSplits, draw_missing_classes
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = [
    "LIST_NAMES",
    "PARTS",
    "ImageReport",
    "ImageSplits",
    "Parts",
    "check_fractions",
    "draw_parts",
    "percent",
    "read_parts",
    "shift_parts",
]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

PARTS = ("train", "validation", "test")
"""The names of the parts, in the order of their numbers."""

LIST_NAMES = tuple("{domain}/" + part + "_{percent}.txt" for part in PARTS)
"""The names of list files: ``Art/train_5.txt``."""

_UNUSED, _TRAIN, _VALIDATION, _TEST = range(-1, 3)


@dataclass(frozen=True, eq=False)
class Parts:
    """The part that every image of a tree belongs to.

    :param part: ``[N]`` int64: -1 where unused, 0 to train on, 1 for validation, 2 to test on.
    :param lists: what became of the list files, if there were any.
    :param in_both: images that are listed for two parts, and stay in the first of training,
        validation and test.
    """

    part: _Array
    lists: tuple[ListReport, ...] = ()
    in_both: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageReport:
    """What was found, matched, taken, and left out.

    :param root: where the images lie.
    :param classes: their classes.
    :param images: for every domain the number of images per part.
    :param validation_from: what the validation images were taken, and removed, from.
    :param lists: what became of the list files, if there were any.
    :param in_both: images that are listed for two parts, and stay in the first of training,
        validation and test.
    :param contradictions: labels of the lists that do not go with the class folders one to one.
    :param unreadable: images that were left out, and why they cannot be read.
    :param alone: classes that a single domain has, and which.
    """

    root: str
    classes: tuple[str, ...]
    images: Mapping[str, Mapping[str, int]]
    validation_from: str
    lists: tuple[ListReport, ...] = ()
    in_both: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    alone: Mapping[str, str] = field(default_factory=dict)

    def total(self, part: str) -> int:
        """The images of one part, ``"train"``, ``"validation"`` or ``"test"``, over the domains."""
        return sum(counts[part] for counts in self.images.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know before trusting the split, a line each."""
        lines = [str(report) for report in self.lists if not report.complete]
        total = sum(self.total(part) for part in PARTS)
        if self.in_both:
            lines.append(
                f"{len(self.in_both)} of {total} images are listed for two parts, first "
                f"'{self.in_both[0]}'; each stays in the first of training, validation and test"
            )
        if self.contradictions:
            lines.append(f"labels of the lists against class folders: {self.contradictions[0]}")
        if self.alone and len(self.images) > 1:
            name, domain = next(iter(self.alone.items()))
            lines.append(
                f"{len(self.alone)} of {len(self.classes)} classes are in a single domain, first "
                f"{name!r} in {domain!r}"
            )
        if self.unreadable:
            path, why = next(iter(self.unreadable.items()))
            lines.append(
                f"{len(self.unreadable)} of {total + len(self.unreadable)} images cannot be read "
                f"and are left out, first '{path}' ({why})"
            )
        return tuple(lines)

    def __str__(self) -> str:
        said = (
            f"{len(self.images)} domains, {len(self.classes)} classes: {self.total('train')} "
            f"images to train on, {self.total('validation')} for validation taken from "
            f"{self.validation_from}, {self.total('test')} to test on"
        )
        if self.lists:
            matched = sum(report.matched for report in self.lists)
            lines = sum(report.lines for report in self.lists)
            said += f"; {matched} of {lines} lines of {len(self.lists)} lists matched"
        return said


class ImageSplits(TaskSplits):
    """Three parts of the same tasks, and where their samples came from.

    ``sources`` of the parts are rows of ``tree``: ``tree.paths[row]`` is the file of a sample.

    :param train: to train on.
    :param validation: to choose by.
    :param test: to report on.
    :param tree: all images that were found.
    :param report: what was found, matched, taken and left out.
    :param percent: the fraction to train on, as the names of list files say it: "5".
    """

    tree: ImageTree
    report: ImageReport
    percent: str

    def __new__(
        cls,
        train: TaskSet,
        validation: TaskSet,
        test: TaskSet,
        tree: ImageTree,
        report: ImageReport,
        percent: str,
    ) -> ImageSplits:
        splits = super().__new__(cls, train, validation, test)
        splits.tree = tree
        splits.report = report
        splits.percent = percent
        return splits

    def write_lists(self, folder: str | Path) -> list[Path]:
        """Write ``<domain>/train_5.txt`` and so on, and ``images.json``, the report, to ``folder``.

        ``lists=folder`` makes the same splits of the same images again, wherever they lie.

        :returns: the files written.
        """
        folder = Path(folder)
        written = []
        for name, pattern, tasks in zip(PARTS, LIST_NAMES, self, strict=True):
            if tasks.sources is None:
                raise InputError(f"the part {name!r} does not know its images; expected sources.")
            rows = np.sort(tasks.sources.cpu().numpy())
            for number, domain in enumerate(self.tree.domains):
                file = folder / pattern.format(domain=domain, percent=self.percent)
                write_list(file, self.tree, rows[self.tree.domain[rows] == number])
                written.append(file)
        report = folder / "images.json"
        write_text(report, json.dumps(asdict(self.report), indent=1, ensure_ascii=False))
        return [*written, report]


def percent(fraction: float) -> str:
    """0.05 as the names of list files say it: ``"5"``."""
    return f"{100 * fraction:.6g}"


def check_fractions(fraction: float, validation: float | None) -> float:
    """The fraction for validation, once it is sure that both are fractions.

    :raises InputError: if they are not, or leave nothing to test on.
    """
    wanted = fraction if validation is None else validation
    for name, value, least in (("fraction", fraction, "above 0"), ("validation", wanted, "from 0")):
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not 0 <= value < 1 or (value == 0 and least == "above 0"):
            raise InputError(
                f"{name} is {value!r}; expected a fraction {least} to below 1, such as 0.05."
            )
    if fraction + wanted >= 1:
        raise InputError(
            f"fraction={fraction} and validation={wanted} leave nothing to test on; "
            "expected fractions that sum to less than 1."
        )
    return wanted


def draw_parts(
    tree: ImageTree,
    fraction: float,
    validation: float | None = None,
    seed: int = 0,
    own_lists: Callable[[str, str], Path] | None = None,
) -> Parts:
    """Draw the parts at random, class by class in every domain.

    Of n images of a class in a domain, ``fraction`` n train, rounded, at least one; then
    ``validation`` n of the others validate, rounded, at least one where two are left; the rest is
    the test part. What is drawn for a class in a domain depends on the seed and their names only,
    and a smaller fraction trains on a part of what a larger one trains on.

    :param validation: by default as large as ``fraction``.
    :param own_lists: from a domain and ``"train"`` or ``"test"`` to a list file, for a set that
        comes with them: training and validation are drawn from the train list, and the test part
        is the test list.
    :raises InputError: for fractions out of range, or lists that match nothing.
    """
    validation = check_fractions(fraction, validation)
    check_whole("seed", seed, 0)
    part: _Array = np.full(len(tree), _TEST, dtype=np.int64)
    pool: _Array = np.ones(len(tree), dtype=bool)
    reports: list[ListReport] = []
    in_both: list[str] = []
    if own_lists is not None:
        part[:] = _UNUSED
        pool[:] = False
        for number, domain in enumerate(tree.domains):
            (drawn, first), (tested, second) = (
                match_list(tree, number, own_lists(domain, PARTS[which]))
                for which in (_TRAIN, _TEST)
            )
            in_both += [tree.paths[row] for row in np.intersect1d(drawn, tested)]
            part[tested] = _TEST
            part[drawn] = _UNUSED
            pool[drawn] = True
            reports += [first, second]
    for rows in _strata(tree, pool, seed):
        train = max(1, _rounded(fraction * len(rows)))
        # Where the test part is a list of its own, all that is left may validate.
        left = len(rows) - train - (0 if own_lists is not None else 1)
        part[rows[:train]] = _TRAIN
        part[rows[train:][: _validation_size(validation * len(rows), left)]] = _VALIDATION
    return Parts(part, tuple(reports), tuple(in_both))


def read_parts(
    tree: ImageTree,
    folder: str | Path,
    fraction: float,
    validation: float | None = None,
    seed: int = 0,
    names: Sequence[str] = LIST_NAMES,
    own_lists: Callable[[str, str], Path] | None = None,
) -> Parts:
    """Read the parts from list files; a validation part without lists comes out of the test part.

    Of n listed images of a class in a domain, ``validation`` n are taken from the test part,
    rounded, at least one where two are there, and removed from it.

    :param folder: where the list files lie.
    :param fraction: what ``{percent}`` in their names stands for.
    :param validation: by default as large as ``fraction``; not looked at where there are lists.
    :param seed: of what is drawn.
    :param names: of the train, validation and test list, with ``{domain}`` and ``{percent}``.
    :param own_lists: from a domain and ``"test"`` to the list that the set comes with, for when
        there is none in ``folder``.
    :raises InputError: for list files that are not there or match nothing.
    """
    validation = check_fractions(fraction, validation)
    check_whole("seed", seed, 0)
    folder = Path(folder).expanduser()
    part: _Array = np.full(len(tree), _UNUSED, dtype=np.int64)
    reports: list[ListReport] = []
    in_both: list[str] = []
    validated = []
    for number, domain in enumerate(tree.domains):
        files = [_find(tree, folder, pattern, domain, fraction) for pattern in names]
        if files[_TEST] is None and own_lists is not None:
            files[_TEST] = own_lists(domain, PARTS[_TEST])
        for which in (_TRAIN, _TEST):
            if files[which] is None:
                wanted = names[which].format(domain=domain, percent=percent(fraction))
                raise InputError(
                    f"there is no list '{folder / wanted}' of the domain {domain!r}; "
                    "expected a file of lines 'path label'."
                )
        validated.append(files[_VALIDATION] is not None)
        # Training last: an image that is listed twice trains.
        for which in (_TEST, _VALIDATION, _TRAIN):
            file = files[which]
            if file is None or (which != _TRAIN and not file.read_bytes().strip()):
                continue  # as written for a part that has no image in this domain
            rows, report = match_list(tree, number, file)
            in_both += [tree.paths[row] for row in rows if part[row] > which]
            part[rows] = which
            reports.append(report)
    for rows in _strata(tree, part != _UNUSED, seed):
        if validated[tree.domain[rows[0]]]:
            continue
        tested = rows[part[rows] == _TEST]
        number = _validation_size(validation * len(rows), len(tested) - 1)
        part[tested[:number]] = _VALIDATION
    return Parts(part, tuple(reports), tuple(in_both))


def shift_parts(tree: ImageTree, parts: Parts, category_shift: float, seed: int) -> Parts:
    """Take a share of every domain's classes out of training and validation.

    What :func:`pyro_vmtl.data.shift_categories` does to task sets, before an image is read: the
    images of missing classes are unused.

    :raises InputError: as :func:`pyro_vmtl.data.splits.draw_missing_classes`.
    """
    train = parts.part == _TRAIN
    counts = np.zeros((len(tree.domains), len(tree.classes)), dtype=np.int64)
    np.add.at(counts, (tree.domain[train], tree.label[train]), 1)
    missing = draw_missing_classes(counts, category_shift, seed)[tree.domain, tree.label]
    unused = missing & ((parts.part == _TRAIN) | (parts.part == _VALIDATION))
    return replace(parts, part=np.where(unused, _UNUSED, parts.part))


def _find(tree: ImageTree, folder: Path, pattern: str, domain: str, fraction: float) -> Path | None:
    others = [other for other, name in tree.domain_names.items() if name == domain]
    return find_list(
        [folder],
        [pattern.format(domain=name, percent=percent(fraction)) for name in (domain, *others)],
    )


def _strata(tree: ImageTree, chosen: _Array, seed: int) -> list[_Array]:
    """The chosen rows of every class in every domain, each in an order of chance."""
    cells = tree.domain * len(tree.classes) + tree.label
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(cells[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(cells[rows])) + 1
    strata = []
    for members in np.split(rows, starts) if len(rows) else []:
        cell = int(cells[members[0]])
        domain = tree.domains[cell // len(tree.classes)]
        name = f"{loose_name(domain)}/{loose_name(tree.classes[cell % len(tree.classes)])}"
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        strata.append(generator.permutation(members))
    return strata


def _rounded(number: float) -> int:
    return int(number + 0.5)


def _validation_size(wanted: float, most: int) -> int:
    if wanted == 0:
        return 0
    return max(0, min(max(1, _rounded(wanted)), most))
