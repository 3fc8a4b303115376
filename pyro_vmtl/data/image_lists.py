"""List files of lines ``path label``: read, matched with a tree of images, and written."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from pyro_vmtl.data.image_trees import ImageTree
from pyro_vmtl.data.images import IMAGE_SUFFIXES
from pyro_vmtl.errors import InputError

__all__ = [
    "ListLine",
    "ListReport",
    "find_list",
    "loose_name",
    "match_list",
    "read_list",
    "write_list",
    "write_text",
]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class ListLine(NamedTuple):
    """A line of a list file: its number from 1, the path as it stands there, and the label."""

    number: int
    path: str
    label: str


@dataclass(frozen=True)
class ListReport:
    """How many lines of a list file named an image of the tree.

    :param file: the list file.
    :param lines: its lines, blank ones aside.
    :param matched: the images found, each counted once.
    :param unmatched: the paths of lines for which there is no image.
    :param ambiguous: the paths of lines for which there are several, and these.
    :param repeated: lines that name an image once more.
    :param labels: for every label the classes of the images that bear it.
    """

    file: str
    lines: int
    matched: int
    unmatched: tuple[str, ...]
    ambiguous: tuple[tuple[str, tuple[str, ...]], ...]
    repeated: int
    labels: Mapping[str, tuple[str, ...]]

    @property
    def complete(self) -> bool:
        """Whether every line found its image, and each another one."""
        return self.matched == self.lines

    def __str__(self) -> str:
        said = [f"'{self.file}': {self.matched} of {self.lines} lines matched"]
        if self.unmatched:
            said.append(f"{len(self.unmatched)} without an image, first '{self.unmatched[0]}'")
        if self.ambiguous:
            path, images = self.ambiguous[0]
            either = " or ".join(f"'{image}'" for image in images)
            said.append(f"{len(self.ambiguous)} ambiguous, first '{path}' ({either})")
        if self.repeated:
            said.append(f"{self.repeated} repeated")
        return ", ".join(said)


def loose_name(name: str) -> str:
    """``name`` without what differs from disk to disk: case, and spaces for ``_`` or ``-``."""
    return re.sub(r"[\s_\-]+", "_", unicodedata.normalize("NFC", name).casefold()).strip("_")


def read_list(file: str | Path) -> list[ListLine]:
    """The lines of a list file; the label is the last word, the path may hold spaces.

    :raises InputError: if it cannot be read, is empty, or has a line of another kind.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list file '{file}' cannot be read ({error}).") from error
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().replace("\t", " ").rpartition(" ")
        path = path.strip().strip("\"'")
        if PurePosixPath(path).suffix.casefold() not in IMAGE_SUFFIXES:
            raise InputError(
                f"line {number} of the list file '{file}' is '{line.strip()}'; "
                "expected the path of an image and a label, such as 'Art/Chair/00001.jpg 10'."
            )
        lines.append(ListLine(number, path, label))
    if not lines:
        raise InputError(f"the list file '{file}' is empty; expected lines 'path label'.")
    return lines


def find_list(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The first of the files ``names``, relative to the ``folders``, that exists.

    Where none is there to the letter, case and spaces for ``_`` or ``-`` do not count.
    """
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    for folder in folders:
        for name in names:
            found = [folder]
            for part in PurePosixPath(name).parts:
                found = [
                    entry
                    for parent in found
                    if parent.is_dir()
                    for entry in sorted(parent.iterdir())
                    if loose_name(entry.name) == loose_name(part)
                ]
            for file in found:
                if file.is_file():
                    return file
    return None


def match_list(tree: ImageTree, domain: int, file: str | Path) -> tuple[_Array, ListReport]:
    """The images that a list file of one domain names, wherever the images lay when it was made.

    A line is matched by the end of its path: class folder and file name, or the file name alone in
    a domain without class folders. Backslashes separate as slashes do. An image of exactly these
    names comes first; else case and spaces for ``_`` or ``-`` do not count, nor which of its known
    names a class bears. The folder before them, where it is one of the tree's domains, must be this
    domain.

    :returns: rows of the tree, in the order of the list, each once; and the report.
    :raises InputError: if no line matches, if a line names an image of another domain, or for a
        file that is not such a list.
    """
    lines = read_list(file)
    depth = 1 if domain in tree.flat else 2
    exact: dict[tuple[str, ...], int] = {}
    loose: dict[tuple[str, ...], list[int]] = {}
    for row in tree.rows(domain):
        parts = PurePosixPath(tree.paths[row]).parts[-depth:]
        exact[parts] = row
        loose.setdefault(_loose_parts(tree, parts), []).append(row)
    rows: dict[int, None] = {}
    labels: dict[str, set[str]] = {}
    unmatched, ambiguous, repeated = [], [], 0
    for line in lines:
        parts = tuple(part for part in re.split(r"[\\/]+", line.path) if part)
        _check_domain(tree, domain, file, line, parts[:-depth])
        found = [exact[parts[-depth:]]] if parts[-depth:] in exact else []
        found = found or loose.get(_loose_parts(tree, parts[-depth:]), [])
        if not found:
            unmatched.append(line.path)
        elif len(found) > 1:
            ambiguous.append((line.path, tuple(tree.paths[row] for row in found)))
        elif found[0] in rows:
            repeated += 1
        else:
            rows[found[0]] = None
            labels.setdefault(line.label, set()).add(tree.classes[tree.label[found[0]]])
    if not rows:
        wanted = "<class>/<image>" if depth == 2 else "<image>"
        first = tree.paths[tree.rows(domain)[0]]
        raise InputError(
            f"none of the {len(lines)} lines of '{file}' names an image of the domain "
            f"{tree.domains[domain]!r} in '{tree.root}' (line {lines[0].number}: "
            f"'{lines[0].path}'); expected paths that end in {wanted}, such as '{first}'."
        )
    report = ListReport(
        file=str(file),
        lines=len(lines),
        matched=len(rows),
        unmatched=tuple(unmatched),
        ambiguous=tuple(ambiguous),
        repeated=repeated,
        labels={label: tuple(sorted(names)) for label, names in labels.items()},
    )
    return np.array(list(rows), dtype=np.int64), report


def write_list(file: Path, tree: ImageTree, rows: _Array) -> None:
    """Write lines ``path label`` for these images: path from the tree's root, number of the class.

    The file is written to the side and renamed.
    """
    lines = [f"{tree.paths[row]} {tree.label[row]}\n" for row in rows]
    write_text(file, "".join(lines))


def write_text(file: Path, text: str) -> None:
    """Write ``text`` to the side, then put it in place, with the folders that it needs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def _loose_parts(tree: ImageTree, parts: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(loose_name(part) for part in parts)
    if len(names) == 2:
        return (loose_name(tree.class_names.get(names[0], names[0])), names[1])
    return names


def _check_domain(
    tree: ImageTree, domain: int, file: str | Path, line: ListLine, above: tuple[str, ...]
) -> None:
    names = [loose_name(part) for part in above]
    if names and names[-1] == "images":  # amazon/images/bike/frame_0001.jpg
        names.pop()
    named = tree.domain_names.get(names[-1]) if names else None
    if named is not None and named != tree.domains[domain]:
        raise InputError(
            f"line {line.number} of '{file}' names an image of the domain {named!r}, "
            f"'{line.path}'; expected images of {tree.domains[domain]!r}."
        )
