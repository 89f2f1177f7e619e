"""When a stage is searched, and what earlier stages suggest."""

from collections.abc import Callable

import pytest

from nas_growclip.growth.candidates import NO_GROWTH, Candidate
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import Trial
from nas_growclip.search.trigger import TRIGGERS, TriggerConfig, TriggerInput
from nas_growclip.search.warm_start import warm_start_candidates
from tests.support.candidates import grown


def losses(validation: float, training: float) -> Callable[[], tuple[float, float]]:
    return lambda: (validation, training)


def given(now: int, before: int | None, *, gap: float = 0.0) -> TriggerInput:
    return TriggerInput(num_pairs=now, earlier_pairs=before, measure_losses=losses(2 + gap, 2.0))


@pytest.mark.parametrize(
    ("name", "start", "should_search"),
    [
        ("data_grew", given(100, None), True),
        ("data_grew", given(100, 100), False),
        ("data_grew", given(101, 100), True),
        ("gap", given(100, 100, gap=0.4), True),
        ("gap", given(900, 100, gap=0.6), False),
        ("gap", given(100, 100, gap=-0.1), True),
        ("always", given(100, 100), True),
    ],
)
def test_trigger(name: str, start: TriggerInput, should_search: bool) -> None:
    decision = TRIGGERS[name](start, TriggerConfig(name=name))
    assert decision.should_search == should_search
    assert decision.reason


@pytest.mark.parametrize("name", TRIGGERS)
def test_first_stage_is_searched(name: str) -> None:
    assert TRIGGERS[name](given(100, None), TriggerConfig(name=name)).should_search


def test_the_first_data_may_be_left_to_the_model_as_it_is() -> None:
    config = TriggerConfig(first_stage=False)
    decision = TRIGGERS["data_grew"](given(100, None), config)
    assert not decision.should_search
    assert decision.reason == "the first data arrived"
    assert TRIGGERS["data_grew"](given(200, 100), config).should_search


def test_losses_are_measured_only_where_they_count() -> None:
    def fail() -> tuple[float, float]:
        raise AssertionError

    start = TriggerInput(num_pairs=10, earlier_pairs=5, measure_losses=fail)
    for name in ("data_grew", "always"):
        assert TRIGGERS[name](start, TriggerConfig(name=name)).should_search


@pytest.mark.parametrize("setting", [{"min_ratio": 0.0}, {"max_gap": -1.0}])
def test_bad_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(setting))}: must be above 0"):
        TriggerConfig(**setting)


def trial(stage: int, candidate: Candidate, score: float | None) -> Trial:
    return Trial(
        stage=stage,
        number=1,
        candidate=candidate,
        arch=ClipArch.preset("tiny"),
        flops=1,
        params=1,
        state="failed" if score is None else "complete",
        score=score,
    )


def test_promising_are_the_dimensions_that_gained_largest_first_smallest_step() -> None:
    earlier = [
        trial(0, NO_GROWTH, 0.0),
        trial(0, grown("image.width", 64, 96), 0.1),
        trial(0, grown("text.depth", 2, 3), 0.3),
        trial(0, grown("embed_dim", 32, 64), -0.2),
        trial(0, grown("image.depth", 1, 2), None),
        trial(0, grown("text.width", 32, 64), 0.9),
    ]
    candidates = (
        NO_GROWTH,
        grown("image.width", 96, 128),
        grown("image.width", 96, 160),
        grown("text.depth", 2, 4),
        grown("embed_dim", 32, 48),
        grown("image.depth", 1, 2),
    )
    assert warm_start_candidates(earlier, candidates) == (candidates[3], candidates[1])
    assert warm_start_candidates([], candidates) == ()


def test_what_gained_once_but_not_lately_is_not_promising() -> None:
    candidate = grown("text.depth", 2, 3)
    earlier = [trial(0, candidate, 0.3), trial(1, candidate, -0.1)]
    assert warm_start_candidates(earlier, (NO_GROWTH, candidate)) == ()
