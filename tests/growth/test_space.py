"""The growth space: every candidate legal, no growth first, wider with more data."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_growclip.growth.candidates import NO_GROWTH, SHRINKABLE
from nas_growclip.growth.space import Combination, GrowthSpace, SizeChoices, load_space
from nas_growclip.models.arch import DIMENSIONS, ClipArch
from tests.support.runs import ROOT, SMOKE, smoke_config

TINY = ClipArch.preset("tiny")


def space(**dimensions: SizeChoices) -> GrowthSpace:
    return GrowthSpace(dimensions={k.replace("__", "."): v for k, v in dimensions.items()})


@given(
    st.dictionaries(
        st.sampled_from(DIMENSIONS),
        st.fixed_dictionaries(
            {
                "sizes": st.lists(st.integers(1, 300), min_size=1, max_size=3).map(tuple),
                "ratios": st.lists(st.floats(1.01, 4.0), max_size=2).map(tuple),
                "add": st.lists(st.integers(1, 50), max_size=2).map(tuple),
                "from_pairs": st.integers(0, 20),
            }
        ),
        max_size=4,
    ),
    st.integers(1, 3),
    st.integers(0, 30),
)
@settings(max_examples=30)
def test_every_candidate_is_legal_and_unique(
    dimensions: dict[str, dict[str, Any]], together: int, num_pairs: int
) -> None:
    choices = {dimension: SizeChoices(**ways) for dimension, ways in dimensions.items()}
    combine = (Combination(from_pairs=10, num_dimensions=together),)
    made = GrowthSpace(dimensions=choices, combine=combine)
    candidates = made.candidates(TINY, num_pairs)
    assert candidates[0] == NO_GROWTH
    alone = {c.dimensions[0] for c in candidates if len(c.steps) == 1}
    assert made.left_out(TINY, num_pairs).keys() == choices.keys() - alone
    assert len({c.label for c in candidates}) == len(candidates)
    for candidate in candidates:
        child = candidate.apply(TINY)
        assert len(candidate.steps) <= (together if num_pairs >= 10 else 1)
        for step in candidate.steps:
            assert child.size(step.dimension) == step.new != step.old
            assert TINY.size(step.dimension) == step.old
            assert step.new > step.old or step.dimension in SHRINKABLE


def test_sizes_ratios_and_amounts_become_legal_sizes() -> None:
    choices = SizeChoices(sizes=(32, 64, 100), ratios=(1.5,), add=(1, 64))
    assert choices.new_sizes(64, unit=32) == (96, 128)
    assert SizeChoices(ratios=(1.1,)).new_sizes(10, unit=1) == (11,)


def test_space_widens_with_the_data() -> None:
    widening = GrowthSpace(
        dimensions={
            "image.depth": SizeChoices(add=(1,)),
            "text.depth": SizeChoices(add=(1,), from_pairs=100),
        },
        combine=(
            Combination(from_pairs=0, num_dimensions=1),
            Combination(from_pairs=1000, num_dimensions=2),
        ),
    )
    labels = [
        [c.label for c in widening.candidates(TINY, num_pairs)] for num_pairs in (50, 100, 1000)
    ]
    assert labels[0] == ["none", "image.depth=3"]
    assert labels[1] == ["none", "image.depth=3", "text.depth=3"]
    assert labels[2] == [*labels[1], "image.depth=3+text.depth=3"]


def test_dimensions_of_a_group_only_grow_together() -> None:
    twice = SizeChoices(ratios=(1.5, 2.0))
    grouped = replace(
        space(text__width=twice, image__depth=SizeChoices(add=(1,)), image__width=twice),
        together=(("image.width", "text.width"),),
        combine=(Combination(from_pairs=0, num_dimensions=2),),
    )
    assert [c.label for c in grouped.candidates(TINY, 1)] == [
        "none",
        "image.width=96+text.width=96",
        "image.width=128+text.width=128",
        "image.depth=3",
        "image.width=96+text.width=96+image.depth=3",
        "image.width=128+text.width=128+image.depth=3",
    ]


def test_a_group_grows_only_where_each_of_its_dimensions_may() -> None:
    later = SizeChoices(add=(1,), from_pairs=100)
    grouped = replace(
        space(text__depth=SizeChoices(add=(1, 2)), image__depth=later),
        together=(("image.depth", "text.depth"),),
    )
    assert grouped.candidates(TINY, 99) == (NO_GROWTH,)
    labels = [c.label for c in grouped.candidates(TINY, 100)]
    assert labels == ["none", "image.depth=3+text.depth=3"]


def test_what_cannot_grow_says_why() -> None:
    closed = replace(
        space(
            image__depth=SizeChoices(add=(1,)),
            text__depth=SizeChoices(add=(1,), from_pairs=4000),
            text__width=SizeChoices(sizes=(64,)),
            image__patch_size=SizeChoices(sizes=(5,)),
            shared__mlp_width=SizeChoices(ratios=(2.0,)),
            embed_dim=SizeChoices(ratios=(2.0,)),
        ),
        together=(("embed_dim", "shared.mlp_width"),),
    )
    plain = replace(TINY, shared=replace(TINY.shared, depth=0))
    reasons = closed.left_out(plain, 100)
    assert "must be divisible by image.patch_size" in reasons.pop("image.patch_size")
    assert reasons == {
        "text.depth": "from 4,000 pairs on, 100 given",
        "text.width": "no further size of text.width",
        "embed_dim, shared.mlp_width": "shared.mlp_width has nothing to grow while shared.depth "
        "is 0. Grow shared.depth too.",
    }


@pytest.mark.parametrize(
    ("together", "message"),
    [
        ((("image.depth", "text.depth"),), "'text.depth' must be one of dimensions"),
        ((("image.depth",), ("image.depth",)), "'image.depth' must be in one group"),
    ],
)
def test_impossible_groups_are_refused(together: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(space(image__depth=SizeChoices(add=(1,))), together=together)


def test_smaller_patches_are_a_candidate_and_smaller_widths_are_not() -> None:
    choices = space(
        image__patch_size=SizeChoices(sizes=(4, 8)), text__width=SizeChoices(sizes=(32,))
    )
    assert [c.label for c in choices.candidates(TINY, 1)] == [
        "none",
        "image.patch_size=4",
    ]


def test_what_no_architecture_can_take_is_no_candidate() -> None:
    """Patches of 24 do not fill 32 pixels; a shared MLP needs a shared encoder."""
    patches = space(image__patch_size=SizeChoices(sizes=(24,)))
    assert patches.candidates(TINY, 1) == (NO_GROWTH,)
    shared = space(shared__mlp_width=SizeChoices(ratios=(2.0,)))
    assert shared.candidates(TINY.with_size("shared.depth", 0), 1) == (NO_GROWTH,)


def test_momenta_multiply_every_candidate_but_no_growth() -> None:
    choices = replace(space(text__depth=SizeChoices(add=(1,))), momenta=(1.0, 0.9))
    candidates = choices.candidates(TINY, 1)
    assert [c.label for c in candidates] == [
        "none",
        "text.depth=3@1",
        "text.depth=3@0.9",
    ]
    assert candidates[2].momentum == 0.9
    assert str(candidates[2]) == "text.depth 2 -> 3 (momentum 0.9)"


def test_only_no_growth_is_left_at_the_largest_sizes() -> None:
    assert space(text__depth=SizeChoices(sizes=(1, 2))).candidates(TINY, 10) == (NO_GROWTH,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SizeChoices(), "must give sizes, ratios or add"),
        (lambda: SizeChoices(ratios=(1.0,)), r"ratios: must be in \(1, 1048576\], but got 1.0"),
        (lambda: SizeChoices(add=(0,)), r"add: must be in \[1, 1048576\], but got 0"),
        (
            lambda: space(image__size=SizeChoices(add=(1,))),
            "dimensions: must be one of .*but got 'image.size'",
        ),
        (
            lambda: replace(space(embed_dim=SizeChoices(add=(1,))), momenta=(0.5, 1.1)),
            r"momenta: must be in \[0, 1\], but got 1.1",
        ),
    ],
)
def test_bad_spaces_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


BY_HAND = """
from nas_growclip import Candidate, ClipArch, GrowthConfig, GrowthSpace

