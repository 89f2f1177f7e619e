"""The growth space: every candidate legal, no growth first, wider with more data."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_growclip.arch import DIMENSIONS, ClipArch
from nas_growclip.growth.space import (
    Combination,
    GrowthSpace,
    GrowthStep,
    SizeChoices,
    apply_steps,
    candidate_label,
)

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
def test_every_candidate_is_legal_and_unique(
    dimensions: dict[str, dict[str, Any]], together: int, num_pairs: int
) -> None:
    choices = {dimension: SizeChoices(**ways) for dimension, ways in dimensions.items()}
    combine = (Combination(from_pairs=10, num_dimensions=together),)
    candidates = GrowthSpace(dimensions=choices, combine=combine).candidates(TINY, num_pairs)
    assert candidates[0] == ()
    assert len(set(map(candidate_label, candidates))) == len(candidates)
    for candidate in candidates:
        child = apply_steps(TINY, candidate)
        assert len(candidate) <= (together if num_pairs >= 10 else 1)
        for step in candidate:
            assert child.size(step.dimension) == step.new > TINY.size(step.dimension) == step.old


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
        [candidate_label(c) for c in widening.candidates(TINY, num_pairs)]
        for num_pairs in (50, 100, 1000)
    ]
    assert labels[0] == ["none", "image.depth=3"]
    assert labels[1] == ["none", "image.depth=3", "text.depth=3"]
    assert labels[2] == [*labels[1], "image.depth=3+text.depth=3"]


def test_only_no_growth_is_left_at_the_largest_sizes() -> None:
    assert space(text__depth=SizeChoices(sizes=(1, 2))).candidates(TINY, 10) == ((),)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SizeChoices(), "must give sizes, ratios or add"),
        (lambda: SizeChoices(ratios=(1.0,)), "ratios: must be above 1, but got 1.0"),
        (lambda: SizeChoices(add=(0,)), "add: must be 1 or more, but got 0"),
        (lambda: space(image__size=SizeChoices(add=(1,))), "image.size: unknown dimension"),
        (lambda: space(embed_dim=SizeChoices(add=(1,))), "embed_dim: cannot grow yet"),
        (
            lambda: GrowthStep(dimension="text.depth", old=2, new=2),
            r"must enlarge text.depth, but got 2 -> 2",
        ),
    ],
)
def test_bad_spaces_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
