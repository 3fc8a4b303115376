"""Finding the images in a folder ``domain/class/image``, however a known set names its parts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyro_vmtl.data.image_lists import find_list, loose_name, read_list
from pyro_vmtl.data.image_trees import ImageTree
from pyro_vmtl.data.images import IMAGE_SUFFIXES
from pyro_vmtl.errors import InputError

__all__ = ["Layout", "check_root", "find_images"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How a known set of images is distributed.

    :param domains: the domains, and under which other names their folders are found.
    :param classes: the classes in their order, and under which other names their folders are
        found; other folders are passed over. None: whatever folders there are.
    :param optional: domains that need not be there.
    :param num_classes: how many classes the whole set has.
    :param class_list: where a domain has no class folders: the name of the list file, with
        ``{domain}`` in it, that says the class of its images.
    """

    domains: Mapping[str, Sequence[str]]
    classes: Mapping[str, Sequence[str]] | None = None
    optional: frozenset[str] = frozenset()
    num_classes: int | None = None
    class_list: str | None = None


class _Domain(NamedTuple):
    """The images of one domain, by the name of their class folder or, if flat, of the class."""

    folder: Path
    files: dict[str, list[Path]]
    flat: bool


def check_root(root: str | Path) -> Path:
    """The folder that is to hold the domains.

    :raises InputError: if it is none.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(
            f"the folder '{root}' {'is a file' if root.exists() else 'does not exist'}; "
            "expected a folder of domain/class/image."
        )
    return root


def find_images(
    root: str | Path,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    layout: Layout | None = None,
) -> ImageTree:
    """Find the images in ``root/domain/class/image``.

    A level ``images`` between domain and class is passed through. Hidden files and files whose
    names do not end as an image's are passed over. Class folders of two domains hold the same
    class if their names differ only in case, or in spaces for ``_`` or ``-`` - unless one domain
    has two such folders: then letters count as they stand.

    :param domains: the domains wanted, in order; by default those of the layout, else every folder
        that is not a folder of other files.
    :param classes: the classes wanted, in order; by default those of the layout, else all, sorted.
    :param layout: of a known set.
    :raises InputError: if there is no such folder, a domain is not there or holds no image, a
        class is nowhere, or a domain has neither class folders nor a list of their classes.
    """
    root = check_root(root)
    layout = Layout(domains={}) if layout is None else layout
    root, folders = _domain_folders(root, domains, layout)
    wanted = _wanted_classes(classes, layout)
    asked = domains is not None or bool(layout.domains)
    found: dict[str, _Domain] = {}
    for name, folder in folders.items():
        domain = _scan(root, name, folder, layout, asked)
        if domain is not None:
            found[name] = domain
    if not found:
        raise InputError(f"'{root}' holds no images; expected domain/class/image.")

    names, name_of = _class_of_folder(found, classes, wanted)
    paths, domain_of, label = [], [], []
    for number, (name, domain) in enumerate(found.items()):
        own = [
            (file.relative_to(root).as_posix(), names.index(name_of[key]))
            for key, files in domain.files.items()
            if key in name_of
            for file in files
        ]
        if not own:
            raise InputError(
                f"the domain {name!r} in '{domain.folder}' has the folders {_few(domain.files)}; "
                f"expected some of the classes {_few(dict.fromkeys(wanted.values()) or names)}."
            )
        own.sort()
        paths += [path for path, _ in own]
        label += [position for _, position in own]
        domain_of += [number] * len(own)
    tree = ImageTree(
        root=root,
        domains=tuple(found),
        classes=names,
        paths=tuple(paths),
        domain=np.array(domain_of, dtype=np.int64),
        label=np.array(label, dtype=np.int64),
        flat=frozenset(n for n, domain in enumerate(found.values()) if domain.flat),
        domain_names=_domain_names(found, layout),
        class_names={loose_name(key): name for key, name in (wanted | name_of).items()},
    )
    if classes is None and layout.num_classes not in (None, len(names)):
        log.warning(
            "'%s' has %d classes where the whole set has %d", root, len(names), layout.num_classes
        )
    return tree


def _domain_folders(
    root: Path, domains: Sequence[str] | None, layout: Layout
) -> tuple[Path, dict[str, Path]]:
    """The root, or the one folder in it that the archive unpacked to, and the domains' folders."""
    if domains is None and not layout.domains:
        return root, {folder.name: folder for folder in _subfolders(root)}
    known = {loose_name(other): n for n, names in layout.domains.items() for other in (n, *names)}
    if domains is None:
        wanted = list(layout.domains)
    else:
        given = [domains] if isinstance(domains, str) else list(domains)
        wanted = [known.get(loose_name(name), name) for name in given]
    if len(set(wanted)) < len(wanted):
        raise InputError(f"the domains are {wanted}; expected each once.")
    must = [name for name in wanted if domains is not None or name not in layout.optional]
    folders = _find_all(root, wanted, layout)
    if not folders:
        inner = {sub: _find_all(sub, wanted, layout) for sub in _subfolders(root)}
        whole = [sub for sub, names in inner.items() if set(must) <= set(names)]
        if len(whole) == 1:
            root, folders = whole[0], inner[whole[0]]
    missing = [name for name in must if name not in folders]
    if missing:
        there = _few(folder.name for folder in _subfolders(root)) or "no folder"
        raise InputError(
            f"there is no domain {missing[0]!r} in '{root}', which has {there}; expected the "
            f"folders {_few(must)}, or domains=[...] that says which "
            "of them to use."
        )
    return root, {name: folders[name] for name in wanted if name in folders}


