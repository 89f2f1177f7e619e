"""What arms are worth over time: the mean over stages, and the regret to the best fixed size.

A model is in use after every stage, so an arm is worth what its models are on the average of the
stages, not only its last one. Nobody knows beforehand which fixed size will be best at which stage:
the envelope is the best of those that were run, chosen stage by stage and in hindsight. A
fixed size need not be run to the last stage: it is in the envelope of the stages it has.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nas_growclip.compare.arms import Arm, common_seeds
from nas_growclip.compare.bootstrap import Difference, Outcomes, paired_difference, score

FLOPS_TOLERANCE = 1.1
"""A fixed size may have spent so many times an arm's FLOPs: a search may leave some unspent."""


class EnvelopePoint(NamedTuple):
    """The best fixed size at the end of a stage."""

    stage: int
    arm: str
    value: float
    """Its mean over seeds."""


def mean_outcomes(stages: Sequence[Outcomes]) -> Outcomes:
    """How often each test item was right over the stages: the mean item by item.

    Raises:
        ValueError: If the stages were not measured on the same items.
    """
    first = stages[0]
    for outcomes in stages:
        if {k: v.shape for k, v in outcomes.items()} != {k: v.shape for k, v in first.items()}:
            raise ValueError("Stages must be measured on the same items to be averaged.")
    return {name: np.mean([outcomes[name] for outcomes in stages], axis=0) for name in first}


def over_stages(arm: Arm, seeds: Sequence[int]) -> list[Outcomes]:
    """An arm's outcomes seed by seed, the mean over its stages; ValueError as ``mean_outcomes``."""
    return [mean_outcomes(arm.stage_outcomes(seed)) for seed in seeds]


def mean_over_stages(metric: str, arm: Arm) -> float:
    """A metric's mean over stages and seeds; LookupError where none was noted."""
    return float(np.mean([score(metric, each) for each in over_stages(arm, tuple(arm.runs))]))


def difference_over_stages(metric: str, arm: Arm, baseline: Arm) -> Difference:
    """The paired difference of two arms' means over stages, in the metric's unit.

    Raises:
        LookupError: If the metric was not noted, or one of them has more stages than the other.
        ValueError: If no seed is common, or items differ.
    """
    if arm.num_stages != baseline.num_stages:
        raise LookupError(f"{arm.name} and {baseline.name} have not as many stages")
    seeds = common_seeds(arm, baseline)
    return paired_difference(metric, over_stages(arm, seeds), over_stages(baseline, seeds))


def seeds_with_envelope(arm: Arm, fixed: Sequence[Arm]) -> tuple[int, ...]:
    """The seeds that an arm and every fixed size have: an envelope with one less would flatter.

    Raises:
        LookupError: If there is none.
    """
    seeds = common_seeds(arm, *fixed)
    if not seeds:
        raise LookupError(f"no seed of {arm.name} was run with every fixed size")
    return seeds


def envelope(metric: str, arm: Arm, fixed: Sequence[Arm]) -> tuple[EnvelopePoint, ...]:
    """The best fixed size at each stage, of those that had not spent more than the arm had.

    Args:
        metric: What is best by.
        arm: Its FLOPs are what counts, and its seeds as far as every fixed size has them.
        fixed: The arms of fixed size.

    Raises:
        LookupError: If no seed is common to all, or at some stage no fixed size had spent as
            little.
    """
    seeds, points = seeds_with_envelope(arm, fixed), []
    for index, stage in enumerate(arm.runs[seeds[0]].stages):
        limit = FLOPS_TOLERANCE * _mean_flops(arm, index, seeds)
        found = {
            other.name: float(np.mean([_score(metric, other, s, index) for s in seeds]))
            for other in fixed
            if index < other.num_stages and _mean_flops(other, index, seeds) <= limit
        }
        if not found:
            raise LookupError(f"no fixed size had spent as little as {arm.name} at stage {index}")
        best = max(found, key=found.__getitem__)
        points.append(EnvelopePoint(stage.stage, best, found[best]))
    return tuple(points)


def regret(metric: str, arm: Arm, fixed: Sequence[Arm]) -> Difference:
    """How far an arm is below the envelope, the mean over stages; paired by seed and item.

    The envelope is chosen on the seeds that are compared, which favours it a little.

    Raises:
        LookupError: As ``envelope``.
        ValueError: As ``mean_outcomes``.
    """
    points, by_name = envelope(metric, arm, fixed), {other.name: other for other in fixed}
    seeds = seeds_with_envelope(arm, fixed)
    envelopes = [
        mean_outcomes(
            [by_name[point.arm].stage_outcomes(seed)[k] for k, point in enumerate(points)]
        )
        for seed in seeds
    ]
    return paired_difference(metric, envelopes, over_stages(arm, seeds))


def _mean_flops(arm: Arm, index: int, seeds: Sequence[int]) -> float:
    """Training FLOPs up to a stage, the mean over seeds."""
    return float(np.mean([arm.runs[seed].stages[index].cumulative_flops for seed in seeds]))


def _score(metric: str, arm: Arm, seed: int, index: int) -> float:
    return score(metric, arm.stage_outcomes(seed)[index])
