"""Objectives, on trials written by hand."""

import math
import random
from dataclasses import replace

import pytest

from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import Trial
from nas_growclip.search.extrapolation import CurvePrior, fit_power_law
from nas_growclip.search.objective import (
    OBJECTIVES,
    TERMS,
    DataSize,
    ObjectiveConfig,
    advantage,
    capacity_price,
    choose_growth,
    choose_knee,
    effective_pairs,
    fit_control,
    pareto_front,
)

DATA = DataSize(num_pairs=1000, first_pairs=1000, first_flops=100)
CONFIG = ObjectiveConfig()
DEEPER = Candidate(steps=(GrowthStep(dimension="text.depth", old=2, new=3),))


def trial(number: int = 0, *, shift: float = 0.0, slope: float = -0.3, flops: int = 100) -> Trial:
    """A trial whose loss falls by a straight line in log pairs."""
    points = [100, 200, 300, 400, 500, 600]
    curve = tuple((p, 5 + shift + slope * math.log(p / 100)) for p in points)
    return Trial(
        stage=0,
        number=number,
        candidate=DEEPER if number else NO_GROWTH,
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
    assert OBJECTIVES[name].score(control, control, DATA, CONFIG).value == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_lower_loss_never_scores_less(name: str) -> None:
    scores = [
        OBJECTIVES[name].score(trial(1, shift=shift), trial(), DATA, CONFIG).value
        for shift in (0.4, 0.1, 0.0, -0.1, -0.4)
    ]
    assert scores == sorted(scores)
    assert scores[0] < 0 < scores[-1]


@pytest.mark.parametrize("name", ["data_size_aware", "quality_per_log_flops", "loss_times_time"])
def test_more_flops_for_the_same_curve_never_score_more(name: str) -> None:
    scores = [
        OBJECTIVES[name].score(trial(1, shift=-0.5, flops=flops), trial(), DATA, CONFIG).value
        for flops in (100, 300, 900, 2700)
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_are_finite_numbers(name: str) -> None:
    score = OBJECTIVES[name].score(trial(1, flops=900), trial(), DATA, CONFIG)
    assert score.terms
    assert set(score.terms) <= set(TERMS)
    assert all(math.isfinite(value) for value in score.terms.values())


def test_score_is_the_sum_of_its_terms() -> None:
    config = ObjectiveConfig(capacity_curvature=0.1)
    score = OBJECTIVES["data_size_aware"].score(
        trial(1, shift=-0.2, flops=900), trial(), DATA, config
    )
    terms = score.terms
    by_hand = terms["advantage"] - terms["pairs_cost"] - terms["capacity_price"]
    assert score.value == pytest.approx(by_hand)
    parabola = math.log(900 / 150) ** 2 - math.log(100 / 150) ** 2
    assert terms["capacity_price"] == pytest.approx(0.1 * parabola)


def test_capacity_is_cheapest_at_what_the_data_supports() -> None:
    config = ObjectiveConfig(capacity_curvature=0.3, capacity_headroom=1, capacity_exponent=0.5)
    much = DataSize(16_000, 1000, 100)
    assert capacity_price(400, much, config) == 0
    assert capacity_price(800, much, config) == pytest.approx(capacity_price(200, much, config))
    assert capacity_price(800, DATA, config) > capacity_price(800, much, config)


def test_more_data_makes_capacity_cheaper_and_changes_the_choice() -> None:
    large = trial(1, shift=-0.3, flops=300)
    config = ObjectiveConfig(capacity_curvature=0.3, advantage_spread=1.0)
    data = (DATA, DataSize(16_000, 1000, 100))
    few, many = (OBJECTIVES["data_size_aware"].score(large, trial(), d, config) for d in data)
    assert few.value < 0 < many.value


def test_fewer_pairs_cost_less_where_pairs_repeat() -> None:
    """With few pairs the later epochs teach little, so a large model gives up little."""
    cost = [
        OBJECTIVES["data_size_aware"]
        .score(trial(1, flops=200), trial(), DataSize(num_pairs, 100, 100), CONFIG)
        .terms["pairs_cost"]
        for num_pairs in (100, 1000, 100_000)
    ]
    assert 0 < cost[0] < cost[1] < cost[2]


def test_where_the_loss_rises_fewer_pairs_are_a_gain() -> None:
    rising = trial(slope=0.3)
    larger = trial(1, slope=0.3, flops=200)
    assert OBJECTIVES["data_size_aware"].score(larger, rising, DATA, CONFIG).value > 0


def test_effective_pairs_follow_the_formula() -> None:
    assert effective_pairs(0, 10, 15.4) == 0
    assert effective_pairs(7, 10, 15.4) == 7
    assert effective_pairs(10, 10, 15.4) == 10
    by_hand = 10 + 10 * 15.4 * (1 - math.exp(-3 / 15.4))
    assert effective_pairs(40, 10, 15.4) == pytest.approx(by_hand)
    assert effective_pairs(1e9, 10, 15.4) == pytest.approx(10 * 16.4)


@pytest.mark.parametrize(("exponent", "floor"), [(0.3, 0.0), (0.5, 0.6), (0.8, 1.0)])
def test_power_law_is_followed_far_beyond_its_beginning(exponent: float, floor: float) -> None:
    def loss(pairs: float) -> float:
        return floor + 8 * (pairs + 300) ** -exponent

    seen = [100.0 * k for k in range(1, 7)]
    law = fit_power_law(seen, [loss(p) for p in seen], CurvePrior(exponent, certainty=4.0))
    found = law.loss(3000)
    assert abs(found.mean - loss(3000)) < max(2 * found.deviation, 0.05)
    assert law.cost(3000, 1000).mean == pytest.approx(loss(1000) - loss(3000), abs=0.25)
    assert law.cost(3000, 3000) == (0.0, 0.0)


def test_prediction_is_less_certain_farther_away() -> None:
    law = fit_control(trial(), 1000, CONFIG)
    near, far = law.loss(700), law.loss(20_000)
    assert near.deviation < far.deviation
    with pytest.raises(ValueError, match="must have a point after its start"):
        fit_power_law([], [], CONFIG.curve_prior)


def test_advantage_is_measured_at_equal_pairs_and_drawn_to_zero() -> None:
    ahead = trial(1, shift=-0.2)
    trusting, doubting = (
        advantage(ahead, trial(), 1000, ObjectiveConfig(advantage_spread=spread))
        for spread in (10.0, 0.001)
    )
    assert trusting.mean == pytest.approx(0.2, abs=1e-3)
    assert 0 < doubting.mean < 0.05
    assert doubting.deviation < trusting.deviation
    same = replace(trial(1), curve=trial().curve[:5])
    assert advantage(same, trial(), 1000, CONFIG).mean == pytest.approx(0, abs=0.01)


def test_trial_with_one_point_is_scored() -> None:
    short = replace(trial(1), curve=((0, 9.0), (100, 4.0)))
    score = OBJECTIVES["data_size_aware"].score(short, trial(), DATA, CONFIG)
    assert math.isfinite(score.value)


def scored(number: int, flops: int, score: float | None) -> Trial:
    state = "failed" if score is None else "complete"
    return replace(trial(number, flops=flops), score=score, state=state)


def test_knee_is_where_more_flops_begin_to_bring_little() -> None:
    trials = [
        scored(0, 100, 0.0),
        scored(1, 150, 0.8),
        scored(2, 140, 0.1),
        scored(3, 1000, 1.0),
        scored(4, 900, None),
    ]
    assert [t.number for t in pareto_front(trials)] == [0, 2, 1, 3]
    assert choose_knee(trials).number == 1
    assert choose_knee(trials[:2]).number == 0
    assert choose_knee(trials[:1]).number == 0
    with pytest.raises(ValueError, match="At least one trial must complete"):
        choose_knee(trials[4:])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_chosen_in_the_end_was_always_among_the_contenders(name: str) -> None:
    """Training states are deleted on the way; the chosen one's must not be."""
    rng = random.Random(name)
    for _ in range(50):
        trials = [scored(0, 100, 0.0)]
        trials += [scored(n, rng.randrange(50, 900), rng.uniform(-1, 1)) for n in range(1, 9)]
        chosen = OBJECTIVES[name].choose(trials)
        for count in range(chosen.number + 1, len(trials) + 1):
            assert chosen in OBJECTIVES[name].contenders(trials[:count])


def test_auto_progs_product_by_hand() -> None:
    score = OBJECTIVES["loss_times_time"].score(trial(1, flops=400), trial(), DATA, CONFIG)
    loss = trial().metrics["loss"]
    assert score.value == pytest.approx(loss - loss * 2)


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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"capacity_curvature": -1.0}, "capacity_curvature: must be 0 or more"),
        ({"repetition_constant": 0.0}, "repetition_constant: must be above 0"),
        ({"decay_exponent": -0.1}, "decay_exponent: must be above 0"),
        ({"time_exponent": float("nan")}, "time_exponent: must be 0 or more"),
    ],
)
def test_bad_coefficients_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**setting)
