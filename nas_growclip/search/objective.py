"""Scores that say which candidate is worth growing into, given how much data there is.

An objective is a pure function of two records (a trial and the stage's control) and the data
size, so a finished run can be scored again from its records. Scores are gains over the control:
the control has 0, and nothing below 0 is worth growing into.

Candidates are compared at equal training FLOPs: a larger one sees fewer pairs for the same
budget, a smaller one sees the same pairs more often, and a repeated pair is worth less each time.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nas_growclip.records import Trial


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
    slope_trust: float = 0.25
    """Weight of a trial's own slope; the rest is the control's."""
    capacity_exponent: float = 1.0
    """gamma in F*(N) = F_0 (N / N_0)^gamma: how fast the supported FLOPs rise with the data."""
    capacity_headroom: float = 4.0
    """F_0 as a multiple of the first parent's FLOPs, at the first stage's pairs N_0."""
    capacity_price: float = 0.05
    """Loss that each e-fold of FLOPs above F*(N) must win back."""

    def __post_init__(self) -> None:
        for field in ("repetition_constant", "capacity_headroom"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}: must be above 0, but got {getattr(self, field)}.")
        if not 0 <= self.slope_trust <= 1:
            raise ValueError(f"slope_trust: must be in [0, 1], but got {self.slope_trust}.")
        for field in ("capacity_exponent", "capacity_price"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}: must be 0 or more, but got {getattr(self, field)}.")


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


class LearningCurve(NamedTuple):
    """A straight line of validation loss against log effective pairs."""

    end_loss: float
    """Where the line is at the end of the trial."""
    end_pairs: float
    """Effective pairs at the end of the trial."""
    slope: float
    """Loss for each e-fold of effective pairs; never above 0."""


def fit_curve(trial: Trial, num_pairs: int, config: ObjectiveConfig) -> LearningCurve:
    """Fit the later two thirds of a trial's learning curve; the lag after growth is left out."""
    curve = [(pairs, loss) for pairs, loss in trial.curve if pairs > 0]
    later = curve[len(curve) // 3 :]
    worth = [effective_pairs(p, num_pairs, config.repetition_constant) for p, _ in later]
    x, y = np.log(worth), np.array([loss for _, loss in later])
    slope = min(0.0, float(np.polyfit(x, y, 1)[0])) if len(later) > 1 else 0.0
    return LearningCurve(float(y.mean() + slope * (x[-1] - x.mean())), worth[-1], slope)


def predicted_loss(trial: Trial, control: Trial, num_pairs: int, config: ObjectiveConfig) -> float:
    """Validation loss at the end of the stage, extrapolated from the trial's learning curve.

    The line is followed to the pairs that the stage's budget buys this architecture, repeats
    discounted. Short curves have uncertain slopes, so the slope is drawn towards the control's.
    """
    curve = fit_curve(trial, num_pairs, config)
    common = fit_curve(control, num_pairs, config).slope
    slope = config.slope_trust * curve.slope + (1 - config.slope_trust) * common
    end = effective_pairs(trial.stage_pairs, num_pairs, config.repetition_constant)
    return max(0.0, curve.end_loss + slope * math.log(end / curve.end_pairs))


def capacity_price(flops: int, data: DataSize, config: ObjectiveConfig) -> float:
    """Price of FLOPs above what the data supports, F*(N) = F_0 (N / N_0)^gamma."""
    supported = config.capacity_headroom * data.first_flops
    supported *= (data.num_pairs / data.first_pairs) ** config.capacity_exponent
    return config.capacity_price * max(0.0, math.log(flops / supported))


def data_size_aware(trial: Trial, control: Trial, data: DataSize, config: ObjectiveConfig) -> Score:
    """Predicted gain in loss at equal FLOPs, less the price of unsupported capacity."""
    predicted = predicted_loss(trial, control, data.num_pairs, config)
    baseline = predicted_loss(control, control, data.num_pairs, config)
    price = capacity_price(trial.flops, data, config)
    control_price = capacity_price(control.flops, data, config)
    terms = {
        "observed_loss": trial.metrics["loss"],
        "predicted_loss": predicted,
        "predicted_gain": baseline - predicted,
        "capacity_price": price - control_price,
    }
    return Score(terms["predicted_gain"] - terms["capacity_price"], terms)


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


def choose_growth(trials: Iterable[Trial]) -> Trial:
    """The completed trial with the highest score; ties go to fewer FLOPs.

    Raises:
        ValueError: If no trial completed.
    """
    scored = [t for t in trials if t.score is not None and math.isfinite(t.score)]
    if not scored:
        raise ValueError(
            "At least one trial must complete, but none did. See trials.jsonl for why."
        )
    return max(scored, key=lambda trial: (trial.score or 0.0, -trial.flops, -trial.number))


def explain(best: Trial, trials: Iterable[Trial]) -> str:
    """One sentence: why this trial was chosen, in the objective's terms."""
    others = [t for t in trials if t.score is not None and t.number != best.number]
    runner_up = max(others, key=lambda trial: trial.score or 0.0, default=None)
    terms = ", ".join(f"{name} {value:.4g}" for name, value in best.terms.items())
    what = "no growth" if not best.candidate else " and ".join(map(str, best.candidate))
    against = f"; next best {runner_up.label} {runner_up.score:+.4g}" if runner_up else ""
    return f"{what}: score {best.score:+.4g} over no growth ({terms}){against}."


class Objective(NamedTuple):
    """How trials are scored, and how one of them is chosen."""

    score: ScoreRule
    choose: Callable[[Sequence[Trial]], Trial] = choose_growth
    """The trial to go on with."""
    contenders: Callable[[Sequence[Trial]], tuple[Trial, ...]] = lambda trials: (
        choose_growth(trials),
    )
    """Those that further trials cannot rule out: their training states are kept."""


OBJECTIVES: Mapping[str, Objective] = {
    "data_size_aware": Objective(data_size_aware),
    "quality": Objective(quality),
    "quality_per_log_flops": Objective(quality_per_log_flops),
}
"""Objectives by name."""
