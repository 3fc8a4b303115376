"""Drawing the parts: how many, from what, and what they depend on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vmtl.data.image_splits import draw_parts, percent
from pyro_vmtl.data.image_trees import ImageTree
from pyro_vmtl.errors import InputError


def tree_of(counts: dict[str, dict[str, int]]) -> ImageTree:
    """A tree of images that nobody looks at."""
    classes = tuple(sorted({name for own in counts.values() for name in own}))
    cells = [
        (domain, classes.index(name), f"{key}/{name}/{index:04d}.jpg")
        for domain, (key, own) in enumerate(counts.items())
        for name in sorted(own)
        for index in range(own[name])
    ]
    return ImageTree(
        root=Path("nowhere"),
        domains=tuple(counts),
        classes=classes,
        paths=tuple(path for _, _, path in cells),
        domain=np.array([domain for domain, _, _ in cells], dtype=np.int64),
        label=np.array([label for _, label, _ in cells], dtype=np.int64),
    )


trees = st.dictionaries(
    st.sampled_from(["Art", "Clipart", "Product"]),
    st.dictionaries(st.sampled_from(["Bed", "Chair", "Mug"]), st.integers(1, 60), min_size=1),
    min_size=1,
).map(tree_of)
fractions = st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.4])


def named(
    tree: ImageTree, part: np.ndarray[tuple[int], np.dtype[np.int64]], which: int
) -> set[str]:
    return {tree.paths[row] for row in np.flatnonzero(part == which)}


class TestDrawing:
    @settings(max_examples=50)
    @given(trees, fractions, st.sampled_from([None, 0.0, 0.1, 0.3]), st.integers(0, 5))
    def test_every_class_of_every_domain_gets_its_share(
        self, tree: ImageTree, fraction: float, validation: float | None, seed: int
    ) -> None:
        part = draw_parts(tree, fraction, validation, seed).part
        wanted = fraction if validation is None else validation
        assert np.isin(part, [0, 1, 2]).all()
        for domain in range(len(tree.domains)):
            for label in range(len(tree.classes)):
                own = part[(tree.domain == domain) & (tree.label == label)]
                if not len(own):
                    continue
                train, validated, tested = np.bincount(own, minlength=3)
                assert train == max(1, np.floor(fraction * len(own) + 0.5))
                assert abs(validated - wanted * len(own)) <= 1
                assert (validated == 0) == (wanted == 0 or len(own) - train < 2)
                assert tested >= 1 or len(own) - train == 0

    @settings(max_examples=25)
    @given(trees, st.integers(0, 5))
    def test_a_smaller_fraction_trains_on_a_part_of_a_larger_one(
        self, tree: ImageTree, seed: int
    ) -> None:
        drawn = [named(tree, draw_parts(tree, f, 0.1, seed).part, 0) for f in (0.05, 0.1, 0.2)]
        assert drawn[0] <= drawn[1] <= drawn[2]

    def test_a_domain_is_drawn_alike_with_and_without_the_others(self) -> None:
        own = {"Bed": 30, "Mug": 20}
        alone = tree_of({"Art": own})
        among = tree_of({"Clipart": {"Bed": 7, "Chair": 9}, "Art": own})
        for which in range(3):
            expected = named(alone, draw_parts(alone, 0.2).part, which)
            found = named(among, draw_parts(among, 0.2).part, which)
            assert {path for path in found if path.startswith("Art")} == expected

    def test_the_seed_draws(self) -> None:
        tree = tree_of({"Art": {"Bed": 40, "Chair": 40}})
        assert np.array_equal(
            draw_parts(tree, 0.1, seed=3).part, draw_parts(tree, 0.1, seed=3).part
        )
        assert (draw_parts(tree, 0.1, seed=3).part != draw_parts(tree, 0.1, seed=4).part).any()

    @pytest.mark.parametrize(
        ("fraction", "validation", "said"),
        [
            (0, None, "fraction is 0;"),
            (5, None, "fraction is 5;"),
            (True, None, "fraction is True"),
            (0.1, -0.1, "validation is -0.1"),
            (0.1, 1.0, "validation is 1.0"),
            (0.6, None, "leave nothing to test on"),
        ],
    )
    def test_fractions_out_of_range(
        self, fraction: float, validation: float | None, said: str
    ) -> None:
        with pytest.raises(InputError, match=said):
            draw_parts(tree_of({"Art": {"Bed": 4}}), fraction, validation)

    def test_the_names_of_fractions(self) -> None:
        names = {0.05: "5", 0.1: "10", 0.2: "20", 0.01: "1", 0.025: "2.5", 0.07: "7"}
        assert {fraction: percent(fraction) for fraction in names} == names
