"""Objectives, on trials written by hand."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest

from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import Trial
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.extrapolation import CurvePrior, fit_power_law
from nas_growclip.search.objective import (
    OBJECTIVES,
    TERMS,
    choose_growth,
    choose_knee,
    fit_control,
    lead,
    net_lead,
    out_of_the_ordinary,
    pareto_front,
    shared_part,
    weight_of_trial,
)

DATA = 1000
"""Pairs in the stage."""
CONFIG = ObjectiveConfig()
TRUSTING = ObjectiveConfig(dimension_gains={}, lead_spread=0.01)
"""By which a trial says what will be."""
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
        OBJECTIVES[name].score(trial(1, shift=shift), trial(), DATA, TRUSTING).value
        for shift in (0.4, 0.1, 0.0, -0.1, -0.4)
    ]
    assert scores == sorted(scores)
    assert scores[0] < 0 < scores[-1]


@pytest.mark.parametrize("name", ["data_size_aware", "quality_per_log_flops", "loss_times_time"])
def test_more_flops_for_the_same_curve_never_score_more(name: str) -> None:
    scores = [
        OBJECTIVES[name].score(trial(1, shift=-0.5, flops=flops), trial(), DATA, CONFIG).value
        for flops in (100, 200, 400, 800)
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
    """Gains and costs are e-folds of the loss; the trial corrects them as far as it is trusted."""
    config = ObjectiveConfig(
        dimension_gains={"text.depth": 0.4},
        pairs_exponent=0.0,
        size_exponent=0.5,
        curve_steepness=0.5,
        repetition_constant=4.0,
        gain_spread=0.1,
        lead_spread=0.001,
    )
    ahead = trial(1, shift=-2.0, flops=200)
    score = OBJECTIVES["data_size_aware"].score(ahead, trial(), DATA, config)
    terms = score.terms
    forecast = terms["dimension_gain"] + terms["trial_gain"] - terms["pairs_cost"]
    by_hand = forecast - terms["caution"]
    assert terms["caution"] == pytest.approx(0.4 * terms["score_deviation"])
    assert score.value == pytest.approx(by_hand)
    own, control = 1 + 4 * (1 - math.exp(-2 / 4)), 1 + 4 * (1 - math.exp(-5 / 4))
    worth = 0.4 * 2**-0.5  # of two blocks that grow
    assert terms["dimension_gain"] == pytest.approx(0.5 * worth * math.log(3 / 2))
    assert terms["pairs_cost"] == pytest.approx(0.5 * math.log(control / own))
    found = lead(ahead, trial(), DATA, config)
    ordinary = terms["dimension_gain"] + 2 * config.lead_spread
    assert found > ordinary
    weight = 0.1**2 / (0.1**2 + 0.001**2 * 6000 / 600)
    net = math.log((5 - 0.3 * math.log(6)) / (3 - 0.3 * math.log(3)))
    surprise = net - (terms["dimension_gain"] - terms["pairs_cost"])
    by_hand = weight * surprise + (1 - weight) * (found - ordinary)
    assert terms["trial_gain"] == pytest.approx(by_hand)
    assert terms["score_deviation"] == pytest.approx(config.gain_spread * math.sqrt(1 - weight))
    law = fit_control(trial(), DATA, config)
    end = law.loss(1000 * control).mean
    assert terms["predicted_loss"] == pytest.approx(end * math.exp(-forecast))


def test_with_few_passes_a_larger_model_costs_more() -> None:
    """The same FLOPs: where pairs repeat the last passes teach little, and cost little to leave."""
    cost = [
        OBJECTIVES["data_size_aware"]
        .score(trial(1, flops=200), trial(), num_pairs, CONFIG)
        .terms["pairs_cost"]
        for num_pairs in (100, 1000, 100_000)
    ]
    assert 0 < cost[0] < cost[1] < cost[2]
    assert cost[2] == pytest.approx(CONFIG.curve_steepness * math.log(2))


def test_the_choice_follows_the_data() -> None:
    deeper = trial(1, flops=150)
    config = ObjectiveConfig(size_exponent=0.0, dimension_gains={"text.depth": 0.5})
    few, many = (
        OBJECTIVES["data_size_aware"].score(deeper, trial(), pairs, config).value
        for pairs in (300, 6000)
    )
    assert many < 0 < few


@pytest.mark.parametrize(("exponent", "floor"), [(0.3, 0.0), (0.5, 0.6), (0.8, 1.0)])
def test_power_law_is_followed_far_beyond_its_beginning(exponent: float, floor: float) -> None:
    def loss(pairs: float) -> float:
        return floor + 8 * (pairs + 300) ** -exponent

    seen = [100.0 * k for k in range(1, 7)]
    law = fit_power_law(seen, [loss(p) for p in seen], CurvePrior(exponent, certainty=4.0))
    found = law.loss(3000)
    assert abs(found.mean - loss(3000)) < max(2 * found.deviation, 0.05)
    fallen = law.loss(1000).mean - found.mean
    assert fallen == pytest.approx(loss(1000) - loss(3000), abs=0.25)


def test_prediction_is_less_certain_farther_away() -> None:
    law = fit_control(trial(), 1000, CONFIG)
    near, far = law.loss(700), law.loss(20_000)
    assert near.deviation < far.deviation
    with pytest.raises(ValueError, match="must have a point after its start"):
        fit_power_law([], [], CONFIG.curve_prior)


def test_a_lead_is_measured_at_equal_pairs_in_e_folds() -> None:
    tenth = replace(trial(1), curve=tuple((p, 0.9 * loss) for p, loss in trial().curve))
    assert lead(tenth, trial(), 1000, CONFIG) == pytest.approx(-math.log(0.9))
    same = replace(trial(1), curve=trial().curve[:5])
    assert lead(same, trial(), 1000, CONFIG) == pytest.approx(0, abs=0.01)
    perfect = replace(trial(1), curve=tuple((p, 0.0) for p, _ in trial().curve))
    assert math.isfinite(lead(perfect, trial(), 1000, CONFIG))


def test_the_lag_after_growth_is_left_out() -> None:
    begun = trial(1)
    lagging = replace(begun, curve=(begun.curve[0], (100, 20.0), *begun.curve[2:]))
    assert lead(lagging, trial(), DATA, CONFIG) == pytest.approx(0)


@pytest.mark.parametrize(
    ("lead", "expected", "counts"),
    [
        (0.0, 0.3, 0.0),
        (0.3, 0.3, 0.0),
        (0.5, 0.3, 0.0),
        (0.6, 0.3, 0.1),
        (-0.2, 0.3, 0.0),
        (-1.2, 0.3, -1.0),
        (-0.7, -0.3, -0.2),
        (0.1, -0.3, 0.0),
    ],
)
def test_ordinary_leads_say_nothing(lead: float, expected: float, counts: float) -> None:
    """Between none and what is expected, and twice the spread beyond."""
    config = ObjectiveConfig(lead_spread=0.1)
    assert out_of_the_ordinary(lead, expected, config) == pytest.approx(counts)


def test_a_candidate_that_goes_wrong_in_its_trial_is_dropped() -> None:
    config = ObjectiveConfig(size_exponent=0.0, dimension_gains={"text.depth": 1.0})
    scores = [
        OBJECTIVES["data_size_aware"].score(trial(1, shift=shift), trial(), DATA, config).value
        for shift in (0.0, 0.4, 8.0)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)
    assert scores[1] > 0 > scores[2]


def whole_stage(number: int, final: float) -> Trial:
    """A trial that ends where its stage does."""
    begun = trial(number, flops=150 if number else 100)
    points = ((begun.stage_pairs // 2, 4.0), (begun.stage_pairs, final))
    return replace(begun, curve=((0, 9.0), *points), metrics={"loss": final})


@pytest.mark.parametrize("final", [1.0, 2.5, 3.0])
def test_a_trial_of_the_whole_stage_has_the_last_word(final: float) -> None:
    """Whatever was expected of it."""
    config = ObjectiveConfig(dimension_gains={"text.depth": 1.0})
    score = OBJECTIVES["data_size_aware"].score(
        whole_stage(1, final), whole_stage(0, 2.5), DATA, config
    )
    assert score.value == pytest.approx(math.log(2.5 / final))
    assert score.terms["score_deviation"] == 0


def test_a_longer_trial_counts_for_more() -> None:
    """As two forecasts of those spreads do; a short one hardly at all, a whole one alone."""
    config = ObjectiveConfig(gain_spread=0.05, lead_spread=0.1)
    weights = [weight_of_trial(share, config) for share in (0.0, 0.025, 0.5, 0.8, 1.0)]
    assert weights == sorted(weights)
    assert weights[0] == 0
    assert weights[1] < 0.01
    assert weights[2] == pytest.approx(0.05**2 / (0.05**2 + 0.1**2 / 0.5))
    assert weights[4] == 1


def test_a_net_lead_is_measured_at_the_same_share_of_flops() -> None:
    """Each against its own stage's pairs: the control has seen more of them by then."""
    larger = trial(1, flops=200)
    assert shared_part(larger, trial()) == 0.1
    longer = replace(trial(), curve=((0, 9.0), (1200, 4.5), (6000, 2.0)))
    assert shared_part(larger, longer) == 0.2
    found = net_lead(larger, longer)
    assert found == pytest.approx(math.log(4.5 / larger.metrics["loss"]))


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
        ({"curve_steepness": 0.0}, "curve_steepness: must be above 0"),
        ({"gain_spread": -1.0}, "gain_spread: must be above 0"),
        ({"lead_spread": float("inf")}, "lead_spread: must be above 0"),
        ({"dimension_gains": {"image.dept": 0.1}}, "Did you mean 'image.depth'"),
        ({"repetition_constant": 0.0}, "repetition_constant: must be above 0"),
        ({"decay_exponent": -0.1}, "decay_exponent: must be above 0"),
        ({"time_exponent": float("nan")}, "time_exponent: must be 0 or more"),
    ],
)
def test_bad_coefficients_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**setting)
