"""Classification in several domains, a task each: the published sets, and a user's own images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vmtl.data.arguments import check_whole
from pyro_vmtl.data.features import extract_features
from pyro_vmtl.data.image_folders import Layout, check_root, find_images
from pyro_vmtl.data.image_lists import ListReport, find_list
from pyro_vmtl.data.image_splits import (
    LIST_NAMES,
    PARTS,
    ImageReport,
    ImageSplits,
    Parts,
    draw_parts,
    percent,
    read_parts,
    shift_parts,
)
from pyro_vmtl.data.image_trees import ImageTree
from pyro_vmtl.data.images import (
    IMAGENET_TRANSFORM,
    ImageData,
    ImageTransform,
    Transform,
    UnreadableChoice,
    check_choice,
    check_readable,
    read_images,
)
from pyro_vmtl.data.networks import FrozenNetwork, frozen_network
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = [
    "ImageOptions",
    "domainnet",
    "image_domains",
    "imageclef",
    "office_caltech",
    "office_home",
]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

log = logging.getLogger(__name__)

OFFICE_HOME = Layout(
    domains={"Art": (), "Clipart": (), "Product": (), "Real World": ("Real_World", "RealWorld")},
    num_classes=65,
)

# The second names are those of Caltech-256.
OFFICE_CALTECH = Layout(
    domains={"amazon": (), "caltech10": ("caltech", "caltech_10"), "dslr": (), "webcam": ()},
    classes={
        "back_pack": ("backpack", "003.backpack"),
        "bike": ("touring-bike", "224.touring-bike"),
        "calculator": ("027.calculator",),
        "headphones": ("head-phones", "101.head-phones"),
        "keyboard": ("computer-keyboard", "045.computer-keyboard"),
        "laptop_computer": ("laptop", "laptop-101", "127.laptop-101"),
        "monitor": ("computer-monitor", "046.computer-monitor"),
        "mouse": ("computer-mouse", "047.computer-mouse"),
        "mug": ("coffee-mug", "041.coffee-mug"),
        "projector": ("video-projector", "238.video-projector"),
    },
    num_classes=10,
)

# In the order of the labels in its lists.
IMAGECLEF = Layout(
    domains={
        "c": ("caltech", "caltech256"),
        "i": ("imagenet",),
        "p": ("pascal",),
        "b": ("bing",),
    },
    optional=frozenset({"b"}),
    classes={
        "aeroplane": ("airplane", "plane"),
        "bike": ("bicycle",),
        "bird": (),
        "boat": (),
        "bottle": (),
        "bus": (),
        "car": (),
        "dog": (),
        "horse": (),
        "monitor": ("tvmonitor",),
        "motorbike": ("motorcycle",),
        "people": ("person",),
    },
    num_classes=12,
    class_list="{domain}List.txt",
)

DOMAINNET = Layout(
    domains=dict.fromkeys(("clipart", "infograph", "painting", "quickdraw", "real", "sketch"), ()),
    num_classes=345,
)


class ImageOptions(TypedDict, total=False):
    """What all sets of images can be asked for; the defaults are those of :func:`image_domains`."""

    validation: float | None
    seed: int
    category_shift: float
    lists: str | Path | None
    list_names: Sequence[str]
    weights: str | Path | None
    transform: Transform | None
    image_size: int
    cache: str | Path | None
    device: torch.device | str | None
    batch_size: int
    unreadable: UnreadableChoice
    workers: int
    progress: bool


def office_home(
    root: str | Path,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    fraction: float = 0.05,
    features: str | nn.Module | FrozenNetwork | None = "vgg16",
    **options: Unpack[ImageOptions],
) -> ImageSplits:
    """Office-Home: 65 classes of things in Art, Clipart, Product and Real World (15,588 images).

    As distributed: ``Art``, ``Clipart``, ``Product`` and ``Real World`` (or ``Real_World``), class
    folders in them. Venkateswara et al. 2017. The published fractions are 0.05, 0.1 and 0.2.

    :param root: the folder that holds the domains, or that holds only that one.
    :returns: see :func:`image_domains`, as for the other parameters.
    :raises InputError: likewise.
    """
    return _image_set(OFFICE_HOME, root, domains, classes, fraction, features, options)


def office_caltech(
    root: str | Path,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    fraction: float = 0.05,
    features: str | nn.Module | FrozenNetwork | None = "vgg16",
    **options: Unpack[ImageOptions],
) -> ImageSplits:
    """Office-Caltech: the 10 classes that amazon, dslr and webcam share with Caltech-256.

    As distributed: ``amazon``, ``caltech10`` (or ``caltech``), ``dslr`` and ``webcam``, with class
    folders in them or in a folder ``images`` between, as in Office-31, whose other 21 classes are
    passed over; classes by their names in Office-31 or Caltech-256. Gong et al. 2012. The published
    fractions are 0.05, 0.1 and 0.2.

    :param root: the folder that holds the domains, or that holds only that one.
    :returns: see :func:`image_domains`, as for the other parameters.
    :raises InputError: likewise.
    """
    return _image_set(OFFICE_CALTECH, root, domains, classes, fraction, features, options)


def imageclef(
    root: str | Path,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    fraction: float = 0.05,
    features: str | nn.Module | FrozenNetwork | None = "vgg16",
    **options: Unpack[ImageOptions],
) -> ImageSplits:
    """ImageCLEF-DA: 12 classes in Caltech-256 (c), ImageNet (i), Pascal VOC (p) and Bing (b).

    As distributed: folders ``c``, ``i``, ``p`` and, where it is there, ``b``; the images lie in
    class folders, or directly in the domain's folder with lists ``cList.txt`` and so on, of lines
    ``c/113_0114.jpg 2``, beside it or in a folder ``list``. The published fractions are 0.05, 0.1
    and 0.2.

    :param root: the folder that holds the domains, or that holds only that one.
    :returns: see :func:`image_domains`, as for the other parameters.
    :raises InputError: likewise.
    """
    return _image_set(IMAGECLEF, root, domains, classes, fraction, features, options)


def domainnet(
    root: str | Path,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    fraction: float = 0.01,
    features: str | nn.Module | FrozenNetwork | None = "vgg16",
    **options: Unpack[ImageOptions],
) -> ImageSplits:
    """DomainNet: 345 classes in six domains, some 0.6 million images with lists of their own.

    As distributed: ``clipart``, ``infograph``, ``painting``, ``quickdraw``, ``real`` and
    ``sketch``, class folders in them, and beside them or in a folder ``txt``, ``list``, ``lists``
    or ``splits`` the lists ``clipart_train.txt``, ``clipart_test.txt`` and so on. Training and
    validation are drawn from the train list; the test part is the test list, whole. Peng et al.
    2019. The published fractions are 0.01, 0.02 and 0.04 of the train list.

    :param root: the folder that holds the domains, or that holds only that one.
    :returns: see :func:`image_domains`, as for the other parameters.
    :raises InputError: likewise.
    """
    return _image_set(DOMAINNET, root, domains, classes, fraction, features, options, own=True)


def image_domains(
    root: str | Path,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    fraction: float = 0.05,
    features: str | nn.Module | FrozenNetwork | None = None,
    *,
    validation: float | None = None,
    seed: int = 0,
    category_shift: float = 0.0,
    lists: str | Path | None = None,
    list_names: Sequence[str] = LIST_NAMES,
    weights: str | Path | None = None,
    transform: Transform | None = None,
    image_size: int = 224,
    cache: str | Path | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 32,
    unreadable: UnreadableChoice = "error",
    workers: int = 4,
    progress: bool = True,
) -> ImageSplits:
    """Images in ``root/domain/class/image``: a task per domain, the same classes in all.

    The parts are drawn, stratified by domain and class, and ``splits.write_lists(folder)`` saves
    them; or they are read from lists in ``lists``. In both cases the training part is whole, the
    validation images are taken, and removed, from the rest, and ``splits.report`` says how many.

    Example::

        splits = image_domains("/data/birds", fraction=0.1, features="resnet18")
        print(splits.report)
        splits.write_lists("runs/birds/splits")

    :param root: the folder that holds the domains.
    :param domains: those wanted, by default all.
    :param classes: those wanted, by default all that some domain has.
    :param fraction: how much of every class in every domain trains, rounded, at least one image.
    :param features: a frozen network, see :func:`frozen_network`, whose features are the inputs;
        None for the images themselves.
    :param validation: how much of every class in every domain validates, by default as much again.
    :param seed: of what is drawn.
    :param category_shift: the share of each domain's classes that are missing in its training and
        validation parts, see :func:`shift_categories`; the lists that are written have none of
        their images.
    :param lists: a folder of list files with lines ``path label``, named ``Art/train_5.txt`` and
        ``Art/test_5.txt`` for a fraction of 0.05, and perhaps ``Art/validation_5.txt``. Their paths
        may come from another disk: domain, class and file name count. The class is that of the
        folder.
    :param list_names: other names for the train, validation and test list, with ``{domain}`` and
        ``{percent}``.
    :param weights: a file of weights for the network.
    :param transform: from an RGB image to a tensor of one shape; by default
        :class:`ImageTransform`, for features with ImageNet's means and deviations.
    :param image_size: pixels of a side, for the default transform.
    :param cache: the folder where features are kept, see :func:`extract_features`.
    :param device: where the network runs.
    :param batch_size: images that go through it at once.
    :param unreadable: ``"error"``, or ``"skip"`` to leave out images that cannot be read, which
        are then in the report.
    :param workers: threads that decode images.
    :param progress: whether to show a progress bar.
    :returns: inputs ``[d]`` of features, or ``[3, H, W]`` of pixels in [0, 1]; ``sources`` are rows
        of ``splits.tree``.
    :raises InputError: for folders, lists, images, networks or fractions that will not do.
    """
    options = ImageOptions(
        validation=validation,
        seed=seed,
        category_shift=category_shift,
        lists=lists,
        list_names=list_names,
        weights=weights,
        transform=transform,
        image_size=image_size,
        cache=cache,
        device=device,
        batch_size=batch_size,
        unreadable=unreadable,
        workers=workers,
        progress=progress,
    )
    return _image_set(None, root, domains, classes, fraction, features, options)


def _image_set(
    layout: Layout | None,
    root: str | Path,
    domains: Sequence[str] | None,
    classes: Sequence[str] | None,
    fraction: float,
    features: str | nn.Module | FrozenNetwork | None,
    options: ImageOptions,
    own: bool = False,
) -> ImageSplits:
    unreadable = options.get("unreadable", "error")
    check_choice(unreadable)
    validation, seed = options.get("validation"), options.get("seed", 0)
    lists = options.get("lists")
    if features is None and options.get("weights") is not None:
        raise InputError(
            f"weights='{options['weights']}' are given without features; expected features to name "
            "their network."
        )
    check_root(root)
    # Before the search for images, which can take a while.
    frozen = None if features is None else frozen_network(features, options.get("weights"))
    tree = find_images(root, domains, classes, layout)
    own_lists = _own_lists(tree) if own else None
    if lists is None:
        parts = draw_parts(tree, fraction, validation, seed, own_lists)
        rest = "the rest of its train list" if own else "the rest"
    else:
        names = options.get("list_names", LIST_NAMES)
        if len(names) != len(PARTS):
            raise InputError(
                f"list_names is {list(names)!r}; expected a name each for train, validation and "
                "test list."
            )
        parts = read_parts(tree, lists, fraction, validation, seed, names, own_lists)
        rest = "the test part"
    parts = shift_parts(tree, parts, options.get("category_shift", 0.0), seed)
    rows = np.flatnonzero(parts.part >= 0)
    if frozen is None:
        data = _pixels(tree, rows, options)
    else:
        data = _features(tree, rows, frozen, parts, own, options)
    if unreadable == "error":
        check_readable(data.unreadable, len(rows))
    return _splits(tree, parts, rows[data.rows.numpy()], data, percent(fraction), rest)


def _own_lists(tree: ImageTree) -> Callable[[str, str], Path]:
    places = [tree.root / name for name in ("", "txt", "list", "lists", "splits")]

    def own_list(domain: str, part: str) -> Path:
        name = f"{domain}_{part}.txt"
        file = find_list([*places, tree.root / domain], [name])
        if file is None:
            raise InputError(
                f"there is no list {name} of the domain {domain!r}; expected "
                f"'{tree.root / name}', which the set is distributed with."
            )
        return file

    return own_list


def _pixels(tree: ImageTree, rows: _Array, options: ImageOptions) -> ImageData:
    transform = options.get("transform")
    if transform is None:
        transform = ImageTransform(options.get("image_size", 224))
    return read_images(
        _files(tree, rows),
        transform,
        unreadable="skip",
        workers=options.get("workers", 4),
        progress=options.get("progress", True),
    )


def _features(
    tree: ImageTree,
    rows: _Array,
    frozen: FrozenNetwork,
    parts: Parts,
    own: bool,
    options: ImageOptions,
) -> ImageData:
    # The test list of a set that has one is the same for every split: it gets blocks of its own.
    apart = (parts.part[rows] == PARTS.index("test")) & own
    order = np.lexsort((rows, apart, tree.domain[rows]))
    data = extract_features(
        _files(tree, rows[order]),
        frozen,
        transform=_network_transform(options),
        cache=options.get("cache"),
        groups=(2 * tree.domain[rows] + apart)[order].tolist(),
        batch_size=options.get("batch_size", 32),
        device=options.get("device"),
        unreadable=options.get("unreadable", "error"),
        workers=options.get("workers", 4),
        progress=options.get("progress", True),
    )
    places = torch.from_numpy(order)[data.rows]
    places, back = places.sort()
    return ImageData(data.values[back], places, data.unreadable)


def _network_transform(options: ImageOptions) -> Transform:
    transform, size = options.get("transform"), options.get("image_size", 224)
    if transform is not None:
        return transform
    check_whole("the image size", size, 1)
    known = IMAGENET_TRANSFORM
    return ImageTransform(size, round(size * 256 / 224), known.mean, known.std)


def _files(tree: ImageTree, rows: _Array) -> list[Path]:
    return [tree.root / tree.paths[row] for row in rows]


def _splits(
    tree: ImageTree, parts: Parts, rows: _Array, data: ImageData, name: str, rest: str
) -> ImageSplits:
    sets: list[TaskSet] = []
    counts = {}
    for number, part in enumerate(PARTS):
        mine = np.flatnonzero(parts.part[rows] == number)
        sets.append(_task_set(tree, rows[mine], data.values[torch.from_numpy(mine)]))
        counts[part] = np.bincount(tree.domain[rows[mine]], minlength=len(tree.domains))
    report = ImageReport(
        root=str(tree.root),
        classes=tree.classes,
        images={
            domain: {part: int(counts[part][number]) for part in PARTS}
            for number, domain in enumerate(tree.domains)
        },
        validation_from=rest,
        lists=parts.lists,
        in_both=parts.in_both,
        contradictions=_contradictions(parts.lists),
        unreadable=data.unreadable,
        alone=tree.alone,
    )
    log.info("%s", report)
    for line in report.warnings:
        log.warning("%s", line)
    train, validation, test = sets
    return ImageSplits(train, validation, test, tree=tree, report=report, percent=name)


def _task_set(tree: ImageTree, rows: _Array, x: Tensor) -> TaskSet:
    return TaskSet(
        names=tree.domains,
        x=x,
        y=torch.from_numpy(tree.label[rows]),
        task=torch.from_numpy(tree.domain[rows]),
        classes=tree.classes,
        sources=torch.from_numpy(rows),
    )


def _contradictions(lists: Sequence[ListReport]) -> tuple[str, ...]:
    """Labels that stand for several classes, and classes that have several labels."""
    classes: dict[str, set[str]] = {}
    labels: dict[str, set[str]] = {}
    for report in lists:
        for label, names in report.labels.items():
            classes.setdefault(label, set()).update(names)
            for name in names:
                labels.setdefault(name, set()).add(label)
    lines = [
        f"the label {label} stands for {' and '.join(sorted(names))}"
        for label, names in classes.items()
        if len(names) > 1
    ]
    lines += [
        f"the class {name} has the labels {' and '.join(sorted(numbers))}"
        for name, numbers in labels.items()
        if len(numbers) > 1
    ]
    return tuple(lines)
