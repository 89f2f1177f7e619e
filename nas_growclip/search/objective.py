"""Scores that say which candidate is worth growing into, given how much data there is.

An objective is a pure function of two records (a trial and the stage's control) and the data
size, so a finished run can be scored again from its records. Scores are gains over the control:
the control has 0, and nothing below 0 is worth growing into.

Candidates are compared at equal training FLOPs: a larger one sees fewer pairs for the same
budget, a smaller one sees the same pairs more often, and a repeated pair is worth less each time.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from nas_growclip.io.ranges import above, at_least, check_ranges
from nas_growclip.records.entries import Trial
from nas_growclip.search.extrapolation import CurvePrior, PowerLaw, Prediction, fit_power_law

TERMS: Mapping[str, str] = {
    "observed_loss": "validation loss at the end of the trial, in nats",
    "observed_gain": "control's loss at the end of its trial less the candidate's",
    "predicted_loss": "validation loss expected at the end of the stage, before its cool-down",
    "predicted_deviation": "standard deviation of the predicted loss",
    "advantage": "how far the candidate is ahead of the control at equal pairs, carried forward",
    "pairs_cost": "loss given up because the same FLOPs buy a larger model fewer pairs",
    "capacity_price": "price of being off the FLOPs that this much data supports, over no growth",
    "doublings": "how many times the FLOPs of a pair doubled, 1 at least",
    "log_flops": "FLOPs of a pair in e-folds above the control's",
    "relative_time": "FLOPs of a pair by the control's",
    "score_deviation": "standard deviation of the score as a forecast of the stage's end",
}
"""What each term of a score means, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which objective, and its coefficients.

    Raises:
        ValueError: If a coefficient is out of range.
    """

    name: str = "data_size_aware"
    """A name in ``OBJECTIVES``."""
    repetition_constant: float = 15.4
    """R* of data-constrained scaling: repeats after which a pair's worth has mostly gone."""
    decay_exponent: float = 0.3
    """b of the learning curve's power law, before a curve is seen."""
    curve_certainty: float = 1.0
    """How much that is trusted against a measured curve."""
    cost_scale: float = 1.0
    """Factor on what fewer pairs are predicted to cost; refitted."""
    advantage_spread: float = 0.02
    """Standard deviation of candidates' true advantages, in nats: small ones are noise."""
    capacity_exponent: float = 0.5
    """gamma in F*(N) = F_0 (N / N_0)^gamma: how fast the supported FLOPs rise with the data."""
    capacity_headroom: float = 1.5
    """F_0 as a multiple of the first parent's FLOPs, at the first stage's pairs N_0; refitted."""
    capacity_curvature: float = 0.02
    """Loss in nats at one e-fold of FLOPs off F*(N); 0 trusts the measured curves alone."""
    time_exponent: float = 0.5
    """w in AutoProg's loss times time to the power of w."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            repetition_constant=above(0),
            decay_exponent=above(0),
            advantage_spread=above(0),
            cost_scale=above(0),
            capacity_headroom=above(0),
            capacity_exponent=at_least(0),
            capacity_curvature=at_least(0),
            curve_certainty=at_least(0),
            time_exponent=at_least(0),
        )

    @property
    def curve_prior(self) -> CurvePrior:
        """What is known of a learning curve before it is seen."""
        return CurvePrior(self.decay_exponent, self.curve_certainty)


def partner_probability(loss: float) -> float:
    """exp(-loss): what a model gives to the right partner, geometric mean over the pairs."""
    return math.exp(-loss)


class DataSize(NamedTuple):
    """What an objective knows of the data and of the run's start."""

    num_pairs: int
    """Pairs in this stage, N."""
    first_pairs: int
    """Pairs in the first stage, N_0."""
    first_flops: int
    """FLOPs of the first stage's parent, one pair forward."""


class Score(NamedTuple):
    """A gain over the control and the terms that explain it."""

    value: float
    terms: Mapping[str, float]


ScoreRule = Callable[[Trial, Trial, DataSize, ObjectiveConfig], Score]
"""(trial, control, data size, coefficients) -> the trial's score."""


def effective_pairs(seen: float, num_pairs: int, repetition_constant: float) -> float:
    """Pairs of new data that ``seen`` pairs, drawn from ``num_pairs`` again and again, are worth.

    D' = U + U R* (1 - exp(-R / R*)), with U the unique pairs seen and R the repeats of each.

    Reference: Muennighoff et al., 2023 (arXiv 2305.16264), equation 5.
    """
    unique = min(seen, num_pairs)
    if unique == 0:
        return 0.0
    repeats = seen / unique - 1
    fade = -math.expm1(-repeats / repetition_constant)
    return unique * (1 + repetition_constant * fade)


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


def advantage(trial: Trial, control: Trial, num_pairs: int, config: ObjectiveConfig) -> Prediction:
    """How far a trial is ahead of the control at equal effective pairs, in nats.

    Mean difference to the control's curve, interpolated in log pairs, over the trial's later
    points; drawn to 0 by how it scatters, as a normal mean with the prior of ``advantage_spread``.
    """
    own, other = later_curve(trial, num_pairs, config), later_curve(control, num_pairs, config)
    expected = np.interp(np.log(own.pairs), np.log(other.pairs), other.losses)
    ahead = expected - np.array(own.losses)
    scatter = max(float(ahead.std()), fit_control(control, num_pairs, config).noise)
    error, prior = scatter**2 / len(ahead), config.advantage_spread**2
    trust = prior / (prior + error)
    return Prediction(trust * float(ahead.mean()), math.sqrt(trust * error))


