"""A run's trials stage by stage, the best first, and what is special about each."""

import math
from typing import Literal

from nas_growclip.records.entries import Trial
from nas_growclip.records.frames import Run

Mark = Literal["", "chosen", "control", "pruned", "failed"]


def mark_of(trial: Trial, chosen: int | None) -> Mark:
    """What is special about a trial; the chosen one is ``chosen`` also where it is the control."""
    if trial.number == chosen:
        return "chosen"
    if trial.state != "complete":
        return trial.state
    return "control" if not trial.candidate.grows else ""


def trials_by_stage(run: Run) -> dict[int, list[Trial]]:
    """A run's trials for each stage that has any, the best score first, then those without."""
    stages: dict[int, list[Trial]] = {}
    for trial in run.trials:
        stages.setdefault(trial.stage, []).append(trial)
    return {stage: sorted(trials, key=_rank) for stage, trials in sorted(stages.items())}


def had_choice(run: Run, stage: int) -> bool:
    """Whether a stage had more than one candidate: a growth that is given is the only one."""
    return sum(trial.stage == stage for trial in run.trials) > 1


def chosen_trials(run: Run) -> dict[int, int]:
    """Number of the chosen trial for each finished stage."""
    return {stage.stage: stage.chosen_trial for stage in run.stages}


def _rank(trial: Trial) -> tuple[bool, float, int]:
    scored = trial.state == "complete" and trial.score is not None and math.isfinite(trial.score)
    return not scored, -(trial.score or 0.0) if scored else 0.0, trial.number
