"""A stage's trials on disk: unscored records that all workers share, and the scored lines."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nas_growclip.experiment.stage_plan import StageRun
from nas_growclip.growth.candidates import Candidate
from nas_growclip.io.files import write_atomically
from nas_growclip.io.mappings import from_mapping, read_mapping
from nas_growclip.records.entries import Trial, to_line
from nas_growclip.records.folder import TRIALS_FILE, _file_name, read_trials
from nas_growclip.records.lines import append_line

_log = logging.getLogger(__name__)


def write_record(stage: StageRun, trial: Trial) -> None:
    """Write a trial's record, not scored, where all workers find it."""
    write_atomically(record_path(stage, trial.candidate), (to_line(trial) + "\n").encode())


def read_record(stage: StageRun, candidate: Candidate) -> Trial | None:
    """A candidate's record in the trials folder, not scored."""
    path = record_path(stage, candidate)
    if not path.is_file():
        return None
    return from_mapping(Trial, read_mapping(path), str(path))


def record_path(stage: StageRun, candidate: Candidate) -> Path:
    """A trial's record, not scored, where all workers find it."""
    return stage.trials_folder / f"{_file_name(candidate)}.json"


def trial_path(stage: StageRun, candidate: Candidate) -> Path:
    """A trial's training state."""
    return stage.trials_folder / f"{_file_name(candidate)}.safetensors"


def recorded_trials(stage: StageRun) -> tuple[Trial, ...]:
    """The stage's lines of ``trials.jsonl``."""
    return tuple(t for t in read_trials(stage.run) if t.stage == stage.data.index)


def record_trial(stage: StageRun, recorded: list[Trial], trial: Trial) -> None:
    """Append a finished trial to ``trials.jsonl`` and to the stage's records, as the next one."""
    trial = replace(trial, number=len(recorded))
    append_line(stage.run / TRIALS_FILE, to_line(trial))
    recorded.append(trial)
    keep_best_state(stage, recorded)
    score = f"score {trial.score:+.4g}" if trial.score is not None else _unscored(trial)
    _log.info(f"stage {stage.data.index}, trial {trial.number}: {trial.label}: {score}")


def _unscored(trial: Trial) -> str:
    return trial.message or "no score, since the control failed"


def finished_trial(stage: StageRun, candidate: Candidate) -> Trial:
    """The scored record of a trial that some worker finished.

    Raises:
        ValueError: If its record is not in the run folder.
    """
    trial, control = read_record(stage, candidate), read_record(stage, ())
    if trial is None or control is None:
        raise ValueError(
            f"{record_path(stage, candidate)}: must hold the record of a finished trial, "
            "but is missing. Do all workers see the same run folder?"
        )
    return scored_trial(stage, control, trial)


def scored_trial(stage: StageRun, control: Trial, trial: Trial) -> Trial:
    """A trial with its score against the control; without one if either did not complete."""
    if trial.state != "complete" or control.state != "complete":
        return trial
    score = stage.objective.score(trial, control, stage.data_size, stage.coefficients)
    return replace(trial, score=score.value, terms=score.terms)


def keep_best_state(stage: StageRun, trials: Sequence[Trial]) -> None:
    """Delete the training states of all trials but those that may still be chosen.

    While no trial has a score there are none.
    """
    has_score = any(trial.score is not None for trial in trials)
    kept = {trial.label for trial in stage.objective.contenders(trials)} if has_score else set()
    for trial in trials:
        if trial.label not in kept:
            trial_path(stage, trial.candidate).unlink(missing_ok=True)
