"""Candidates: what they are called, what they lead to, and which ones are refused."""

from collections.abc import Callable

import pytest

from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep, check_growth
from nas_growclip.models.arch import ClipArch
from tests.support.candidates import grown

TINY = ClipArch.preset("tiny")
WIDER = GrowthStep(dimension="image.width", old=64, new=96)
DEEPER = GrowthStep(dimension="text.depth", old=2, new=3)


def test_a_candidate_takes_all_its_steps_at_once() -> None:
    both = Candidate(steps=(WIDER, DEEPER), momentum=0.95)
    assert both.grows
    assert both.dimensions == ("image.width", "text.depth")
    assert both.label == "image.width=96+text.depth=3@0.95"
    assert str(both) == "image.width 64 -> 96 and text.depth 2 -> 3 (momentum 0.95)"
    child_arch = both.apply(TINY)
    assert child_arch == TINY.with_sizes({"image.width": 96, "text.depth": 3})
    check_growth(TINY, child_arch)


def test_no_growth_leaves_the_parent_as_it_is() -> None:
    assert Candidate() == NO_GROWTH
    assert not NO_GROWTH.grows
    assert NO_GROWTH.dimensions == ()
    assert (NO_GROWTH.label, str(NO_GROWTH)) == ("none", "no growth")
    assert NO_GROWTH.apply(TINY) == TINY


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grown("text.depth", 2, 2), "must enlarge text.depth, but got 2 -> 2"),
        (lambda: grown("text.depth", 3, 2), "must enlarge text.depth, but got 3 -> 2"),
        (lambda: Candidate(steps=(DEEPER, DEEPER)), "one step for text.depth, but got 2"),
        (lambda: Candidate(momentum=0.9), "None for no growth, but got 0.9 for no growth"),
        (
            lambda: Candidate(steps=(WIDER,), momentum=1.5),
            r"between 0 and 1, and None for no growth, but got 1.5 for image.width 64 -> 96",
        ),
    ],
)
def test_impossible_candidates_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