parent = ClipArch.preset("tiny")
space = GrowthSpace(
    dimensions={"text.depth": {"add": [1]}, "image.width": {"ratios": [2], "from_pairs": 9}},
    combine=[{"from_pairs": 0, "num_dimensions": 2}],
    together=[["text.depth", "image.width"]],
)
assert [c.label for c in space.candidates(parent, 9)] == ["none", "text.depth=3+image.width=128"]
step = {"dimension": "text.depth", "old": 2, "new": 3}
assert Candidate(steps=[step]).apply(parent) == parent.with_size("text.depth", 3)
assert ClipArch(**parent.to_dict()) == parent
assert GrowthConfig(moments="grow", rewarm={"steps": 9}).rewarm.peak == 1.3
try:
    GrowthSpace(dimensions={"text.depth": {"ad": [1]}})
except ValueError as error:
    print(error)
"""


def test_plain_mappings_are_read_or_refused_where_objects_are_expected() -> None:
    """In a process of its own: here every argument's type is checked before it can be read."""
    ended = subprocess.run(
        [sys.executable, "-c", BY_HAND], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "dimensions: text.depth: ad: unknown key. Did you mean 'add'?\n"


def test_a_space_is_read_from_an_experiment_or_from_a_file_of_its_own(tmp_path: Path) -> None:
    alone = ROOT / "search_spaces" / "tiny.yaml"
    space = load_space(alone)
    assert space.dimensions["image.width"].ratios == (1.5, 2.0)
    assert load_space(str(ROOT / "experiments" / "demo.yaml")) == space
    assert load_space(SMOKE) == smoke_config().space
    assert load_space("tiny") == space
    run = tmp_path / "config.yaml"
    run.write_text(smoke_config().to_yaml())
    assert load_space(run) == smoke_config().space


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dimension": {}}, r"mine\.yaml: dimension: unknown key\. Did you mean 'dimensions'\?"),
        (
            {"space": {"dimensions": {"text.deep": {"add": [1]}}}},
            r"yaml: space: dimensions: must be",
        ),
        ({"space": "other.yaml"}, r"other\.yaml: no such file"),
        ({"space": "other"}, r"'other' must be a file, or the name of one of the search_spaces"),
        ({"space": 3}, r"mine\.yaml: space: must be a mapping, but got int"),
    ],
)
def test_a_bad_file_of_a_space_is_named(content: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message):
        load_space(file)
