"""Coefficients from finished stages, on records written by hand."""

from dataclasses import replace

import pytest

from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import StageResult, Trial
from nas_growclip.search.objective import DataSize, ObjectiveConfig
from nas_growclip.search.refit import (
    FinishedStage,
    cost_ratio,
    finished_stages,
    isoflop_optimum,
    refit,
)

ARCH = ClipArch.preset("tiny")
CONFIG = ObjectiveConfig()


def loss(pairs: float, exponent: float, floor: float = 0.5) -> float:
    return floor + 10 * (pairs + 200) ** -exponent


def trial(number: int, flops: int, exponent: float = 0.5, ahead: float = 0.0) -> Trial:
    step = GrowthStep(dimension="image.mlp_width", old=64, new=64 + number) if number else None
    points = [100 * flops // 100 * k for k in range(1, 7)]
    curve = tuple((p, loss(p, exponent) - ahead) for p in points)
    return Trial(
        stage=0,
        number=number,
        candidate=Candidate(steps=(step,)) if step else NO_GROWTH,
        arch=ARCH,
        flops=flops,
        params=1,
        state="complete",
        metrics={"loss": curve[-1][1]},
        curve=((0, 9.0), *curve),
        stage_pairs=12_000 * 100 // flops,
    )


def result(exponent: float, stage: int = 0, num_pairs: int = 100_000) -> StageResult:
    return StageResult(
        stage=stage,
        num_pairs=num_pairs,
        skipped={},
        parent=ARCH,
        arch=ARCH,
        chosen=NO_GROWTH,
        chosen_trial=0,
        reason="",
        flops=100,
        flops_by_encoder={},
        params=1,
        metrics={},
        validation={},
        curve=tuple((pairs, loss(pairs, exponent)) for pairs in range(200, 15_001, 600)),
        pairs_seen=12_000,
        search_flops=0,
        train_flops=1,
        cumulative_flops=1,
    )


def finished(exponent: float, *trials: Trial) -> FinishedStage:
    trials = trials or (trial(0, 100, exponent),)
    return FinishedStage(DataSize(100_000, 100_000, 100), trials, result(exponent))


def test_nothing_finished_changes_nothing() -> None:
    assert refit(CONFIG, ()) == CONFIG


def test_cost_of_fewer_pairs_is_scaled_to_what_it_was() -> None:
    """Each finished curve falls as its trial promised, or three times as fast, or not at all."""
    stage = finished(0.5)
    as_promised = cost_ratio(stage, CONFIG)
    assert as_promised is not None
    assert 0.5 < as_promised < 2
    points = stage.result.curve
    steep = tuple((pairs, 3 * loss) for pairs, loss in points)
    faster = stage._replace(result=replace(stage.result, curve=steep))
    assert cost_ratio(faster, CONFIG) == pytest.approx(min(4.0, 3 * as_promised))
    scales = [refit(CONFIG, [faster] * count).cost_scale for count in (0, 1, 4)]
    assert scales[0] == 1 < scales[1] < scales[2] < 4
    flat = stage._replace(result=replace(stage.result, curve=tuple((p, 1.0) for p, _ in points)))
    assert cost_ratio(flat, CONFIG) is None
    short = stage._replace(result=replace(stage.result, curve=points[-2:]))
    assert refit(CONFIG, [short, flat]).cost_scale == 1


def test_isoflop_optimum_lies_at_the_best_candidate() -> None:
    ahead = {100: 0.0, 120: 0.5, 150: 1.0, 200: 0.4, 300: -1.0}
    trials = [trial(n, flops, ahead=gain) for n, (flops, gain) in enumerate(ahead.items())]
    config = ObjectiveConfig(advantage_spread=10.0)
    optimum = isoflop_optimum(finished(0.5, *trials), config)
    assert optimum is not None
    assert 110 < optimum < 190
    assert isoflop_optimum(finished(0.5, *trials[:3]), config) is None


def test_headroom_moves_towards_what_finished_searches_found() -> None:
    trials = [trial(n, flops, ahead=float(n)) for n, flops in enumerate((100, 150, 220, 320, 480))]
    config = ObjectiveConfig(advantage_spread=10.0, capacity_headroom=1.5)
    found = refit(config, [finished(0.5, *trials)] * 4)
    assert found.capacity_headroom > 1.5


def test_stages_are_put_together_with_their_trials() -> None:
    trials = [trial(0, 100), replace(trial(0, 200), stage=1), replace(trial(1, 300), stage=1)]
    stages = finished_stages(trials, [result(0.5), result(0.5, stage=1, num_pairs=400_000)])
    assert [len(stage.trials) for stage in stages] == [1, 2]
    assert stages[1].data == DataSize(400_000, 100_000, 100)
    assert finished_stages(trials, ()) == ()
