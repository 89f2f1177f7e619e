"""A stage's trials on disk: unscored records that all workers share, and the scored lines."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from nas_growclip.experiment.stage_context import StageContext
from nas_growclip.growth.candidates import NO_GROWTH, Candidate
from nas_growclip.io.files import write_atomically
from nas_growclip.io.mappings import from_mapping, read_mapping
from nas_growclip.records.entries import Trial, to_line
from nas_growclip.records.folder import RunFolder, read_trials
from nas_growclip.records.lines import append_line
from nas_growclip.training.events import Event

_log = logging.getLogger(__name__)


def write_record(stage: StageContext, trial: Trial) -> None:
    """Write a trial's record, not scored, where all workers find it."""
    stage.observe(Event(moment="trial_measured"), f"trial of {trial.label}")
    write_atomically(stage.trials.record(trial.label), (to_line(trial) + "\n").encode())
    stage.observe(Event(moment="trial_recorded"), f"trial of {trial.label}")


def read_record(stage: StageContext, candidate: Candidate) -> Trial | None:
    """A candidate's record in the trials folder, not scored; None where there is none."""
    path = stage.trials.record(candidate.label)
    if not path.is_file():
        return None
    return from_mapping(Trial, read_mapping(path), str(path))


def recorded_trials(stage: StageContext) -> tuple[Trial, ...]:
    """The stage's lines of the run's trials."""
    return tuple(t for t in read_trials(stage.run) if t.stage == stage.index)


def record_trial(stage: StageContext, recorded: list[Trial], trial: Trial) -> None:
    """Append a finished trial to the run's trials and to the stage's records, as the next one."""
    trial = replace(trial, number=len(recorded))
    append_line(RunFolder(stage.run).trials, to_line(trial))
    recorded.append(trial)
    stage.observe(Event(moment="trial_listed"), f"trial of {trial.label}")
    keep_best_state(stage, recorded)
    score = f"score {trial.score:+.4g}" if trial.score is not None else _unscored(trial)
    _log.info(f"stage {stage.index}, trial {trial.number}: {trial.label}: {score}")


def _unscored(trial: Trial) -> str:
    return trial.message or "no score, since the control failed"


def finished_trial(stage: StageContext, candidate: Candidate) -> Trial:
    """The scored record of a trial that some worker finished.

    Raises:
        ValueError: If its record is not in the run folder.
    """
    trial, control = read_record(stage, candidate), read_record(stage, NO_GROWTH)
    if trial is None or control is None:
        raise ValueError(
            f"{stage.trials.record(candidate.label)}: must hold the record of a "
            "finished trial, but is missing. Do all workers see the same run folder?"
        )
    return scored_trial(stage, control, trial)


def scored_trial(stage: StageContext, control: Trial, trial: Trial) -> Trial:
    """A trial with its score against the control; without one if either did not complete."""
    if trial.state != "complete" or control.state != "complete":
        return trial
    plan = stage.plan
    score = plan.objective.score(trial, control, plan.num_pairs, plan.coefficients)
    return replace(trial, score=score.value, terms=score.terms)


def keep_best_state(stage: StageContext, trials: Sequence[Trial]) -> None:
    """Delete the training states of all trials but those that may still be chosen.

    While no trial has a score there are none.
    """
    has_score = any(trial.score is not None for trial in trials)
    kept = set()
    if has_score:
        kept = {trial.label for trial in stage.plan.objective.contenders(trials)}
    for trial in trials:
        if trial.label not in kept:
            stage.trials.state(trial.label).unlink(missing_ok=True)
