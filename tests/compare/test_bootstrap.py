"""The paired bootstrap: exact where it must be, near theory where that is known, strict."""

import numpy as np
import pytest

from nas_growclip.compare.bootstrap import Outcomes, metric_tasks, paired_difference, score

METRIC = "zero_shot_top1"


def drawn(share: float, seed: int, items: int = 400, tasks: int = 2) -> Outcomes:
    rng = np.random.default_rng(seed)
    return {f"{METRIC}/{task}": rng.random(items) < share for task in range(tasks)}


def test_score_weighs_sets_alike() -> None:
    outcomes = {f"{METRIC}/small": np.array([True, True]), f"{METRIC}/large": np.zeros(98, bool)}
    assert score(METRIC, outcomes) == 0.5
    assert score("i2t_recall@1", {"i2t_recall@1": np.array([True, False])}) == 0.5
    with pytest.raises(LookupError, match="no outcomes of 'other'"):
        metric_tasks("other", outcomes)


def test_an_arm_does_not_differ_from_itself() -> None:
    runs = [drawn(0.4, seed) for seed in range(3)]
    assert paired_difference(METRIC, runs, runs) == (0.0, 0.0, 0.0)


def test_mean_is_the_difference_of_scores_and_swapping_turns_the_sign() -> None:
    better, worse = ([drawn(share, seed) for seed in range(3)] for share in (0.6, 0.4))
    expected = np.mean(
        [score(METRIC, a) - score(METRIC, b) for a, b in zip(better, worse, strict=True)]
    )
    ahead, behind = (
        paired_difference(METRIC, better, worse),
        paired_difference(METRIC, worse, better),
    )
    assert ahead.mean == pytest.approx(expected)
    assert ahead.low < ahead.mean < ahead.high
    assert (behind.mean, behind.low, behind.high) == pytest.approx(
        (-ahead.mean, -ahead.high, -ahead.low)
    )


def test_interval_of_one_seed_is_that_of_a_mean_of_differences() -> None:
    """With one seed only items are drawn: 1.96 standard errors, averaged over the sets."""
    arm, baseline = drawn(0.55, 0), drawn(0.45, 1)
    found = paired_difference(METRIC, [arm], [baseline], resamples=20_000)
    differences = [arm[task].astype(float) - baseline[task] for task in arm]
    error = np.sqrt(sum(d.var() / d.size for d in differences)) / len(differences)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.03)


def test_pairing_takes_out_what_both_arms_share() -> None:
    """The same items wrong in both arms: their noise must not be in the interval."""
    base = [drawn(0.5, seed, items=300) for seed in range(4)]
    one_better = [
        {name: np.concatenate([[True] * 9, right[9:]]) for name, right in run.items()}
        for run in base
    ]
    paired = paired_difference(METRIC, one_better, base)
    unpaired = paired_difference(METRIC, one_better, [drawn(0.5, s + 50, 300) for s in range(4)])
    assert paired.high - paired.low < 0.4 * (unpaired.high - unpaired.low)


def test_spread_of_seeds_is_in_the_interval() -> None:
    """Items all alike within a seed: only drawing seeds makes the interval."""
    high, low = ({f"{METRIC}/a": np.full(500, value)} for value in (True, False))
    found = paired_difference(METRIC, [high, high, low, low], [low, low, low, low])
    assert found.mean == 0.5
    assert found.low <= 0.0 + 1e-9
    assert found.high >= 1.0 - 1e-9


def test_repeatable() -> None:
    arms = [drawn(0.6, 0)], [drawn(0.5, 1)]
    assert paired_difference(METRIC, *arms) == paired_difference(METRIC, *arms)
    assert paired_difference(METRIC, *arms, seed=1) != paired_difference(METRIC, *arms)


def test_arms_must_be_comparable() -> None:
    run = drawn(0.5, 0)
    with pytest.raises(ValueError, match="runs of the same seeds, but have 1 and 2"):
        paired_difference(METRIC, [run], [run, run])
    with pytest.raises(ValueError, match="measured on the same items"):
        paired_difference(METRIC, [drawn(0.5, 0, items=10)], [run])
    with pytest.raises(ValueError, match="measured on the same items"):
        paired_difference(METRIC, [drawn(0.5, 0, tasks=1)], [run])
