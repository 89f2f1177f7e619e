"""Scores that say which candidate is worth growing into, given how much data there is.

An objective is a pure function of two records (a trial and the stage's control) and the data
size, so a finished run can be scored again from its records. Scores are gains over the control:
the control has 0, and nothing below 0 is worth growing into.

Candidates are compared at equal training FLOPs: a larger one sees fewer pairs for the same
budget, a smaller one sees the same pairs more often, and a repeated pair is worth less each time.
What is expected before a trial, and why a trial says little, is in ``search.forecast``.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from nas_growclip.records.entries import Trial
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.extrapolation import PowerLaw, fit_power_law
from nas_growclip.search.forecast import effective_pairs, expected_gain, fewer_pairs

LEAST_LOSS = 1e-3
"""Nats below which losses are taken for equal: their logarithms would differ without end."""

TERMS: Mapping[str, str] = {
    "observed_loss": "validation loss at the end of the trial, in nats",
    "observed_gain": "control's loss at the end of its trial less the candidate's",
    "predicted_loss": "validation loss expected at the end of the stage, before its cool-down",
    "predicted_deviation": "standard deviation of the predicted loss",
    "dimension_gain": "what its dimensions gained in finished stages at equal pairs, in e-folds",
    "trial_gain": "by how much its trial corrects that, the more the longer it was, likewise",
    "pairs_cost": "given up because the same FLOPs buy a larger model fewer pairs, in e-folds",
    "caution": "kept back from a growth, since the best of several promises too much, in e-folds",
    "doublings": "how many times the FLOPs of a pair doubled, 1 at least",
    "log_flops": "FLOPs of a pair in e-folds above the control's",
    "relative_time": "FLOPs of a pair by the control's",
    "score_deviation": "standard deviation of the forecast of the stage's end, in e-folds",
}
"""What each term of a score means, in one sentence."""


def partner_probability(loss: float) -> float:
    """exp(-loss): what a model gives to the right partner, geometric mean over the pairs."""
    return math.exp(-loss)


class Score(NamedTuple):
    """A gain over the control and the terms that explain it."""

    value: float
    terms: Mapping[str, float]


ScoreRule = Callable[[Trial, Trial, int, ObjectiveConfig], Score]
"""(trial, control, the stage's pairs, coefficients) -> the trial's score."""


class Curve(NamedTuple):
    """A trial's learning curve after its start: effective pairs and validation losses."""

    pairs: tuple[float, ...]
    losses: tuple[float, ...]


def later_curve(trial: Trial, num_pairs: int, config: ObjectiveConfig) -> Curve:
    """The later three quarters of a trial's points; the lag after growth is left out."""
    points = [(pairs, loss) for pairs, loss in trial.curve if pairs > 0]
    later = points[len(points) // 4 :]
    worth = [effective_pairs(pairs, num_pairs, config.repetition_constant) for pairs, _ in later]
    return Curve(tuple(worth), tuple(loss for _, loss in later))


def fit_control(control: Trial, num_pairs: int, config: ObjectiveConfig) -> PowerLaw:
    """The control's learning curve, to be followed to the end of the stage."""
    curve = later_curve(control, num_pairs, config)
    return fit_power_law(curve.pairs, curve.losses, config.curve_prior)


def lead(trial: Trial, control: Trial, num_pairs: int, config: ObjectiveConfig) -> float:
    """How far a trial's loss is below the control's at equal effective pairs, in e-folds.

    The mean over the trial's later points, to the control's curve interpolated in log pairs.
    """
    own, other = later_curve(trial, num_pairs, config), later_curve(control, num_pairs, config)
    own_logs, other_logs = (np.log(np.maximum(c.losses, LEAST_LOSS)) for c in (own, other))
    ahead = np.interp(np.log(own.pairs), np.log(other.pairs), other_logs) - own_logs
    return float(ahead.mean())


def out_of_the_ordinary(lead: float, expected: float, config: ObjectiveConfig) -> float:
    """By how much a lead is beyond those that candidates had which then gained what is expected."""
    margin = 2 * config.lead_spread
    return lead - min(max(lead, min(0.0, expected) - margin), max(0.0, expected) + margin)


def shared_part(trial: Trial, control: Trial) -> float:
    """What of their stage both have been trained for, from 0 to 1: the shorter one's share."""
    return min(1.0, *(t.curve[-1][0] / t.stage_pairs for t in (trial, control)))


def net_lead(trial: Trial, control: Trial) -> float:
    """How far a trial's loss is below the control's at the same training FLOPs, in e-folds.

    At the end of what both have been trained for, each after its own pairs.
    """
    share = shared_part(trial, control)
    own, other = (
        np.interp(share * t.stage_pairs, pairs, np.log(np.maximum(losses, LEAST_LOSS)))
        for t in (trial, control)
        for pairs, losses in [zip(*t.curve, strict=True)]
    )
    return float(other - own)


def weight_of_trial(share: float, config: ObjectiveConfig) -> float:
    """How much of what a trial shows is taken for the stage's end: 0 for none, 1 for all of it.

    The precision-weighted mean of two normal forecasts: what is expected, with the variance
    gain_spread^2, and the trial's net lead, with lead_spread^2 / share as long as it has not been
    cooled down, and with none where it is the whole stage.
    """
    if share >= 1:
        return 1.0
    known, seen = config.lead_spread**2, share * config.gain_spread**2
    return seen / (known + seen)


def data_size_aware(trial: Trial, control: Trial, num_pairs: int, config: ObjectiveConfig) -> Score:
    """Gain over no growth that is expected at the stage's end, in e-folds of the loss.

    What a candidate's dimensions gain at equal pairs, less what it loses by seeing fewer of them
    for the same FLOPs, repeats discounted at this data size. A trial corrects that by its weight,
    and beyond it only where its lead is out of the ordinary: leads of short trials between none and
    what is expected, and a little beyond, were seen to say nothing of the stage's end. A trial as
    long as its stage has the last word, at whatever data size it is scored again. The score is
    ``caution`` standard deviations below that forecast.
    """
    law = fit_control(control, num_pairs, config)
    end = law.loss(effective_pairs(control.stage_pairs, num_pairs, config.repetition_constant))
    cost = fewer_pairs(trial.stage_pairs, control.stage_pairs, num_pairs, config)
    expected = gained = deviation = 0.0
    if trial.number != control.number:
        expected = expected_gain(trial.candidate, control.stage_pairs, num_pairs, config)
        unusual = out_of_the_ordinary(lead(trial, control, num_pairs, config), expected, config)
        surprise = net_lead(trial, control) - (expected - cost)
        weight = weight_of_trial(shared_part(trial, control), config)
        gained = weight * surprise + (1 - weight) * unusual
        deviation = config.gain_spread * math.sqrt(1 - weight)
    forecast = expected + gained - cost
    loss = end.mean * math.exp(-forecast)
    caution = config.caution * deviation
    terms = {
        "observed_loss": trial.metrics["loss"],
        "predicted_loss": loss,
        "predicted_deviation": loss * math.hypot(end.deviation / end.mean, deviation),
        "dimension_gain": expected,
        "trial_gain": gained,
        "pairs_cost": cost,
        "caution": caution,
        "score_deviation": deviation,
    }
    return Score(forecast - caution, terms)


def quality(trial: Trial, control: Trial, num_pairs: int, config: ObjectiveConfig) -> Score:
    """Gain in validation loss at the end of the trial, whatever it cost."""
    gain = control.metrics["loss"] - trial.metrics["loss"]
    return Score(gain, {"observed_loss": trial.metrics["loss"], "observed_gain": gain})


def quality_per_log_flops(
    trial: Trial, control: Trial, num_pairs: int, config: ObjectiveConfig
) -> Score:
    """Gain in validation loss for each doubling of FLOPs; a candidate no larger gets the gain."""
    gain = control.metrics["loss"] - trial.metrics["loss"]
    doublings = max(1.0, math.log2(trial.flops / control.flops))
    terms = {"observed_loss": trial.metrics["loss"], "observed_gain": gain, "doublings": doublings}
    return Score(gain / doublings, terms)


def loss_times_time(trial: Trial, control: Trial, num_pairs: int, config: ObjectiveConfig) -> Score:
    """Loss at the end of the trial times FLOPs to the power of w, as a gain over the control's.

    Reference: AutoProg, Li et al., 2022 (arXiv 2203.14509); its time is FLOPs here.
    """
    relative = trial.flops / control.flops
    product = trial.metrics["loss"] * relative**config.time_exponent
    terms = {"observed_loss": trial.metrics["loss"], "relative_time": relative}
    return Score(control.metrics["loss"] - product, terms)


def pareto(trial: Trial, control: Trial, num_pairs: int, config: ObjectiveConfig) -> Score:
    """Gain in validation loss at the end of the trial; the choice weighs it against FLOPs."""
    gain = control.metrics["loss"] - trial.metrics["loss"]
    terms = {
        "observed_loss": trial.metrics["loss"],
        "observed_gain": gain,
        "log_flops": math.log(trial.flops / control.flops),
    }
    return Score(gain, terms)


def choose_growth(trials: Iterable[Trial]) -> Trial:
    """The completed trial with the highest score; ties go to fewer FLOPs.

    Raises:
        ValueError: If no trial completed.
    """
    scored = [trial for trial in trials if is_scored(trial)]
    if not scored:
        raise ValueError(
            "At least one trial must complete, but none did. See trials.jsonl for why."
        )
    return max(scored, key=lambda trial: (trial.score or 0.0, -trial.flops, -trial.number))


def is_scored(trial: Trial) -> bool:
    """Whether a trial can be compared with others."""
    return trial.score is not None and math.isfinite(trial.score)


def best_alone(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The best trial so far: with fixed scores no other one can become it."""
    return (choose_growth(trials),)


def pareto_front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The scored trials that no other one beats in both score and FLOPs, by rising FLOPs.

    Raises:
        ValueError: If no trial completed.
    """
    best_first = sorted(trials, key=lambda trial: (trial.flops, -(trial.score or 0.0)))
    front: list[Trial] = []
    for trial in best_first:
        if is_scored(trial) and (not front or (trial.score or 0) > (front[-1].score or 0)):
            front.append(trial)
    return tuple(front) or (choose_growth(trials),)


def choose_knee(trials: Sequence[Trial]) -> Trial:
    """The trial of the Pareto front that lies farthest above the line between the front's ends.

    Axes are the score and log FLOPs, each from 0 to 1 over the front; of a front of two the one
    with fewer FLOPs, so that growing without a knee is not chosen.
    """
    front = pareto_front(trials)
    log_flops = np.log([trial.flops for trial in front])
    scores = np.array([trial.score for trial in front], dtype=float)
    if len(front) < 3:
        return front[0]
    along = (log_flops - log_flops[0]) / (log_flops[-1] - log_flops[0])
    above = (scores - scores[0]) / (scores[-1] - scores[0]) - along
    return front[int(above.argmax())]


class Objective(NamedTuple):
    """How trials are scored, and how one of them is chosen."""

    score: ScoreRule
    choose: Callable[[Sequence[Trial]], Trial] = choose_growth
    """The trial to go on with."""
    contenders: Callable[[Sequence[Trial]], tuple[Trial, ...]] = best_alone
    """Those that further trials cannot rule out: their training states are kept."""


OBJECTIVES: Mapping[str, Objective] = {
    "data_size_aware": Objective(data_size_aware),
    "quality": Objective(quality),
    "quality_per_log_flops": Objective(quality_per_log_flops),
    "pareto": Objective(pareto, choose_knee, pareto_front),
    "loss_times_time": Objective(loss_times_time),
}
"""Objectives by name."""


def scored_again(
    trials: Sequence[Trial], num_pairs: int, config: ObjectiveConfig, data_ratio: float = 1.0
) -> tuple[Trial, ...]:
    """A stage's trials scored as if it had had so many times the data, without training.

    Args:
        trials: The stage's trials, a complete control with number 0 among them.
        num_pairs: The stage's pairs as they were.
        config: The objective and its coefficients.
        data_ratio: How many times as many pairs there are, for the same training FLOPs.

    Returns:
        The trials in their order; those that did not complete are as they were.

    Raises:
        ValueError: If a record cannot be scored.
    """
    control = next(trial for trial in trials if trial.number == 0)
    pairs = scaled_pairs(num_pairs, data_ratio)
    return tuple(_scored(trial, control, pairs, config) for trial in trials)


def _scored(trial: Trial, control: Trial, num_pairs: int, config: ObjectiveConfig) -> Trial:
    if trial.state != "complete":
        return trial
    try:
        score = OBJECTIVES[config.name].score(trial, control, num_pairs, config)
    except (ValueError, LookupError, ArithmeticError) as error:
        raise ValueError(
            f"Stage {trial.stage}, trial {trial.number}: cannot be scored by {config.name!r}: "
            f"{error}. Check its record and the coefficients."
        ) from None
    return replace(trial, score=score.value, terms=score.terms)


def scaled_pairs(pairs: int, ratio: float) -> int:
    """Pairs where there are so many times as many, one at least."""
    return max(1, round(pairs * ratio))
