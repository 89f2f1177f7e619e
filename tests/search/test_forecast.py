"""What is expected before a trial, by hand, and the shortlist that is made of it."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep
from nas_growclip.growth.space import GrowthSpace, SizeChoices
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.flops import count_flops
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.forecast import (
    MEASURED_SIZES,
    PAIRS_RANGE,
    REFERENCE_PAIRS,
    Expectation,
    StageAhead,
    effective_pairs,
    expectations,
    expected_gain,
    fewer_pairs,
    shortlist,
)

PARENT = ClipArch.preset("tiny")
SPACE = GrowthSpace(
    dimensions={
        "image.depth": SizeChoices(add=(1, 2)),
        "image.mlp_width": SizeChoices(ratios=(2.0,)),
    },
    momenta=(1.0, 0.9),
)
GAINS = {"image.depth": 2.0, "shared.depth": 1.0, "image.patch_size": 0.5}
CONFIG = ObjectiveConfig(
    dimension_gains=GAINS,
    pairs_exponent=0.0,
    size_exponent=0.0,
    curve_steepness=0.5,
    repetition_constant=4.0,
)


def step(dimension: str, old: int, new: int) -> Candidate:
    return Candidate(steps=(GrowthStep(dimension=dimension, old=old, new=new),))


def test_effective_pairs_follow_the_formula() -> None:
    assert effective_pairs(0, 10, 15.4) == 0
    assert effective_pairs(7, 10, 15.4) == 7
    assert effective_pairs(10, 10, 15.4) == 10
    by_hand = 10 + 10 * 15.4 * (1 - math.exp(-3 / 15.4))
    assert effective_pairs(40, 10, 15.4) == pytest.approx(by_hand)
    assert effective_pairs(1e9, 10, 15.4) == pytest.approx(10 * 16.4)


@pytest.mark.parametrize(
    ("candidate", "e_folds"),
    [
        (NO_GROWTH, 0.0),
        (step("image.depth", 2, 3), 2 * math.log(1.5)),
        (step("shared.depth", 0, 1), math.log(2)),
        (step("image.patch_size", 8, 4), 0.5 * math.log(2)),
        (step("text.width", 64, 96), 0.0),
    ],
)
def test_gains_are_those_of_the_dimensions(candidate: Candidate, e_folds: float) -> None:
    found = expected_gain(candidate, 4000, 4000, CONFIG)
    assert found == pytest.approx(0.5 * e_folds)


@pytest.mark.parametrize(
    ("candidate", "factor"),
    [
        (step("image.depth", 1, 2), 1.0),
        (step("image.depth", 2, 4), 0.5**0.5),
        (step("image.depth", 3, 6), (1 / 3) ** 0.5),
        (step("image.depth", 12, 24), (1 / 3) ** 0.5),
        (step("shared.depth", 0, 1), 1.0),
        (step("embed_dim", 16, 32), 2**0.5),
        (step("embed_dim", 4, 8), (32 / 12) ** 0.5),
        (step("embed_dim", 768, 1536), 1.0),
        (step("image.patch_size", 8, 4), 1.0),
    ],
)
def test_the_larger_a_dimension_the_less_it_is_worth_as_far_as_was_seen(
    candidate: Candidate, factor: float
) -> None:
    gains = dict.fromkeys(["image.depth", "shared.depth", "embed_dim", "image.patch_size"], 1.0)
    config = replace(CONFIG, size_exponent=0.5, dimension_gains=gains)
    gain = expected_gain(candidate, 4000, 4000, config)
    assert gain == pytest.approx(0.5 * factor * math.log(2))


def test_measured_sizes_hold_their_reference() -> None:
    for reference, smallest, largest in MEASURED_SIZES.values():
        assert smallest <= reference <= largest


@pytest.mark.parametrize(
    ("pairs", "factor"),
    [
        (REFERENCE_PAIRS, 1.0),
        (2 * REFERENCE_PAIRS, 0.5),
        (1e9, REFERENCE_PAIRS / PAIRS_RANGE[1]),
        (1.0, REFERENCE_PAIRS / PAIRS_RANGE[0]),
    ],
)
def test_worth_changes_with_the_effective_pairs_as_far_as_was_seen(
    pairs: float, factor: float
) -> None:
    """One pass over so many pairs."""
    config = replace(CONFIG, pairs_exponent=-1.0)
    gain = expected_gain(step("image.depth", 2, 3), pairs, round(pairs), config)
    assert gain == pytest.approx(factor * math.log(1.5), rel=1e-4)


@given(seen=st.floats(1, 1e9), ratio=st.floats(1, 20), num_pairs=st.integers(1, 10**8))
def test_fewer_pairs_never_gain_and_cost_at_most_as_if_none_repeated(
    seen: float, ratio: float, num_pairs: int
) -> None:
    cost = fewer_pairs(seen / ratio, seen, num_pairs, CONFIG)
    assert -1e-9 <= cost <= 0.5 * math.log(ratio) + 1e-9


def test_expectations_by_hand() -> None:
    candidates = SPACE.candidates(PARENT, 1000)
    stage = StageAhead(1000, 6000, lambda candidate: count_flops(candidate.apply(PARENT)))
    found = expectations(candidates, stage, CONFIG)
    assert {e.candidate for e in found} == set(candidates)
    assert [e.gain for e in found] == sorted((e.gain for e in found), reverse=True)
    flops = {e.candidate: e.flops for e in found}
    for candidate, counted, gain in found:
        assert counted == count_flops(candidate.apply(PARENT))
        ratio = counted / flops[NO_GROWTH]
        own, control = (1 + 4 * (1 - math.exp(-(passes - 1) / 4)) for passes in (6 / ratio, 6.0))
        gained = expected_gain(candidate, 6000, 1000, CONFIG)
        by_hand = gained - 0.5 * math.log(control / own)
        assert gain == pytest.approx(by_hand, abs=1e-6)


def test_a_shortlist_has_no_growth_and_the_best_growths_with_all_momenta() -> None:
    growths = [step("image.depth", 2, 3), step("text.depth", 2, 3), step("text.depth", 2, 4)]
    blended = [Candidate(steps=g.steps, momentum=m) for g in growths for m in (1.0, 0.5)]
    expected = [Expectation(c, 1, -0.1 * n) for n, c in enumerate([NO_GROWTH, *blended])]
    assert shortlist(expected, 2) == (NO_GROWTH, *blended[:4])
    assert shortlist(expected, 9) == (NO_GROWTH, *blended)
    assert shortlist(expected[1:], 1) == (NO_GROWTH, *blended[:2])
