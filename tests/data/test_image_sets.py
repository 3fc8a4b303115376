"""The sets of images, each from a generated tree in the layout in which it is distributed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import pytest
import torch
from PIL import Image

from pyro_vmtl.data import (
    ImageSplits,
    ImageTransform,
    TaskSplits,
    domainnet,
    image_domains,
    imageclef,
    office_caltech,
    office_home,
)
from pyro_vmtl.data.image_sets import (
    DOMAINNET,
    IMAGECLEF,
    OFFICE_CALTECH,
    OFFICE_HOME,
    ImageOptions,
)
from pyro_vmtl.errors import InputError

MakeTree = Callable[..., Path]


class Pixels(TypedDict):
    """Images of 4 by 4 pixels themselves, and no progress bar."""

    features: None
    image_size: int
    progress: bool


OPTIONS: Pixels = {"features": None, "image_size": 4, "progress": False}
HOME = ("Art", "Clipart", "Product", "Real World")


def home(number: int = 10, real_world: str = "Real World") -> dict[str, int]:
    domains = (*HOME[:3], real_world)
    return {f"{domain}/{name}": number for domain in domains for name in ("Alarm_Clock", "Bed")}


def paths(splits: ImageSplits) -> list[set[str]]:
    """The files of each part."""
    return [
        {splits.tree.paths[row] for row in part.sources.tolist()}
        for part in splits
        if part.sources is not None
    ]


def check_samples(splits: ImageSplits) -> None:
    """Every sample is the image of its file, in the task and class of its folders."""
    tree = splits.tree
    for part in splits:
        assert part.names == tree.domains
        assert part.classes == tree.classes
        assert part.sources is not None
        for x, y, task, row in zip(part.x, part.y, part.task, part.sources, strict=True):
            assert x.equal(ImageTransform(4)(Image.open(tree.root / tree.paths[row])))
            assert (int(task), int(y)) == (tree.domain[row], tree.label[row])
    used = [row for part in splits if part.sources is not None for row in part.sources.tolist()]
    assert len(set(used)) == len(used)


class TestLayouts:
    @pytest.mark.parametrize("real_world", ["Real World", "Real_World", "RealWorld", "real_world"])
    def test_office_home(self, make_tree: MakeTree, real_world: str) -> None:
        root = make_tree(home(real_world=real_world))
        splits = office_home(root, fraction=0.2, **OPTIONS)
        assert isinstance(splits, TaskSplits)
        assert splits.train.names == HOME
        assert splits.train.classes == ("Alarm_Clock", "Bed")
        assert splits.train.input_shape == (3, 4, 4)
        assert splits.train.class_counts.eq(2).all()
        assert splits.validation.class_counts.eq(2).all()
        assert splits.test.class_counts.eq(6).all()
        check_samples(splits)

    def test_the_folder_that_the_archive_unpacks_to(self, make_tree: MakeTree) -> None:
        root = make_tree({f"OfficeHomeDataset_10072016/{key}": n for key, n in home(3).items()})
        make_tree({"__MACOSX/Art/Bed": 1})
        splits = office_home(root, **OPTIONS)
        assert splits.tree.root == root / "OfficeHomeDataset_10072016"
        assert len(splits.tree) == 24

    def test_office_caltech(self, make_tree: MakeTree) -> None:
        # As in Office-31: a level of images, and classes that are not among the ten.
        folders = {
            f"{domain}/images/{name}": 4
            for domain in ("amazon", "dslr", "webcam")
            for name in ("back_pack", "bike", "mug", "stapler")
        }
        root = make_tree(folders, prefix="frame_")
        make_tree({"caltech/224.touring-bike": 4, "caltech/coffee-mug": 4}, prefix="041_")
        (root / "amazon" / "label.txt").write_text("back_pack/frame_00001.jpg 0\n")
        splits = office_caltech(root, **OPTIONS)
        assert splits.train.names == ("amazon", "caltech10", "dslr", "webcam")
        assert splits.train.classes == ("back_pack", "bike", "mug")
        assert splits.train.class_counts.tolist() == [[1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]]
        check_samples(splits)

    @pytest.mark.parametrize("bing", [False, True])
    def test_imageclef_in_class_folders(self, make_tree: MakeTree, bing: bool) -> None:
        names = ("C", "I", "P", "B") if bing else ("C", "I", "P")
        root = make_tree({f"{n}/{c}": 4 for n in names for c in ("people", "bike", "aeroplane")})
        splits = imageclef(root, **OPTIONS)
        assert splits.train.names == tuple(name.lower() for name in names)
        assert splits.train.classes == ("aeroplane", "bike", "people")  # the order of its labels
        check_samples(splits)

    @pytest.mark.parametrize("folder", ["", "list"])
    def test_imageclef_with_lists(self, make_tree: MakeTree, folder: str) -> None:
        root = make_tree({"c": 6, "i": 6, "p": 6})
        (root / folder).mkdir(exist_ok=True)
        for domain in "cip":
            lines = [f"{domain}/0000{n}.jpg {[0, 11][n % 2]}\n" for n in range(1, 7)]
            # Its list of c has a class folder in some copies, where the disk has none.
            lines[0] = lines[0].replace(f"{domain}/", f"{domain}/224.touring-bike/")
            (root / folder / f"{domain}List.txt").write_text("".join(lines))
        splits = imageclef(root, **OPTIONS)
        assert splits.tree.classes == ("aeroplane", "people")
        assert splits.tree.counts.tolist() == [[3, 3]] * 3
        check_samples(splits)
        splits.write_lists(root / "splits")
        again = imageclef(root, lists=root / "splits", **OPTIONS)
        assert paths(again) == paths(splits)

    def test_imageclef_without_folders_or_lists(self, make_tree: MakeTree) -> None:
        root = make_tree({"c": 2, "i": 2, "p": 2})
        with pytest.raises(InputError, match=r"no list of their classes; expected '.*cList.txt'"):
            imageclef(root, **OPTIONS)
        (root / "cList.txt").write_text("c/00001.jpg 0\nc/00002.jpg 12\n")
        with pytest.raises(InputError, match=r"line 2 of .* label '12'; expected 0 to 11"):
            imageclef(root, **OPTIONS)

    @pytest.mark.parametrize("folder", ["", "txt"])
    def test_domainnet_draws_from_its_train_lists(self, make_tree: MakeTree, folder: str) -> None:
        domains = ("clipart", "real")
        root = make_tree({f"{d}/{c}": 40 for d in domains for c in ("bed", "zebra")})
        (root / folder).mkdir(exist_ok=True)
        for domain in domains:
            for part, numbers in (("train", range(1, 31)), ("test", range(31, 39))):
                lines = [
                    f"{domain}/{name}/{n:05d}.jpg {label}\n"
                    for label, name in enumerate(("bed", "zebra"))
                    for n in numbers
                ]
                (root / folder / f"{domain}_{part}.txt").write_text("".join(lines))
        splits = domainnet(root, domains, fraction=0.1, validation=0.2, **OPTIONS)
        assert splits.train.class_counts.eq(3).all()
        assert splits.validation.class_counts.eq(6).all()
        assert splits.test.class_counts.eq(8).all()  # the test list, whole
        train, validation, test = paths(splits)
        assert all(int(path[-9:-4]) <= 30 for path in train | validation)
        assert all(31 <= int(path[-9:-4]) <= 38 for path in test)
        assert "the rest of its train list" in str(splits.report)
        check_samples(splits)

    def test_domainnet_without_its_lists(self, make_tree: MakeTree) -> None:
        root = make_tree({"clipart/bed": 2, "clipart/zebra": 2})
        with pytest.raises(InputError, match=r"no list clipart_train.txt .* expected '/"):
            domainnet(root, ["clipart"], **OPTIONS)

    def test_a_tree_of_ones_own(self, make_tree: MakeTree) -> None:
        root = make_tree(
            {"day/owl": 5, "day/Jay": 5, "night/owl": 5, "night/jay": 5}, suffix=".PNG"
        )
        make_tree({"day/._hidden": 1, ".cache/x": 1})
        (root / "notes").mkdir()
        (root / "notes" / "readme.txt").write_text("by hand")
        (root / "day" / "owl" / "Thumbs.db").write_text("")
        splits = image_domains(root, **OPTIONS)
        assert splits.train.names == ("day", "night")
        assert splits.train.classes == ("Jay", "owl")
        assert len(splits.tree) == 20
        check_samples(splits)
        chosen = image_domains(root, ["night"], ["owl", "Jay"], **OPTIONS)
        assert chosen.train.names == ("night",)
        assert chosen.train.classes == ("owl", "Jay")
        check_samples(chosen)

    def test_folders_that_differ_in_case_are_classes_where_one_domain_has_both(
        self, make_tree: MakeTree
    ) -> None:
        root = make_tree({"x/a": 2, "x/A": 2, "y/a": 2})
        if len(list((root / "x").iterdir())) == 1:
            pytest.skip("the file system does not tell them apart")
        splits = image_domains(root, **OPTIONS)
        assert splits.tree.classes == ("A", "a")
        assert splits.tree.counts.tolist() == [[2, 2], [0, 2]]

    def test_the_known_sets_are_the_published_ones(self) -> None:
        assert tuple(OFFICE_HOME.domains) == HOME
        for layout, domains in ((OFFICE_CALTECH, 4), (IMAGECLEF, 4), (DOMAINNET, 6)):
            assert len(layout.domains) == domains
            assert layout.classes is None or len(layout.classes) == layout.num_classes


class TestLists:
    @pytest.fixture
    def root(self, make_tree: MakeTree) -> Path:
        return make_tree(home(6))

    @staticmethod
    def write(folder: Path, parts: Mapping[str, Mapping[str, list[str]]]) -> Path:
        for domain, lists in parts.items():
            (folder / domain).mkdir(parents=True, exist_ok=True)
            for name, lines in lists.items():
                (folder / domain / name).write_text("".join(f"{line}\n" for line in lines))
        return folder

    @pytest.fixture
    def lists(self, root: Path) -> Path:
        """Lists as another person made them: 1 image to train, 5 to test, per domain and class."""
        spelt = {
            "Art": "/home/someone/data/office-home/Art/{name}/{n:05d}.jpg {label}",
            "Clipart": "D:\\My Data\\Clipart\\{name}\\{n:05d}.JPG {label}",
            "Product": "../product/{lower} /{n:05d}.jpg\t{label}",
            "Real_World": "/data/Real_World/{spaced}/{n:05d}.jpg   {label}",
        }
        parts = {}
        for domain, pattern in spelt.items():
            lines = [
                [
                    pattern.format(
                        name=name,
                        lower=name.lower(),
                        spaced=name.replace("_", " "),
                        n=n,
                        label=label,
                    )
                    for label, name in ((7, "Alarm_Clock"), (3, "Bed"))
                    for n in numbers
                ]
                for numbers in ((1,), range(2, 7))
            ]
            parts[domain] = {"train_5.txt": lines[0], "test_5.txt": lines[1]}
        parts["Product"]["train_5.txt"] = [
            line.replace(" /", "/") for line in parts["Product"]["train_5.txt"]
        ]
        parts["Product"]["test_5.txt"] = [
            line.replace(" /", "/") for line in parts["Product"]["test_5.txt"]
        ]
        return self.write(root.parent / "lists", parts)

    def test_paths_from_another_disk(self, root: Path, lists: Path) -> None:
        splits = office_home(root, lists=lists, **OPTIONS)
        train, validation, test = paths(splits)
        assert train == {path for path in splits.tree.paths if path.endswith("1.jpg")}
        assert train | validation | test == set(splits.tree.paths)
        assert [report.matched for report in splits.report.lists] == [10, 2] * 4
        assert all(report.complete for report in splits.report.lists)
        assert "48 of 48 lines of 8 lists matched" in str(splits.report)
        assert not splits.report.warnings
        check_samples(splits)

    def test_validation_comes_out_of_the_test_part_and_is_counted(
        self, root: Path, lists: Path
    ) -> None:
        splits = office_home(root, lists=lists, validation=0.3, **OPTIONS)
        assert splits.train.class_counts.eq(1).all()  # the published part is whole
        assert splits.validation.class_counts.eq(2).all()
        assert splits.test.class_counts.eq(3).all()
        assert "16 for validation taken from the test part, 24 to test on" in str(splits.report)
        without = office_home(root, lists=lists, validation=0.0, **OPTIONS)
        assert len(without.validation) == 0
        assert without.test.class_counts.eq(5).all()

    def test_what_does_not_match_is_counted_and_named(
        self, root: Path, lists: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        train = lists / "Art" / "train_5.txt"
        train.write_text(
            train.read_text()
            + "Art/Bed/00099.jpg 3\nArt/Table/00001.jpg 4\n\nArt/Bed/00001.jpg 3\n"
        )
        splits = office_home(root, lists=lists, **OPTIONS)
        report = next(r for r in splits.report.lists if r.file == str(train))
        assert (report.lines, report.matched, report.repeated) == (5, 2, 1)
        assert report.unmatched == ("Art/Bed/00099.jpg", "Art/Table/00001.jpg")
        assert "2 of 5 lines matched, 2 without an image, first 'Art/Bed/00099.jpg'" in caplog.text

    def test_an_ambiguous_line_names_the_images(self, root: Path, lists: Path) -> None:
        shutil.copy(root / "Art/Bed/00001.jpg", root / "Art/Bed/00001.JPG")
        if len(list((root / "Art/Bed").iterdir())) == 6:
            pytest.skip("the file system does not tell them apart")
        train = lists / "Art" / "train_5.txt"
        train.write_text("Art/Alarm_Clock/00001.jpg 7\nART/BED/00001.Jpg 3\n")
        splits = office_home(root, lists=lists, **OPTIONS)
        report = next(r for r in splits.report.lists if r.file == str(train))
        assert report.matched == 1
        assert report.ambiguous == (
            ("ART/BED/00001.Jpg", ("Art/Bed/00001.JPG", "Art/Bed/00001.jpg")),
        )
        assert "1 ambiguous" in splits.report.warnings[0]
        train.write_text("Art/Alarm_Clock/00001.jpg 7\nArt/Bed/00001.JPG 3\n")
        splits = office_home(root, lists=lists, **OPTIONS)
        assert "Art/Bed/00001.JPG" in paths(splits)[0]  # to the letter is never ambiguous

    def test_no_match_at_all(self, root: Path, lists: Path) -> None:
        (lists / "Art" / "train_5.txt").write_text("Art/Table/00001.jpg 4\n")
        with pytest.raises(InputError, match=r"none of the 1 lines of .*train_5.txt.*Art"):
            office_home(root, lists=lists, **OPTIONS)

    def test_a_list_of_another_domain(self, root: Path, lists: Path) -> None:
        shutil.copy(lists / "Clipart" / "train_5.txt", lists / "Art" / "train_5.txt")
        with pytest.raises(InputError, match=r"line 1 of .* domain 'Clipart'.*images of 'Art'"):
            office_home(root, lists=lists, **OPTIONS)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("Art/Bed/00001.jpg\n", "line 1 .* expected the path of an image and a label"),
            ("\n3 Art/Bed/00001.jpg\n", "line 2 "),
            ("", "is empty"),
            ("\xff\xfe\n", "cannot be read"),
        ],
    )
    def test_a_file_that_is_no_list(self, root: Path, lists: Path, text: str, said: str) -> None:
        (lists / "Art" / "train_5.txt").write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=said):
            office_home(root, lists=lists, **OPTIONS)

    def test_a_list_that_is_not_there(self, root: Path, lists: Path) -> None:
        with pytest.raises(InputError, match=r"no list '.*Art/train_10.txt' of the domain 'Art'"):
            office_home(root, fraction=0.1, lists=lists, **OPTIONS)

    def test_an_image_in_two_lists_trains(self, root: Path, lists: Path) -> None:
        for name in ("train_5.txt", "test_5.txt"):
            with (lists / "Art" / name).open("a") as file:
                file.write("Art/Bed/00002.jpg 3\n")
        splits = office_home(root, lists=lists, validation=0.0, **OPTIONS)
        train, _, test = paths(splits)
        assert "Art/Bed/00002.jpg" in train
        assert "Art/Bed/00002.jpg" not in test
        assert splits.report.in_both == ("Art/Bed/00002.jpg",)
        assert "1 of 48 images are listed for two parts" in splits.report.warnings[-1]

    def test_labels_that_contradict_the_folders_are_told(self, root: Path, lists: Path) -> None:
        (lists / "Art" / "train_5.txt").write_text("Art/Bed/00001.jpg 7\n")
        splits = office_home(root, lists=lists, **OPTIONS)
        assert "the label 7 stands for Alarm_Clock and Bed" in splits.report.contradictions
        assert "the class Bed has the labels 3 and 7" in splits.report.contradictions
        check_samples(splits)  # the folder says the class

    def test_lists_of_other_names(self, root: Path, lists: Path) -> None:
        for domain in HOME[:3]:
            (lists / domain / "train_5.txt").rename(lists / f"few-{domain}.txt")
        names = ("few-{domain}.txt", "{domain}_val.txt", "{domain}/test_{percent}.txt")
        splits = office_home(root, HOME[:3], lists=lists, list_names=names, **OPTIONS)
        assert splits.train.class_counts.eq(1).all()

    def test_what_is_written_is_read_again_from_another_place(
        self, root: Path, make_tree: MakeTree
    ) -> None:
        splits = office_home(root, fraction=0.2, seed=5, **OPTIONS)
        written = splits.write_lists(root.parent / "run")
        assert {file.relative_to(root.parent / "run").as_posix() for file in written} == {
            "images.json",
            *(f"{d}/{p}_20.txt" for d in HOME for p in ("train", "validation", "test")),
        }
        moved = root.rename(root.parent / "elsewhere")
        (moved / "Real World").rename(moved / "Real_World")
        again = office_home(moved, fraction=0.2, lists=root.parent / "run", **OPTIONS)
        for part, same in zip(splits, again, strict=True):
            assert part.x.equal(same.x)
            assert part.y.equal(same.y)
            assert part.task.equal(same.task)
        told = json.loads((root.parent / "run" / "images.json").read_text())
        assert told["images"]["Art"] == {"train": 2, "validation": 2, "test": 8}

    def test_category_shift_leaves_images_of_missing_classes_unused(self, root: Path) -> None:
        whole = office_home(root, fraction=0.2, **OPTIONS)
        splits = office_home(root, fraction=0.2, category_shift=0.5, **OPTIONS)
        train, validation, test = paths(splits)
        assert test == paths(whole)[2]
        assert train < paths(whole)[0]
        kept = splits.train.class_counts > 0
        assert kept.sum(1).tolist() == [1] * 4
        assert kept.any(0).all()
        assert splits.validation.class_counts.equal(whole.validation.class_counts * kept)
        assert splits.report.total("train") == len(train)
        splits.write_lists(root / "splits")
        assert paths(office_home(root, fraction=0.2, lists=root / "splits", **OPTIONS)) == [
            train,
            validation,
            test,
        ]
        with pytest.raises(InputError, match=r"category_shift is 1\.5"):
            office_home(root, category_shift=1.5, **OPTIONS)

    def test_an_empty_validation_part_is_read_again_as_such(self, root: Path) -> None:
        splits = office_home(root, validation=0.0, **OPTIONS)
        splits.write_lists(root / "splits")
        again = office_home(root, lists=root / "splits", **OPTIONS)
        assert paths(again) == paths(splits)
        assert len(again.validation) == 0


class TestTrouble:
    def test_unreadable_images_are_counted_and_named_or_left_out(
        self, make_tree: MakeTree, caplog: pytest.LogCaptureFixture
    ) -> None:
        root = make_tree(home(5))
        whole = (root / "Art/Bed/00001.jpg").read_bytes()
        (root / "Art/Bed/00001.jpg").write_bytes(whole[:-200])
        (root / "Product/Bed/00002.jpg").write_bytes(b"")
        with pytest.raises(InputError, match=r"2 of 40 images .*Art/Bed/00001.*Product/Bed/00002"):
            office_home(root, **OPTIONS)
        splits = office_home(root, unreadable="skip", **OPTIONS)
        assert sum(len(part) for part in splits) == 38
        assert set(splits.report.unreadable) == {
            str(root / "Art/Bed/00001.jpg"),
            str(root / "Product/Bed/00002.jpg"),
        }
        assert "2 of 40 images cannot be read and are left out" in caplog.text
        check_samples(splits)
        files = splits.write_lists(root / "splits")
        assert not any("Art/Bed/00001.jpg" in f.read_text() for f in files if f.suffix == ".txt")

    def test_a_class_in_one_domain_only(
        self, make_tree: MakeTree, caplog: pytest.LogCaptureFixture
    ) -> None:
        root = make_tree({"x/a": 4, "x/b": 4, "y/b": 4, "y/a": 0})
        splits = image_domains(root, **OPTIONS)
        assert splits.train.class_counts.tolist() == [[1, 1], [0, 1]]
        assert splits.report.alone == {"a": "x"}
        assert "1 of 2 classes are in a single domain, first 'a' in 'x'" in caplog.text
        splits.train.check_training()

    @pytest.mark.parametrize("folder", ["Art", "Art/Bed"])
    def test_an_empty_domain(self, make_tree: MakeTree, folder: str) -> None:
        root = make_tree({"Clipart/Bed": 2, "Clipart/Mug": 2, folder: 0})
        for domains in (None, ["Art", "Clipart"]):
            with pytest.raises(
                InputError, match=r"domain 'Art' in .* holds no image; expected Art/"
            ):
                image_domains(root, domains, **OPTIONS)

    def test_a_domain_that_is_not_there(self, make_tree: MakeTree) -> None:
        root = make_tree({"Art/Bed": 2, "Clipart/Bed": 2})
        said = "no domain 'Product' in .*, which has 'Art', 'Clipart'; expected the folders 'Art'"
        with pytest.raises(InputError, match=said):
            office_home(root, **OPTIONS)
        with pytest.raises(InputError, match="no domain 'Sketch'"):
            image_domains(root, ["Art", "Sketch"], **OPTIONS)
        with pytest.raises(InputError, match="expected each once"):
            image_domains(root, ["Art", "Art"], **OPTIONS)

    def test_classes_that_are_not_there(self, make_tree: MakeTree) -> None:
        root = make_tree({"x/a": 2, "x/b": 2})
        with pytest.raises(InputError, match="no class 'c'; expected some of the folders 'a', 'b'"):
            image_domains(root, classes=["a", "c"], **OPTIONS)
        root = make_tree({f"{d}/sofa": 2 for d in ("amazon", "caltech", "dslr", "webcam")}, "other")
        with pytest.raises(
            InputError, match=r"has the folders 'sofa'; expected some .* 'back_pack'"
        ):
            office_caltech(root, **OPTIONS)

    def test_images_without_class_folders(self, make_tree: MakeTree) -> None:
        root = make_tree({"x/a": 2, "y": 2})
        with pytest.raises(InputError, match="domain 'y' lie in no class folders"):
            image_domains(root, **OPTIONS)

    def test_no_folder_and_no_image(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist; expected a folder"):
            image_domains(tmp_path / "nowhere", **OPTIONS)
        with pytest.raises(InputError, match="holds no images"):
            image_domains(tmp_path, **OPTIONS)

    def test_the_folder_is_looked_for_before_the_network(self, tmp_path: Path) -> None:
        weights = tmp_path / "absent.pth"
        with pytest.raises(InputError, match="nowhere' does not exist; expected a folder"):
            office_caltech(tmp_path / "nowhere", weights=weights)
        with pytest.raises(InputError, match=r"absent\.pth"):
            office_caltech(tmp_path, weights=weights)

    def test_weights_of_no_network(self, make_tree: MakeTree) -> None:
        root = make_tree({"x/a": 2, "x/b": 2})
        with pytest.raises(InputError, match="given without features"):
            image_domains(root, weights="w.pth", **OPTIONS)


class TestFeatures:
    def test_features_are_those_of_the_sample(self, make_tree: MakeTree, tmp_path: Path) -> None:
        root = make_tree(home(6))
        (root / "Clipart/Bed/00003.jpg").write_bytes(b"broken")
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        options: ImageOptions = {
            "transform": ImageTransform(8),
            "cache": tmp_path / "cache",
            "unreadable": "skip",
            "progress": False,
        }
        splits = office_home(root, fraction=0.2, features=network, **options)
        assert splits.train.input_shape == (5,)
        for part in splits:
            assert part.sources is not None
            for x, row in zip(part.x, part.sources, strict=True):
                image = Image.open(root / splits.tree.paths[row])
                expected = network(ImageTransform(8)(image)[None])[0]
                assert torch.allclose(x, expected, atol=1e-5)

    @pytest.mark.parametrize("seed", [0, 1])
    def test_other_fractions_and_seeds_compute_nothing_anew(
        self, make_tree: MakeTree, tmp_path: Path, seed: int
    ) -> None:
        root = make_tree(home(6))
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        calls: list[int] = []
        network.register_forward_hook(lambda *_: calls.append(1))
        for fraction in (0.2, 0.4):
            office_home(
                root,
                fraction=fraction,
                features=network,
                image_size=8,
                seed=seed if fraction == 0.4 else 0,
                cache=tmp_path / "cache",
                progress=False,
            )
        assert len(calls) == 4  # a block for each domain, once

    def test_the_default_network_is_that_of_the_paper(
        self, make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        with pytest.raises(InputError, match=r"vgg16-397923af\.pth"):
            office_home(make_tree(home(2)), progress=False)
