"""Coefficients of the objective, fitted again from a run's finished stages."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from nas_growclip.records.entries import StageResult, Trial
from nas_growclip.search.objective import (
    DataSize,
    ObjectiveConfig,
    data_size_aware,
    effective_pairs,
    fit_control,
)

LEAST_POINTS = 4
"""Points of a finished stage's curve from which its slope can be told."""
STEADY = 0.8
"""Part of a stage before its rate cools down and its loss falls by another law."""
LEAST_SIZES = 4
"""Different FLOPs that a parabola needs, one more than it has coefficients."""
PRIOR_STAGES = 2
"""Finished stages that the configured headroom is worth."""


class FinishedStage(NamedTuple):
    """What a finished stage tells about the next ones."""

    data: DataSize
    trials: tuple[Trial, ...]
    result: StageResult


def finished_stages(
    trials: Sequence[Trial], results: Sequence[StageResult]
) -> tuple[FinishedStage, ...]:
    """Put a run's records together, stage by stage."""
    if not results:
        return ()
    controls = {trial.stage: trial for trial in trials if trial.number == 0}
    first = results[0]
    return tuple(
        FinishedStage(
            data=DataSize(result.num_pairs, first.num_pairs, controls[first.stage].flops),
            trials=tuple(trial for trial in trials if trial.stage == result.stage),
            result=result,
        )
        for result in results
        if first.stage in controls
    )


def refit(config: ObjectiveConfig, finished: Sequence[FinishedStage]) -> ObjectiveConfig:
    """The coefficients, with those replaced that the finished stages can tell.

    What fewer pairs cost is scaled to what they did cost in the finished stages; the supported
    FLOPs are moved to where the finished searches' candidates promised most. Stages whose control
    failed tell nothing.
    """
    finished = [stage for stage in finished if stage.trials[0].state == "complete"]
    return _refit_headroom(_refit_cost(config, finished), finished)


def _refit_cost(config: ObjectiveConfig, finished: Sequence[FinishedStage]) -> ObjectiveConfig:
    """Geometric mean of the configured scale, which counts twice, and the finished stages'."""
    ratios = [cost_ratio(stage, config) for stage in finished]
    logs = [math.log(ratio) for ratio in ratios if ratio is not None]
    total = PRIOR_STAGES * math.log(config.cost_scale) + sum(logs)
    return replace(config, cost_scale=math.exp(total / (PRIOR_STAGES + len(logs))))


def cost_ratio(stage: FinishedStage, config: ObjectiveConfig) -> float | None:
    """What a third fewer pairs cost in a finished stage, by what its trial had predicted.

    Taken on the steady part of the stage, before its rate cooled down; within a factor of 4. None
    where the curve is too short, or where fewer pairs did not cost anything.
    """
    chosen, curve = stage.trials[stage.result.chosen_trial], stage.result.curve
    steady = [(pairs, loss) for pairs, loss in curve if 0 < pairs <= STEADY * curve[-1][0]]
    if len(steady) < LEAST_POINTS:
        return None
    constant, num_pairs = config.repetition_constant, stage.data.num_pairs
    worth = [effective_pairs(pairs, num_pairs, constant) for pairs, _ in steady]
    line = np.poly1d(
        np.polyfit(np.log(worth[-LEAST_POINTS:]), [x for _, x in steady[-LEAST_POINTS:]], 1)
    )
    predicted = fit_control(chosen, num_pairs, config).cost(worth[-1], worth[-1] / 1.5).mean
    measured = float(line(math.log(worth[-1] / 1.5)) - line(math.log(worth[-1])))
    if predicted <= 0 or measured <= 0:
        return None
    return min(4.0, max(0.25, measured / predicted))


def _refit_headroom(config: ObjectiveConfig, finished: Sequence[FinishedStage]) -> ObjectiveConfig:
    """Mean of the configured headroom, which counts twice, and those of the finished stages."""
    found = [isoflop_optimum(stage, config) for stage in finished]
    logs = [
        math.log(flops / stage.data.first_flops)
        - config.capacity_exponent * math.log(stage.data.num_pairs / stage.data.first_pairs)
        for flops, stage in zip(found, finished, strict=True)
        if flops is not None
    ]
    total = PRIOR_STAGES * math.log(config.capacity_headroom) + sum(logs)
    return replace(config, capacity_headroom=math.exp(total / (PRIOR_STAGES + len(logs))))


def isoflop_optimum(stage: FinishedStage, config: ObjectiveConfig) -> float | None:
    """FLOPs at which a finished stage's candidates promised the lowest loss at its end.

    The lowest point of a parabola through the predicted losses against log FLOPs, within the
    candidates' range; None where there are too few of them.

    Reference: Hoffmann et al., 2022 (arXiv 2203.15556), approach 2.
    """
    trials = [trial for trial in stage.trials if trial.state == "complete" and trial.curve]
    log_flops = np.log([trial.flops for trial in trials])
    if len(set(log_flops.tolist())) < LEAST_SIZES:
        return None
    losses = [
        data_size_aware(trial, stage.trials[0], stage.data, config).terms["predicted_loss"]
        for trial in trials
    ]
    grid = np.linspace(log_flops.min(), log_flops.max(), 101)
    fitted = np.polyval(np.polyfit(log_flops, losses, 2), grid)
    return math.exp(float(grid[fitted.argmin()]))