def _find_all(root: Path, wanted: Sequence[str], layout: Layout) -> dict[str, Path]:
    subfolders = _subfolders(root)
    by_name = {folder.name: folder for folder in subfolders}
    found = {}
    for name in wanted:
        names = (name, *layout.domains.get(name, ()))
        exact = [by_name[other] for other in names if other in by_name]
        loose = {loose_name(other) for other in names}
        near = [folder for folder in subfolders if loose_name(folder.name) in loose]
        if not exact and len(near) > 1:
            raise InputError(
                f"the domain {name!r} may be any of the folders {_few(f.name for f in near)} in "
                f"'{root}'; expected one of them."
            )
        if exact or near:
            found[name] = (exact or near)[0]
    return found


def _domain_names(found: Mapping[str, _Domain], layout: Layout) -> dict[str, str]:
    names = {}
    for name, others in layout.domains.items():
        names.update({loose_name(other): name for other in (name, *others)})
    for name, domain in found.items():
        names.update({loose_name(name): name, loose_name(domain.folder.name): name})
    return names


def _wanted_classes(classes: Sequence[str] | None, layout: Layout) -> dict[str, str]:
    """From every name of a wanted class to the class; empty if all are wanted."""
    others = layout.classes or {}
    if classes is None:
        return {other: name for name, names in others.items() for other in (name, *names)}
    known = {loose_name(other): n for n, names in others.items() for other in (n, *names)}
    wanted = {}
    for name in classes:
        wanted[str(name)] = str(name)
        standard = known.get(loose_name(str(name)))
        if standard is not None:
            wanted.update(dict.fromkeys((standard, *others[standard]), str(name)))
    return wanted


