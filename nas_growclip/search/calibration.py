"""The objective's coefficients from finished stages that grew differently from one parent.

Every candidate that was trained to its stage's end, beside no growth on the same pairs and FLOPs,
says once what its dimensions are worth. The coefficients enter the logarithm of its loss linearly
but for R* and two exponents, so they are a ridge regression about the coefficients one had
before, for each value of those three: the posterior mean where coefficients and errors are
normal. Few stages change little.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nas_growclip.growth.candidates import Candidate
from nas_growclip.records.entries import StageResult
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.forecast import (
    net_gain,
    pairs_left_out,
    step_weight,
    worth_factor,
)

CONSTANTS = tuple(2.0 ** (k / 4) for k in range(-4, 25))
"""R* that are tried: half a repeat to 64."""
GAIN_DEVIATION = 0.3
"""Standard deviation of a dimension's gain about the one before, in e-folds of loss an e-fold."""
STEEPNESS_DEVIATION = 0.5
"""Likewise of ``curve_steepness``."""
EXPONENTS = tuple(k / 16 for k in range(-8, 9))
"""``pairs_exponent`` and ``size_exponent`` that are tried."""
GRIDS: Mapping[str, Sequence[float]] = {
    "repetition_constant": CONSTANTS,
    "pairs_exponent": EXPONENTS,
    "size_exponent": EXPONENTS,
}
"""What is not linear: the best of each in turn, until none changes."""
CONSTANT_DEVIATION = 1.0
"""Standard deviation of the logarithm of R*."""
EXPONENT_DEVIATION = 0.2
"""That of each of the two."""
LIKE_FLOPS = 0.1
"""E-folds by which the training FLOPs of two stages that are compared may differ."""
LEAST_SPREAD = 0.01
"""Lowest ``gain_spread``: few stages may be fitted by chance."""

Array = Float[np.ndarray, "..."]


class Finished(NamedTuple):
    """A candidate trained to the end of a stage, and no growth from the same parent."""

    candidate: Candidate
    num_pairs: int
    """Pairs in the stage."""
    seen_pairs: int
    """Pairs that the candidate saw in the stage, repeats included."""
    control_seen: int
    """Pairs that no growth saw in the stage."""
    loss: float
    """At the stage's end on held-out pairs, in nats."""
    control_loss: float

    @property
    def gain(self) -> float:
        """Over no growth, in e-folds of the loss."""
        return math.log(self.control_loss / self.loss)

    def expected(self, config: ObjectiveConfig) -> float:
        """The gain by coefficients, with no trial."""
        return net_gain(self.candidate, self.seen_pairs, self.control_seen, self.num_pairs, config)


def finished_growths(histories: Sequence[Sequence[StageResult]]) -> list[Finished]:
    """Every stage that grew, beside a run that did not grow there but was the same until then.

    Args:
        histories: The finished stages of runs, as of a comparison whose arms grow differently from
            one parent. A stage that runs share, copied from one to the others, counts once.
    """
    controls = [
        (history[:index], result)
        for history in histories
        for index, result in enumerate(history)
        if index and not result.chosen.grows
    ]
    found = []
    for history in histories:
        for index, result in enumerate(history):
            before = history[:index]
            same = (c for h, c in controls if _is_same(h, before) and _are_alike(c, result))
            control = next(same, None)
            if result.chosen.grows and control is not None:
                found.append(
                    Finished(
                        candidate=result.chosen,
                        num_pairs=result.num_pairs,
                        seen_pairs=result.pairs_seen,
                        control_seen=control.pairs_seen,
                        loss=result.validation["loss"].value,
                        control_loss=control.validation["loss"].value,
                    )
                )
    return list(dict.fromkeys(found))


def _is_same(one: Sequence[StageResult], other: Sequence[StageResult]) -> bool:
    """Whether two runs were one so far: the losses they were measured at tell."""
    return [(s.arch, s.curve) for s in one] == [(s.arch, s.curve) for s in other]


def _are_alike(control: StageResult, grown: StageResult) -> bool:
    """Whether two stages had the same data and FLOPs."""
    spent = abs(math.log(grown.train_flops / control.train_flops))
    return control.num_pairs == grown.num_pairs and spent < LIKE_FLOPS


