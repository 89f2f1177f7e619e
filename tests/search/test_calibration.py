"""Coefficients found again in stages that were made by them."""

import math
import random
from dataclasses import replace

import pytest

from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import Measure, StageResult
from nas_growclip.search.calibration import Finished, calibrated, finished_growths
from nas_growclip.search.coefficients import ObjectiveConfig

TRUE = ObjectiveConfig(
    dimension_gains={"image.depth": 0.5, "text.width": -0.2, "embed_dim": 0.1},
    pairs_exponent=-0.25,
    size_exponent=0.25,
    curve_steepness=0.7,
    repetition_constant=4.0,
)
UNKNOWING = ObjectiveConfig(dimension_gains={}, pairs_exponent=0.0, size_exponent=0.0)
PRICES = {"image.depth": 0.4, "text.width": 0.9, "embed_dim": 0.6}
"""E-folds of FLOPs that an e-fold of a dimension costs."""
SIZES = {
    "image.depth": ((1, 2), (2, 3), (3, 6)),
    "text.width": ((12, 24), (16, 24), (32, 64)),
    "embed_dim": ((12, 24), (16, 64), (32, 48)),
}


def made(candidate: Candidate, num_pairs: int, seen: int = 60_000, noise: float = 0.0) -> Finished:
    """A finished stage as the true coefficients have it."""
    price = sum(PRICES[s.dimension] * math.log(s.new / s.old) for s in candidate.steps)
    found = Finished(candidate, num_pairs, round(seen * math.exp(-price)), seen, 1.0, 1.0)
    return found._replace(loss=math.exp(-found.expected(TRUE) - noise))


def growths() -> list[Candidate]:
    steps = [
        GrowthStep(dimension=dimension, old=old, new=new)
        for dimension, sizes in SIZES.items()
        for old, new in sizes
    ]
    alone = [Candidate(steps=(step,)) for step in steps]
    return [
        *alone,
        *(Candidate(steps=(a, b)) for a, b in ((steps[0], steps[3]), (steps[1], steps[7]))),
    ]


def test_true_coefficients_are_found() -> None:
    rng = random.Random(0)
    finished = [
        made(candidate, pairs, seen, rng.gauss(0, 0.005))
        for candidate in growths()
        for pairs in (3_000, 10_000, 60_000)
        for seen in (60_000, 240_000)
    ]
    found = calibrated(finished, UNKNOWING)
    assert found.repetition_constant == pytest.approx(4.0, rel=0.2)
    assert found.pairs_exponent == pytest.approx(-0.25, abs=0.1)
    assert found.size_exponent == pytest.approx(0.25, abs=0.1)
    assert found.curve_steepness == pytest.approx(0.7, rel=0.1)
    assert found.dimension_gains == pytest.approx(TRUE.dimension_gains, abs=0.05)
    assert found.gain_spread == pytest.approx(0.01, abs=0.005)  # no less than the least
    assert found.lead_spread == UNKNOWING.lead_spread


def test_one_stage_changes_little_and_many_change_much() -> None:
    candidate = growths()[2]
    worth = [
        calibrated([made(candidate, 10_000)] * count, UNKNOWING).dimension_gains["image.depth"]
        for count in (1, 300)
    ]
    assert abs(worth[0]) < abs(worth[1])
    assert calibrated([made(candidate, 10_000)] * 300, UNKNOWING).gain_spread < 0.02


def test_what_was_known_stays_where_nothing_contradicts_it() -> None:
    before = replace(TRUE, dimension_gains={**TRUE.dimension_gains, "shared.depth": 0.3})
    found = calibrated([made(c, 10_000) for c in growths()], before)
    for dimension, gain in before.dimension_gains.items():
        assert found.dimension_gains[dimension] == pytest.approx(gain, abs=0.02)


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="At least one candidate must have grown and finished"):
        calibrated([], UNKNOWING)


def result(stage: int, chosen: Candidate, loss: float, **changes: object) -> StageResult:
    arch = ClipArch.preset("tiny")
    made_result = StageResult(
        stage=stage,
        num_pairs=1000 * (stage + 1),
        skipped={},
        parent=arch,
        arch=arch,
        chosen=chosen,
        chosen_trial=0,
        reason="",
        flops=100,
        flops_by_encoder={},
        params=1,
        metrics={},
        validation={"loss": Measure(loss, 3.0)},
        curve=((0, 3.0), (1000, loss)),
        pairs_seen=8000 - 1000 * len(chosen.steps),
        search_flops=0,
        train_flops=10_000,
        cumulative_flops=1,
    )
    return replace(made_result, **changes)


def test_growths_are_set_beside_no_growth_from_the_same_parent() -> None:
    grown, first = growths()[0], result(0, NO_GROWTH, 2.0)
    control = [first, result(1, NO_GROWTH, 1.0)]
    histories = [
        [first, result(1, grown, 0.9), result(2, grown, 0.5)],  # its third stage is alone
        control,
        [result(0, NO_GROWTH, 2.1), result(1, grown, 0.8)],  # another parent
        [first, result(1, grown, 0.7, num_pairs=999)],  # other data
        [first, result(1, grown, 0.7, train_flops=20_000)],  # other FLOPs
        [result(0, grown, 0.7)],  # a first stage has no parent
    ]
    (found,) = finished_growths(histories)
    assert found == Finished(grown, 2000, 7000, 8000, 0.9, 1.0)
    assert found.gain == pytest.approx(math.log(1 / 0.9))


def test_a_stage_that_runs_share_counts_once() -> None:
    """Runs that go on from one growth have copied it; another seed's like growth is a second."""
    grown, first, other = growths()[0], result(0, NO_GROWTH, 2.0), result(0, NO_GROWTH, 2.1)
    shared = [first, result(1, grown, 0.9)]
    histories = [
        [first, result(1, NO_GROWTH, 1.0)],
        shared,
        [*shared, result(2, NO_GROWTH, 0.8)],
        [*shared, result(2, growths()[1], 0.7)],
        [other, result(1, NO_GROWTH, 1.0)],
        [other, result(1, grown, 0.95)],
    ]
    found = finished_growths(histories)
    assert [(f.candidate.label, f.loss) for f in found] == [
        (grown.label, 0.9),
        (growths()[1].label, 0.7),
        (grown.label, 0.95),
    ]