def capacity_price(flops: int, data: DataSize, config: ObjectiveConfig) -> float:
    """Price of being off the supported FLOPs F*(N) = F_0 (N / N_0)^gamma, on either side.

    At equal training FLOPs the final loss is a parabola in log model size with its lowest point
    at F*: Hoffmann et al., 2022 (arXiv 2203.15556), approach 2.
    """
    supported = config.capacity_headroom * data.first_flops
    supported *= (data.num_pairs / data.first_pairs) ** config.capacity_exponent
    return config.capacity_curvature * math.log(flops / supported) ** 2


def data_size_aware(trial: Trial, control: Trial, data: DataSize, config: ObjectiveConfig) -> Score:
    """Predicted gain in loss at equal training FLOPs, less the price of unsupported capacity.

    What a candidate gains at equal pairs, less what it loses by seeing fewer of them for the same
    FLOPs: both are loss at the end of the stage, repeats discounted at this data size.
    """
    law = fit_control(control, data.num_pairs, config)
    ends = [
        effective_pairs(t.stage_pairs, data.num_pairs, config.repetition_constant)
        for t in (control, trial)
    ]
    ahead = advantage(trial, control, data.num_pairs, config)
    cost = law.cost(*ends)
    pairs_cost = config.cost_scale * cost.mean
    gained = ahead if trial.candidate.grows else Prediction(0.0, 0.0)
    price = capacity_price(trial.flops, data, config) - capacity_price(control.flops, data, config)
    terms = {
        "observed_loss": trial.metrics["loss"],
        "predicted_loss": law.loss(ends[1]).mean - gained.mean,
        "predicted_deviation": math.hypot(law.loss(ends[1]).deviation, gained.deviation),
        "advantage": gained.mean,
        "pairs_cost": pairs_cost,
        "capacity_price": price,
        "score_deviation": math.hypot(gained.deviation, config.cost_scale * cost.deviation),
    }
    return Score(gained.mean - pairs_cost - price, terms)


def quality(trial: Trial, control: Trial, data: DataSize, config: ObjectiveConfig) -> Score:
    """Gain in validation loss at the end of the trial, whatever it cost."""
    gain = control.metrics["loss"] - trial.metrics["loss"]
    return Score(gain, {"observed_loss": trial.metrics["loss"], "observed_gain": gain})


def quality_per_log_flops(
    trial: Trial, control: Trial, data: DataSize, config: ObjectiveConfig
) -> Score:
    """Gain in validation loss for each doubling of FLOPs; a candidate no larger gets the gain."""
    gain = control.metrics["loss"] - trial.metrics["loss"]
    doublings = max(1.0, math.log2(trial.flops / control.flops))
    terms = {"observed_loss": trial.metrics["loss"], "observed_gain": gain, "doublings": doublings}
    return Score(gain / doublings, terms)


def loss_times_time(trial: Trial, control: Trial, data: DataSize, config: ObjectiveConfig) -> Score:
    """Loss at the end of the trial times FLOPs to the power of w, as a gain over the control's.

    Reference: AutoProg, Li et al., 2022 (arXiv 2203.14509); its time is FLOPs here.
    """
    relative = trial.flops / control.flops
    product = trial.metrics["loss"] * relative**config.time_exponent
    terms = {"observed_loss": trial.metrics["loss"], "relative_time": relative}
    return Score(control.metrics["loss"] - product, terms)


def pareto(trial: Trial, control: Trial, data: DataSize, config: ObjectiveConfig) -> Score:
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
    trials: Sequence[Trial], data: DataSize, config: ObjectiveConfig, data_ratio: float = 1.0
) -> tuple[Trial, ...]:
    """A stage's trials scored as if its data had been so many times as much, without training.

    Args:
        trials: The stage's trials, a complete control with number 0 among them.
        data: The data as it was.
        config: The objective and its coefficients.
        data_ratio: How many times as much data there is; the FLOPs budget follows it.

    Returns:
        The trials in their order; those that did not complete are as they were.

    Raises:
        ValueError: If a record cannot be scored.
    """
    data = data._replace(num_pairs=scaled_pairs(data.num_pairs, data_ratio))
    changed = [replace(t, stage_pairs=scaled_pairs(t.stage_pairs, data_ratio)) for t in trials]
    control = next(trial for trial in changed if trial.number == 0)
    return tuple(_scored(trial, control, data, config) for trial in changed)


def _scored(trial: Trial, control: Trial, data: DataSize, config: ObjectiveConfig) -> Trial:
    if trial.state != "complete":
        return trial
    try:
        score = OBJECTIVES[config.name].score(trial, control, data, config)
    except (ValueError, LookupError, ArithmeticError) as error:
        raise ValueError(
            f"Stage {trial.stage}, trial {trial.number}: cannot be scored by {config.name!r}: "
            f"{error}. Check its record and the coefficients."
        ) from None
    return replace(trial, score=score.value, terms=score.terms)


def scaled_pairs(pairs: int, ratio: float) -> int:
    """Pairs where there are so many times as many, one at least."""
    return max(1, round(pairs * ratio))
