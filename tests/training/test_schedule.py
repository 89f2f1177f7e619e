"""The learning rate over the steps of a stage."""

import math

import pytest

from nas_growclip.training.schedule import learning_rate, trunk_steps
from nas_growclip.training.state import TrainConfig

TRUNK = TrainConfig(schedule="trunk", learning_rate=2.0, warmup_steps=10, cooldown_share=0.2)


def test_constant_rate_warms_up_and_cools_down() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_steps=10, cooldown_share=0.2)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:81] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)


def test_cosine_rate_follows_its_formula() -> None:
    config = TrainConfig(learning_rate=2.0, warmup_steps=10, schedule="cosine")
    assert learning_rate(10, 110, config) == 2.0
    assert learning_rate(60, 110, config) == pytest.approx(1.0)
    assert learning_rate(110, 110, config) == pytest.approx(0.0)
    for step in range(10, 110):
        by_hand = 1 + math.cos(math.pi * (step - 10) / 100)
        assert learning_rate(step, 110, config) == pytest.approx(by_hand)


def test_a_trunk_that_goes_on_keeps_its_rate_up_to_its_branch() -> None:
    first, later = (
        [learning_rate(step, 100, TRUNK, is_continued=continues) for step in range(100)]
        for continues in (False, True)
    )
    assert first[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert later[:10] == [2.0] * 10
    assert first[10:] == later[10:]
    assert set(later[:80]) == {2.0}
    assert later[80:] == pytest.approx([2.0 * (1 - step / 20) for step in range(20)])
    assert trunk_steps(100, TRUNK) == 80


def test_other_schedules_warm_up_whatever_moments_they_have() -> None:
    for schedule in ("cosine", "const-cooldown"):
        config = TrainConfig(schedule=schedule, warmup_steps=10)
        rates = [learning_rate(3, 100, config, is_continued=c) for c in (False, True)]
        assert rates[0] == rates[1] == pytest.approx(0.4e-3)
