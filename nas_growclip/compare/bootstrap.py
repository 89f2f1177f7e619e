"""Paired comparison of two arms over the same seeds and the same test items.

Runs of one seed see the same data in the same order, and every run is measured on the same items.
So the difference of two arms is far less noisy than either's score, and a bootstrap that
resamples seeds and items, the same ones for both arms, says how far it can be trusted.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Outcomes = Mapping[str, NDArray[np.bool_] | NDArray[np.float64]]
"""Which items a run got right, by metric, or how often it did over its stages."""

ZERO_SHOT = "zero_shot_top1"
RESAMPLES = 2000
LEVEL = 0.95


class Difference(NamedTuple):
    """An arm's mean less the baseline's, in the metric's unit, with its interval."""

    mean: float
    low: float
    high: float


def metric_tasks(metric: str, outcomes: Outcomes) -> tuple[str, ...]:
    """The item sets that a metric is the mean of: all zero-shot sets, or itself alone.

    Raises:
        LookupError: If no item of it was noted.
    """
    names = tuple(n for n in outcomes if n == metric or n.startswith(f"{metric}/"))
    if not names:
        raise LookupError(f"no outcomes of {metric!r}; noted are {sorted(outcomes)}")
    return names


def score(metric: str, outcomes: Outcomes) -> float:
    """A run's score: the mean over its item sets of the share that is right."""
    return float(np.mean([outcomes[name].mean() for name in metric_tasks(metric, outcomes)]))


def paired_difference(
    metric: str,
    arm: Sequence[Outcomes],
    baseline: Sequence[Outcomes],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Mean difference of two arms with a percentile interval of the paired bootstrap.

    Each resample draws seeds with replacement, and within every item set items with replacement;
    both arms get the same ones (Efron and Tibshirani, 1993, chapter 8: two levels of sampling).

    Args:
        metric: ``zero_shot_top1`` (the mean over its sets), ``i2t_recall@1`` or ``t2i_recall@1``.
        arm: Outcomes of one run a seed.
        baseline: The same, of the same seeds in the same order.
        seed: Fixes the resamples.
        resamples: How many.

    Raises:
        ValueError: If the arms have not as many runs, or were not measured on the same items.
    """
    if len(arm) != len(baseline) or not arm:
        raise ValueError(
            f"Both arms must have runs of the same seeds, but have {len(arm)} and {len(baseline)}."
        )
    num_seeds = len(arm)
    tasks = metric_tasks(metric, baseline[0])
    sizes = (num_seeds, *(baseline[0][task].size for task in tasks))
    seed_weights, *item_weights = _drawn(seed, resamples, sizes)
    means, resampled = 0.0, np.zeros(resamples)
    for task, weights in zip(tasks, item_weights, strict=True):
        ahead = np.stack([_ahead(task, *pair) for pair in zip(arm, baseline, strict=True)])
        by_seed = weights.astype(float) @ ahead.T / ahead.shape[1]
        resampled += (by_seed * seed_weights).sum(axis=1) / num_seeds / len(tasks)
        means += float(ahead.mean()) / len(tasks)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(means, float(low), float(high))


@lru_cache(maxsize=2)
def _drawn(
    seed: int, resamples: int, sizes: tuple[int, ...]
) -> tuple[NDArray[np.unsignedinteger], ...]:
    """How often each of so many was drawn, by resample.

    Kept, since drawing takes most of a comparison's time and every pair of arms gets the same:
    those of zero-shot sets and of retrieval.
    """
    rng = np.random.default_rng(seed)
    counts = (rng.multinomial(size, np.full(size, 1 / size), size=resamples) for size in sizes)
    return tuple(count.astype(np.min_scalar_type(count.max())) for count in counts)


def _ahead(task: str, arm: Outcomes, baseline: Outcomes) -> NDArray[np.float64]:
    if task not in arm or arm[task].shape != baseline[task].shape:
        raise ValueError(
            f"Both arms must be measured on the same items of {task!r}, but were not. Use one "
            "test set and one list of zero-shot sets for all arms."
        )
    ahead: NDArray[np.float64] = arm[task].astype(float) - baseline[task].astype(float)
    return ahead
