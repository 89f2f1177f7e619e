"""Means over stages and regret to the best fixed size, on outcomes written by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas_growclip.compare.arms import Arm
from nas_growclip.compare.bootstrap import Outcomes
from nas_growclip.compare.over_time import (
    difference_over_stages,
    envelope,
    mean_outcomes,
    mean_over_stages,
    regret,
    seeds_with_envelope,
)

METRIC = "i2t_recall@1"
ITEMS = 200


@dataclass(frozen=True)
class WrittenArm(Arm):
    """An arm whose outcomes are written down here and not in folders."""

    written: Mapping[int, Sequence[Outcomes]] = field(default_factory=dict)

    def stage_outcomes(self, seed: int) -> list[Outcomes]:
        return list(self.written[seed])


def right(share: float) -> Outcomes:
    """The first items are right, so that arms are told apart without noise between items."""
    return {METRIC: np.arange(ITEMS) < share * ITEMS}


def arm(
    name: str, *shares: float, seeds: Sequence[int] = (0, 1), flops: Sequence[float] = ()
) -> WrittenArm:
    """One stage for each share of items that are right, the same in every seed."""
    spent = flops or [100.0 * (k + 1) for k in range(len(shares))]
    stages: Any = [
        SimpleNamespace(stage=k, cumulative_flops=x, num_pairs=100 * (k + 1))
        for k, x in enumerate(spent)
    ]
    runs: Any = {seed: SimpleNamespace(stages=stages) for seed in seeds}
    return WrittenArm(name, None, runs, {seed: [right(s) for s in shares] for seed in seeds})


SMALL, LARGE = arm("small", 0.4, 0.5, 0.5), arm("large", 0.2, 0.5, 0.7)


def test_an_arm_is_worth_its_mean_over_stages() -> None:
    assert mean_over_stages(METRIC, arm("a", 0.2, 0.4, 0.9)) == pytest.approx(0.5)


def test_the_difference_over_stages_counts_every_stage() -> None:
    found = difference_over_stages(METRIC, arm("a", 0.3, 0.5), arm("b", 0.1, 0.5))
    assert found.mean == pytest.approx(0.1)
    assert 0 < found.low < found.mean < found.high


def test_the_envelope_takes_the_best_fixed_size_of_each_stage() -> None:
    points = envelope(METRIC, arm("grown", 0.4, 0.5, 0.6), (SMALL, LARGE))
    assert [(p.stage, p.arm) for p in points] == [(0, "small"), (1, "small"), (2, "large")]
    assert [p.value for p in points] == pytest.approx([0.4, 0.5, 0.7])


def test_regret_is_what_the_envelope_is_ahead() -> None:
    found = regret(METRIC, arm("grown", 0.4, 0.5, 0.6), (SMALL, LARGE))
    assert found.mean == pytest.approx((0.4 + 0.5 + 0.7 - 0.4 - 0.5 - 0.6) / 3)
    assert found.low <= found.mean <= found.high
    assert regret(METRIC, SMALL, (SMALL, LARGE)).mean == pytest.approx(0.2 / 3)
    assert regret(METRIC, arm("better", 0.5, 0.6, 0.8), (SMALL, LARGE)).mean < 0


def test_a_fixed_size_that_spent_more_is_not_in_the_envelope() -> None:
    dear = arm("dear", 0.9, 0.9, 0.9, flops=[150, 300, 450])
    points = envelope(METRIC, arm("grown", 0.4, 0.5, 0.6), (SMALL, dear))
    assert {p.arm for p in points} == {"small"}
    with pytest.raises(LookupError, match="no fixed size had spent as little as grown at stage 0"):
        envelope(METRIC, arm("grown", 0.4, 0.5, 0.6), (dear,))


def test_a_fixed_size_is_in_the_envelope_of_the_stages_it_has() -> None:
    early, grown = arm("early", 0.5, 0.6), arm("grown", 0.4, 0.5, 0.6)
    points = envelope(METRIC, grown, (early, LARGE))
    assert [(p.stage, p.arm) for p in points] == [(0, "early"), (1, "early"), (2, "large")]
    found = regret(METRIC, grown, (early, LARGE))
    assert found.mean == pytest.approx((0.5 + 0.6 + 0.7 - 0.4 - 0.5 - 0.6) / 3)
    assert regret(METRIC, early, (early, LARGE)).mean == pytest.approx(0)
    with pytest.raises(LookupError, match="as little as grown at stage 2"):
        envelope(METRIC, grown, (early,))


def test_means_over_other_stages_are_not_compared() -> None:
    """The mean over two early stages is not what the mean over three is."""
    early = arm("early", 0.5, 0.6)
    with pytest.raises(LookupError, match="early and large have not as many stages"):
        difference_over_stages(METRIC, early, LARGE)
    assert early.ends_before(LARGE)
    assert not LARGE.ends_before(early)
    assert not SMALL.ends_before(LARGE)


def test_only_seeds_of_every_fixed_size_count() -> None:
    one_seed = arm("one seed", 0.9, 0.9, 0.9, seeds=(1,))
    grown = arm("grown", 0.4, 0.5, 0.6, seeds=(0, 1, 2))
    assert seeds_with_envelope(grown, (SMALL, one_seed)) == (1,)
    points = envelope(METRIC, grown, (SMALL, one_seed))
    assert {p.arm for p in points} == {"one seed"}
    assert regret(METRIC, grown, (SMALL, one_seed)).mean == pytest.approx(0.4)
    with pytest.raises(LookupError, match="no seed of grown was run with every fixed size"):
        regret(METRIC, grown, (SMALL, arm("later", 0.9, 0.9, 0.9, seeds=(3,))))


def test_stages_of_other_items_are_not_averaged() -> None:
    with pytest.raises(ValueError, match="measured on the same items"):
        mean_outcomes([right(0.5), {METRIC: np.zeros(3, bool)}])
