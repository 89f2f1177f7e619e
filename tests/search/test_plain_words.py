"""The sentences on a choice, on trials written by hand."""

import math
from dataclasses import replace
from statistics import NormalDist

import pytest

from nas_growclip.growth.candidates import NO_GROWTH
from nas_growclip.records.entries import Trial
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.objective import OBJECTIVES, scored_again
from nas_growclip.search.plain_words import (
    SENTENCES,
    Choice,
    choice_words,
    choices_at_other_data,
)
from tests.search.test_objective import CONFIG, DATA, DEEPER, trial


def scored(*trials: Trial, config: ObjectiveConfig = CONFIG) -> tuple[Trial, ...]:
    return scored_again(trials, DATA, config)


GROWS = replace(
    CONFIG,
    pairs_exponent=0.0,
    size_exponent=0.0,
    dimension_gains={"text.depth": 0.5},
    gain_spread=0.02,
)
"""Coefficients by which the trials' candidate is worth growing into."""


def percent(gain: float) -> str:
    return f"{abs(100 * math.expm1(-gain)):.2g} %"


def words_on(trials: tuple[Trial, ...], best: int, **more: object) -> str:
    words = choice_words(Choice(trials, trials[best], **more))  # type: ignore[arg-type]
    assert words is not None
    return words


def test_growth_is_told_with_its_gain_its_interval_and_what_speaks_for_it() -> None:
    trials = scored(trial(), trial(1, flops=110), trial(2, shift=0.1, flops=110), config=GROWS)
    best = trials[1]
    words = words_on(trials, 1)
    deviation, terms = best.terms["score_deviation"], best.terms
    gain = (best.score or 0.0) + terms["caution"]
    low, high = gain - 1.96 * deviation, gain + 1.96 * deviation
    assert low > 0
    assert words.startswith("text.depth\u00a02\u00a0→\u00a03: expected to end the stage ")
    interval = f"(95 % interval: {percent(low)} to {percent(high)} below)"
    assert f"with a loss {percent(gain)} below no growth's {interval}" in words
    assert NormalDist(-gain, deviation).cdf(0) > 0.99
    assert "with a probability of more than 99 %" in words
    assert f"is expected at {terms['predicted_loss']:.3g} nats" in words
    gained = f"the loss ended {percent(terms['dimension_gain'])} below no growth's after equally"
    assert gained in words
    assert "Its trial was as trials are, which says little of the stage's end." in words
    assert f"see fewer, which costs {percent(-terms['pairs_cost'])}." in words
    assert f"expected at {percent(0.4 * deviation)} below no growth's, since the best" in words
    assert "The next best was text.depth" in words


def test_what_a_long_trial_corrects_is_told() -> None:
    trusted = replace(GROWS, lead_spread=0.005)
    trials = scored(trial(), trial(1, shift=-0.9, flops=110), config=trusted)
    corrected = trials[1].terms["trial_gain"]
    assert corrected > 0.01
    said = f"Its trial speaks for a loss {percent(corrected)} below what that would give."
    assert said in words_on(trials, 1)


def test_no_growth_is_told_with_the_best_that_was_tried() -> None:
    trials = scored(trial(), trial(1, shift=0.3, flops=200), trial(2, shift=0.1, flops=150))
    words = words_on(trials, 0)
    assert words.startswith("no growth: no candidate promises enough")
    forecast = (trials[2].score or 0.0) + trials[2].terms["caution"]
    assert f"{percent(forecast)} above no growth's" in words


def test_the_chance_of_being_better_is_that_of_the_interval() -> None:
    best = replace(trial(1), score=0.1, terms={"score_deviation": 0.1})
    words = words_on((replace(trial(), score=0.0), best), 1)
    assert "95 % interval: 10 % above to 26 % below" in words
    assert "better than no growth with a probability of 84 %" in words  # one deviation above 0


@pytest.mark.parametrize(("score", "chance"), [(0.5, "more than 99 %"), (-0.5, "less than 1 %")])
def test_no_forecast_is_told_as_certain(score: float, chance: str) -> None:
    best = replace(trial(1), score=score, terms={"score_deviation": 0.1})
    assert f"with a probability of {chance}." in words_on((replace(trial(), score=0.0), best), 1)


def test_a_score_that_is_no_forecast_is_told_as_a_score() -> None:
    trials = scored(trial(), trial(1, shift=-0.5), config=ObjectiveConfig(name="loss_times_time"))
    words = words_on(trials, 1)
    assert f"with a score of {trials[1].score:+.2g} (no growth has 0)" in words
    assert "interval" not in words


def test_cost_is_what_the_other_trials_took_of_the_stage() -> None:
    trials = tuple(replace(t, train_flops=50) for t in scored(trial(), trial(1), trial(2)))
    assert "took 100 FLOPs, 10.0 % of the stage's" in words_on(trials, 1, stage_flops=900)


def test_a_shortlist_is_told() -> None:
    trials = scored(trial(), trial(1), trial(2), config=GROWS)
    assert "Tried were 2 of 45 growths" in words_on(trials, 1, num_expected=46)
    assert "Tried were" not in words_on(trials, 1)


def test_what_other_data_would_change_is_told() -> None:
    trials = scored(trial(), trial(1, shift=-0.3))
    same = {"half": DEEPER, "twice": DEEPER}
    assert "With half or twice the data the choice would be the same." in words_on(
        trials, 1, other_data=same
    )
    words = words_on(trials, 1, other_data={"half": NO_GROWTH, "twice": DEEPER})
    assert "With half the data it would be no growth." in words
    assert "twice" not in words


def test_other_data_are_scored_by_the_objective_itself() -> None:
    config = ObjectiveConfig(size_exponent=0.0, dimension_gains={"text.depth": 0.5})
    trials = (trial(), trial(1, flops=133))
    found = choices_at_other_data(trials, DATA, OBJECTIVES[config.name], config)
    for ratio, candidate in zip((0.5, 2.0), (found["half"], found["twice"]), strict=True):
        score = OBJECTIVES[config.name].score(trials[1], trials[0], round(DATA * ratio), config)
        assert candidate == (DEEPER if score.value > 0 else NO_GROWTH)


def test_unfinished_trials_are_counted() -> None:
    left = (replace(trial(2), state="pruned"), replace(trial(3), state="failed"))
    words = words_on((*scored(trial(), trial(1)), *left), 1)
    assert words.endswith("Of 4 trials, 1 stopped early and 1 failed.")


def test_where_there_was_no_choice_nothing_is_told() -> None:
    (alone,) = scored(trial())
    assert choice_words(Choice((alone,), alone)) is None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_has_a_sentence(objective: str) -> None:
    score = OBJECTIVES[objective].score(trial(1), trial(), DATA, ObjectiveConfig(name=objective))
    assert set(score.terms) & set(SENTENCES)