def calibrated(finished: Sequence[Finished], before: ObjectiveConfig) -> ObjectiveConfig:
    """Coefficients that explain finished stages.

    Args:
        finished: Candidates that grew, at least one.
        before: What they are drawn to; all that finished stages do not tell stays.

    Returns:
        ``before`` with other ``dimension_gains``, ``pairs_exponent``, ``size_exponent``,
        ``curve_steepness`` and ``repetition_constant``, and as ``gain_spread`` what gains still
        differ by.

    Raises:
        ValueError: If there is nothing to learn from.
    """
    if not finished:
        raise ValueError(
            "At least one candidate must have grown and finished beside no growth from the same "
            "parent, with the same pairs and FLOPs, but none has."
        )
    grown = {step.dimension for f in finished for step in f.candidate.steps}
    dimensions = [*before.dimension_gains, *sorted(grown - {*before.dimension_gains})]
    found = _fit(finished, before, before, dimensions)
    while True:
        last = found
        for name, values in GRIDS.items():
            tried = [_with(found[1], name, value) for value in values]
            fits = [_fit(finished, before, config, dimensions) for config in tried]
            found = min([found, *fits], key=lambda fit: fit[0])
        if found is last:
            break
    config = found[1]
    return replace(config, gain_spread=max(LEAST_SPREAD, spread_about(finished, config)))


def _with(config: ObjectiveConfig, name: str, value: float) -> ObjectiveConfig:
    changed: dict[str, Any] = {name: value}
    return replace(config, **changed)


def spread_about(finished: Sequence[Finished], config: ObjectiveConfig) -> float:
    """How far gains are off what coefficients expect, in e-folds: the root mean square."""
    errors = [f.gain - f.expected(config) for f in finished]
    return math.sqrt(float(np.mean(np.square(errors))))


def _fit(
    finished: Sequence[Finished],
    before: ObjectiveConfig,
    tried: ObjectiveConfig,
    dimensions: Sequence[str],
) -> tuple[float, ObjectiveConfig]:
    """Negative log posterior of an R* and two exponents, and the coefficients with them."""
    steepness = before.curve_steepness
    mean = np.array(
        [*(steepness * before.dimension_gains.get(d, 0.0) for d in dimensions), steepness]
    )
    deviations = np.array([GAIN_DEVIATION] * len(dimensions) + [STEEPNESS_DEVIATION])
    rows = np.array([_row(f, dimensions, tried) for f in finished])
    gains = np.array([f.gain for f in finished])
    precision = before.gain_spread**-2
    gram = precision * rows.T @ rows + np.diag(deviations**-2)
    change = np.linalg.solve(gram, precision * rows.T @ (gains - rows @ mean))
    found: Array = mean + change
    errors = gains - rows @ found
    unlikely = precision * errors @ errors + np.square(change / deviations).sum()
    moved = math.log(tried.repetition_constant / before.repetition_constant)
    unlikely += (moved / CONSTANT_DEVIATION) ** 2
    exponents = (
        (tried.pairs_exponent, before.pairs_exponent),
        (tried.size_exponent, before.size_exponent),
    )
    unlikely += sum(((now - then) / EXPONENT_DEVIATION) ** 2 for now, then in exponents)
    *worth, steepness = map(float, found)
    steepness = max(steepness, 0.01)  # below 0 more data would do harm
    return float(unlikely), replace(
        tried,
        curve_steepness=steepness,
        dimension_gains={d: w / steepness for d, w in zip(dimensions, worth, strict=True)},
    )


def _row(finished: Finished, dimensions: Sequence[str], tried: ObjectiveConfig) -> list[float]:
    """What a gain is linear in: weighed e-folds of each dimension, and those of the pairs."""
    sizes = {step.dimension: step_weight(step, tried) for step in finished.candidate.steps}
    control_seen, num_pairs = finished.control_seen, finished.num_pairs
    left_out = pairs_left_out(
        finished.seen_pairs, control_seen, num_pairs, tried.repetition_constant
    )
    worth = worth_factor(control_seen, num_pairs, tried)
    return [*(worth * sizes.get(d, 0.0) for d in dimensions), -left_out]
