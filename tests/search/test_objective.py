"""Objectives, on trials written by hand."""

import math
from dataclasses import replace

import pytest

from nas_growclip.arch import ClipArch
from nas_growclip.growth.space import Candidate, GrowthStep
from nas_growclip.records import Trial
from nas_growclip.search.objective import (
    OBJECTIVES,
    DataSize,
    ObjectiveConfig,
    capacity_price,
    choose_growth,
    effective_pairs,
    explain,
    fit_curve,
    predicted_loss,
)

DATA = DataSize(num_pairs=1000, first_pairs=1000, first_flops=100)
CONFIG = ObjectiveConfig()
DEEPER: Candidate = (GrowthStep(dimension="text.depth", old=2, new=3),)


def trial(number: int = 0, *, shift: float = 0.0, slope: float = -0.3, flops: int = 100) -> Trial:
    """A trial whose loss falls by a straight line in log pairs."""
    points = [100, 200, 300, 400, 500, 600]
    curve = tuple((p, 5 + shift + slope * math.log(p / 100)) for p in points)
    return Trial(
        stage=0,
        number=number,
        candidate=DEEPER if number else (),
        arch=ClipArch.preset("tiny"),
        flops=flops,
        params=1,
        state="complete",
        metrics={"loss": curve[-1][1]},
        curve=((0, 9.0), *curve),
        stage_pairs=6000 * 100 // flops,
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_control_scores_zero(name: str) -> None:
    control = trial()
    assert OBJECTIVES[name](control, control, DATA, CONFIG).value == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_lower_loss_never_scores_less(name: str) -> None:
    scores = [
        OBJECTIVES[name](trial(1, shift=shift), trial(), DATA, CONFIG).value
        for shift in (0.4, 0.1, 0.0, -0.1, -0.4)
    ]
    assert scores == sorted(scores)
    assert scores[0] < 0 < scores[-1]


@pytest.mark.parametrize("name", ["data_size_aware", "quality_per_log_flops"])
def test_more_flops_for_the_same_curve_never_score_more(name: str) -> None:
    scores = [
        OBJECTIVES[name](trial(1, shift=-0.5, flops=flops), trial(), DATA, CONFIG).value
        for flops in (100, 300, 900, 2700)
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_are_finite_numbers(name: str) -> None:
    score = OBJECTIVES[name](trial(1, flops=900), trial(), DATA, CONFIG)
    assert score.terms
    assert all(math.isfinite(value) for value in score.terms.values())


def test_score_is_the_sum_of_its_terms() -> None:
    score = OBJECTIVES["data_size_aware"](trial(1, shift=-0.2, flops=900), trial(), DATA, CONFIG)
    terms = score.terms
    assert score.value == pytest.approx(terms["predicted_gain"] - terms["capacity_price"])
    assert terms["capacity_price"] == pytest.approx(0.05 * math.log(900 / 400))


def test_more_data_makes_capacity_cheaper_and_changes_the_choice() -> None:
    large = trial(1, shift=-0.1, flops=1600)
    config = ObjectiveConfig(capacity_price=0.3)
    small_data, much_data = DATA, DataSize(16_000, 1000, 100)
    assert capacity_price(1600, small_data, config) > 0
    assert capacity_price(1600, much_data, config) == 0
    scores = [
        OBJECTIVES["data_size_aware"](large, trial(), data, config).value
        for data in (small_data, much_data)
    ]
    assert scores[0] < scores[1]


def test_effective_pairs_follow_the_formula() -> None:
    assert effective_pairs(0, 10, 15.4) == 0
    assert effective_pairs(7, 10, 15.4) == 7
    assert effective_pairs(10, 10, 15.4) == 10
    by_hand = 10 + 10 * 15.4 * (1 - math.exp(-3 / 15.4))
    assert effective_pairs(40, 10, 15.4) == pytest.approx(by_hand)
    assert effective_pairs(1e9, 10, 15.4) == pytest.approx(10 * 16.4)


def test_a_straight_learning_curve_is_extrapolated_exactly() -> None:
    control = trial(slope=-0.3)
    config = ObjectiveConfig(slope_trust=1.0, repetition_constant=1e9)
    by_hand = 5 - 0.3 * math.log(6000 / 100)
    assert predicted_loss(control, control, 1000, config) == pytest.approx(by_hand, abs=1e-4)


def test_slope_is_drawn_to_the_controls() -> None:
    steep, control = trial(1, slope=-0.9), trial(slope=-0.3)
    losses = [
        predicted_loss(steep, control, 1000, ObjectiveConfig(slope_trust=trust))
        for trust in (1.0, 0.5, 0.0)
    ]
    assert losses[0] < losses[1] < losses[2]


def test_rising_curve_is_not_extrapolated_upwards() -> None:
    rising = trial(1, slope=0.5)
    assert fit_curve(rising, 1000, CONFIG).slope == 0
    one_point = replace(rising, curve=((0, 9.0), (100, 4.0)))
    assert fit_curve(one_point, 1000, CONFIG).end_loss == 4.0


def test_choice_takes_the_best_score_and_fewer_flops_on_a_tie() -> None:
    scored = [
        replace(trial(0), score=0.0),
        replace(trial(1, flops=300), score=0.2),
        replace(trial(2, flops=200), score=0.2),
        replace(trial(3), score=None, state="failed"),
        replace(trial(4), score=float("nan")),
    ]
    assert choose_growth(scored).number == 2
    with pytest.raises(ValueError, match="At least one trial must complete"):
        choose_growth(scored[3:])


def test_explanation_names_the_step_the_terms_and_the_next_best() -> None:
    best = replace(trial(1), score=0.2, terms={"predicted_gain": 0.2})
    text = explain(best, [replace(trial(0), score=0.0), best])
    assert "text.depth 2 -> 3" in text
    assert "predicted_gain 0.2" in text
    assert "next best none +0" in text
    control = replace(trial(0), score=0.0)
    assert explain(control, [control]).startswith("no growth")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"capacity_price": -1.0}, "capacity_price: must be 0 or more"),
        ({"repetition_constant": 0.0}, "repetition_constant: must be above 0"),
        ({"slope_trust": 2.0}, r"slope_trust: must be in \[0, 1\]"),
    ],
)
def test_bad_coefficients_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**setting)