def _class_of_folder(
    found: Mapping[str, _Domain], classes: Sequence[str] | None, wanted: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The classes in their order, and the class of every folder name that is wanted."""
    folders = {key for domain in found.values() for key in domain.files}
    # Folders "a" and "A" in one domain are two classes, not one spelt in two ways.
    exact = any(
        len({loose_name(key) for key in domain.files}) < len(domain.files)
        for domain in found.values()
    )
    if wanted:
        near = {} if exact else {loose_name(key): name for key, name in wanted.items()}
        name_of = {key: wanted.get(key) or near.get(loose_name(key)) for key in sorted(folders)}
        chosen = {key: name for key, name in name_of.items() if name is not None}
        order = list(dict.fromkeys(wanted.values()))
        nowhere = [name for name in order if name not in chosen.values()]
        if classes is not None and nowhere:
            raise InputError(
                f"there is no class {nowhere[0]!r}; expected some of the folders "
                f"{_few(sorted(folders))}."
            )
        return tuple(name for name in order if name in chosen.values()), chosen
    first: dict[str, str] = {}
    for domain in found.values():
        for key in domain.files:
            first.setdefault(key if exact else loose_name(key), key)
    chosen = {key: first[key if exact else loose_name(key)] for key in folders}
    return tuple(sorted(first.values())), chosen


def _scan(root: Path, name: str, folder: Path, layout: Layout, asked: bool) -> _Domain | None:
    """The images of a domain; None for a folder of other files that nobody asked for."""
    subfolders, images, others = _entries(folder)
    if not images and len(subfolders) == 1 and loose_name(subfolders[0].name) == "images":
        inner = _entries(subfolders[0])
        if inner[0] or inner[1]:
            subfolders, images, others = inner
    by_class = {sub.name: _entries(sub)[1] for sub in subfolders}
    by_class = {key: files for key, files in by_class.items() if files}
    if by_class:
        if images:
            log.warning("%d images in '%s' lie in no class and are left out", len(images), folder)
        return _Domain(folder, by_class, flat=False)
    if images:
        return _Domain(folder, _listed(root, name, folder, images, layout), flat=True)
    if not asked and (others or any(_entries(sub)[2] for sub in subfolders)):
        log.warning("'%s' holds no image and is passed over", folder)
        return None
    raise InputError(
        f"the domain {name!r} in '{folder}' holds no image; expected {folder.name}/<class>/<image>."
    )


def _listed(
    root: Path, name: str, folder: Path, images: Sequence[Path], layout: Layout
) -> dict[str, list[Path]]:
    """The images of a domain without class folders, by the class that its list file says."""
    if layout.class_list is None or layout.classes is None:
        raise InputError(
            f"the images of the domain {name!r} lie in no class folders, the first "
            f"'{images[0]}'; expected {folder.name}/<class>/<image>."
        )
    classes = tuple(layout.classes)
    file_name = layout.class_list.format(domain=folder.name)
    places = [root, root / "list", root / "lists", folder, root.parent / "list"]
    file = find_list(places, [file_name, layout.class_list.format(domain=name)])
    if file is None:
        raise InputError(
            f"the images of the domain {name!r} lie in no class folders and there is no list of "
            f"their classes; expected '{root / file_name}' with lines 'path label'."
        )
    by_name = {loose_name(image.name): image for image in images}
    by_class: dict[str, list[Path]] = {}
    for line in read_list(file):
        if not line.label.isdecimal() or int(line.label) >= len(classes):
            raise InputError(
                f"line {line.number} of '{file}' has the label {line.label!r}; "
                f"expected 0 to {len(classes) - 1}."
            )
        image = by_name.pop(loose_name(line.path.replace("\\", "/").split("/")[-1]), None)
        if image is not None:
            by_class.setdefault(classes[int(line.label)], []).append(image)
    if not by_class:
        raise InputError(f"'{file}' names none of the {len(images)} images in '{folder}'.")
    if by_name:
        log.warning("%d images in '%s' are not in '%s' and left out", len(by_name), folder, file)
    return by_class


def _few(names: Iterable[str], limit: int = 10) -> str:
    shown = [repr(name) for name in names]
    more = f", ... ({len(shown)} in all)" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def _subfolders(folder: Path) -> list[Path]:
    return _entries(folder)[0]


def _entries(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Folders, images and other files, sorted by name; what is hidden is not looked at."""
    folders, images, others = [], [], []
    with os.scandir(folder) as entries:  # asks the disk about a folder, not about every file in it
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = folder / entry.name
            if entry.name.startswith((".", "__MACOSX")):  # as archives made on a Mac leave behind
                continue
            if entry.is_dir():
                folders.append(path)
            elif path.suffix.casefold() in IMAGE_SUFFIXES:
                images.append(path)
            else:
                others.append(path)
    return folders, images, others
