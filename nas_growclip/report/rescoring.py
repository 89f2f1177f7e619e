"""Finished stages scored again from their records, without training: other settings, other data.

Other settings are read as if they stood in the experiment's file. With other data the measured
learning curves stay, and so do the parent, the shortlist and the training FLOPs: the pairs are
passed over more or less often.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nas_growclip.io.choices import require_choice
from nas_growclip.io.mappings import from_mapping, to_mapping
from nas_growclip.records.entries import StageResult, Trial
from nas_growclip.records.folder import RunFolder
from nas_growclip.records.frames import Run
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.objective import OBJECTIVES, scaled_pairs, scored_again

RATIOS = (0.5, 1.0, 2.0)
"""Half the data, the data as it was, twice the data."""
GAINS_PREFIX = "dimension_gains."
"""Before a dimension, where its gain is named among other coefficients."""
TOLERANCE = 1e-6
"""By how much a score may differ from the recorded one: another machine sums in another order."""


class Choice(NamedTuple):
    """What a stage would choose if its data had been ``data_ratio`` times as much."""

    data_ratio: float
    num_pairs: int
    trial: Trial
    """The choice, scored for that much data."""
    next_best: Trial | None
    """The highest score among the others, if any has one."""
    is_same: bool
    """Whether the run chose it too."""


class Rescoring(NamedTuple):
    """A finished stage, scored again."""

    result: StageResult
    """What the run recorded."""
    trials: tuple[Trial, ...]
    chosen: Trial
    """What would be chosen now."""


def objective_config(run: Run, changes: Mapping[str, str | float] | None = None) -> ObjectiveConfig:
    """The objective's settings in a run's configuration, some of them changed.

    Args:
        run: The run.
        changes: New values under the settings' names, a dimension's gain under
            ``dimension_gains.DIMENSION``.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """
    where = f"{RunFolder(run.path).config}: objective"
    config = from_mapping(ObjectiveConfig, run.config.get("objective", {}), where)
    if changes:
        changed = to_mapping(config)
        for name, value in changes.items():
            inner = name.startswith(GAINS_PREFIX)
            place = changed["dimension_gains"] if inner else changed
            place[name.removeprefix(GAINS_PREFIX)] = value
        config = from_mapping(ObjectiveConfig, changed, "objective")
    require_choice(config.name, OBJECTIVES, "objective: name")
    return config


def rescored(
    run: Run, stage: int, config: ObjectiveConfig | None = None, *, data_ratio: float = 1.0
) -> tuple[Trial, ...]:
    """The trials of a finished stage, scored again.

    Args:
        run: The run.
        stage: The stage's number.
        config: Settings instead of the run's own.
        data_ratio: How many times as much data the stage is taken to have had, for the same FLOPs.

    Returns:
        The trials in their order, with new scores and terms.

    Raises:
        ValueError: If the stage has not finished or a record in it cannot be scored.
    """
    if not 0 < data_ratio < math.inf:
        raise ValueError(f"data_ratio must be a finite number above 0, but got {data_ratio}.")
    result = _finished(run, stage)
    trials = tuple(trial for trial in run.trials if trial.stage == stage)
    control = next((trial for trial in trials if trial.number == 0), None)
    if control is None or control.state != "complete":
        raise ValueError(
            f"Stage {stage} must have a complete control to be scored against, but its trial 0 is "
            f"{control.state if control else 'missing'}. See {RunFolder(run.path).trials}."
        )
    return scored_again(trials, result.num_pairs, config or objective_config(run), data_ratio)


def choose(trials: Sequence[Trial], config: ObjectiveConfig) -> Trial:
    """The trial that the objective chooses."""
    return OBJECTIVES[config.name].choose(trials)


def rescore_run(
    run: Run, config: ObjectiveConfig, *, data_ratio: float = 1.0
) -> tuple[Rescoring, ...]:
    """Every finished stage, scored again.

    Args:
        run: The run.
        config: The objective's settings, see ``objective_config``.
        data_ratio: How many times as much data each stage is taken to have had, for the same FLOPs.

    Raises:
        ValueError: If no stage has finished, or one cannot be scored again.
    """
    if not run.stages:
        raise ValueError(
            f"{run.path}: a stage must have finished to be scored again, but none has. "
            "Resume the run."
        )
    rescorings = []
    for result in run.stages:
        trials = rescored(run, result.stage, config, data_ratio=data_ratio)
        rescorings.append(Rescoring(result, trials, choose(trials, config)))
    return tuple(rescorings)


def rescoring_row(run: Run, rescoring: Rescoring, config: ObjectiveConfig) -> dict[str, Any]:
    """A stage scored again by these settings as plain numbers and texts, for JSON."""
    result = rescoring.result
    recorded = recorded_scores(run, result.stage)
    return {
        "stage": result.stage,
        "coefficients": to_mapping(config),
        "chosen_then": result.chosen_trial,
        "chosen_now": rescoring.chosen.number,
        "candidates": [
            {
                "trial": trial.number,
                "candidate": trial.label,
                "state": trial.state,
                "recorded_score": recorded[trial.number],
                "score": trial.score,
                "terms": dict(trial.terms),
            }
            for trial in rescoring.trials
        ],
    }


def recorded_scores(run: Run, stage: int) -> dict[int, float | None]:
    """The scores that a stage's trials got in the run, under their numbers."""
    return {trial.number: trial.score for trial in run.trials if trial.stage == stage}


def stage_choices(run: Run, stage: int, ratios: Sequence[float] = RATIOS) -> tuple[Choice, ...]:
    """What a finished stage would choose with more or less data, by the run's own settings.

    Raises:
        ValueError: If the stage has not finished or cannot be scored again.
    """
    config, result, choices = objective_config(run), _finished(run, stage), []
    for ratio in ratios:
        trials = rescored(run, stage, config, data_ratio=ratio)
        best = choose(trials, config)
        others = [t for t in trials if t.score is not None and t.number != best.number]
        next_best = max(others, key=lambda trial: trial.score or 0.0, default=None)
        num_pairs = scaled_pairs(result.num_pairs, ratio)
        is_same = best.number == result.chosen_trial
        choices.append(Choice(ratio, num_pairs, best, next_best, is_same))
    return tuple(choices)


def choices(run: Run, ratios: Sequence[float] = RATIOS) -> dict[int, tuple[Choice, ...]]:
    """``stage_choices`` of every finished stage.

    Raises:
        ValueError: If a stage cannot be scored again.
    """
    return {result.stage: stage_choices(run, result.stage, ratios) for result in run.stages}


def is_reproduced(run: Run, stage: int) -> bool:
    """Whether scoring a stage again by the run's own settings gives the recorded scores.

    It does not where another version of the objective scored them.

    Raises:
        ValueError: If the stage has not finished or cannot be scored again.
    """
    recorded = recorded_scores(run, stage)
    return all(_is_close(recorded[t.number], t.score) for t in rescored(run, stage))


def _finished(run: Run, stage: int) -> StageResult:
    numbers = [result.stage for result in run.stages]
    if stage not in numbers:
        raise ValueError(
            f"{run.path}: stage {stage} must have finished to be scored again, but only {numbers} "
            "have. Resume the run."
        )
    return run.stages[numbers.index(stage)]


def _is_close(recorded: float | None, score: float | None) -> bool:
    if recorded is None or score is None:
        return recorded is score
    return math.isclose(recorded, score, rel_tol=0.0, abs_tol=TOLERANCE)
