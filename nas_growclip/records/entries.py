"""What a run writes down: one JSON line a trial, one a stage, and the data frame read from them.

Records hold plain numbers, no tensors and no clock times, so that the same seed gives the same
lines, whether or not the run was interrupted; times go to ``timings.jsonl``. FLOPs are fvcore
FLOPs (one multiply-add is one); training counts three times the forward FLOPs for each pair seen
(forward once, backward twice).
"""

import fcntl
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas_growclip.growth.space import Candidate, candidate_label, candidate_momentum
from nas_growclip.io.files import write_arrays, write_atomically, writing
from nas_growclip.io.mappings import from_mapping, read_mapping, read_text, to_mapping
from nas_growclip.models.arch import ClipArch

CONFIG_FILE = "config.yaml"
TRIALS_FILE = "trials.jsonl"
STAGES_FILE = "stages.jsonl"
TIMINGS_FILE = "timings.jsonl"
DATA_FOLDER_FILE = "data_folder.txt"
"""Where the data lay when the run was last worked on: apart, since it is no part of the result."""
OUTCOMES_FILE = "outcomes.npz"
"""In a stage's folder: which test items its model got right, by metric."""

MAX_RECORDS_BYTES = 2**30
"""Largest file of records that is read."""

TRAIN_FLOPS_PER_FORWARD = 3
"""Forward once, backward twice: the usual count for training."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate grown from the stage's parent, trained briefly and measured."""

    stage: int
    number: int
    candidate: Candidate
    arch: ClipArch
    flops: int
    """fvcore FLOPs of one image-text pair, forward."""
    params: int
    state: Literal["complete", "pruned", "failed"]
    """Pruned: stopped before the end of its share, since it was behind the others."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    """Learning curve: (pairs seen in this trial, validation loss)."""
    train_flops: int = 0
    """FLOPs spent to train this trial."""
    stage_pairs: int = 0
    """Pairs that the stage's whole budget lets this architecture see."""
    score: float | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    """The objective's terms, which add up to the score where the objective is a sum."""
    message: str = ""
    """Why the trial failed or where it was stopped."""

    @property
    def label(self) -> str:
        """Short name of the candidate."""
        return candidate_label(self.candidate)


@dataclass(frozen=True, kw_only=True)
class Setback:
    """A stage's training that diverged and went back to its last good state."""

    step: int
    """The step at which it was seen."""
    back_to: int
    """The step of the state that it went back to."""
    learning_rate: float
    """``train.learning_rate`` at that time, before it was lowered."""
    reason: str

    def __str__(self) -> str:
        return f"diverged at step {self.step} and went back to step {self.back_to}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """One finished stage: what was chosen, what it cost, how good it is on ``test``."""

    stage: int
    num_pairs: int
    """Usable pairs in the stage's cumulative training data."""
    skipped: Mapping[str, int]
    """Pairs left out, by reason, over train, validation and test."""
    parent: ClipArch
    arch: ClipArch
    chosen: Candidate
    chosen_trial: int
    reason: str
    """Why this candidate, in the objective's terms."""
    flops: int
    flops_by_encoder: Mapping[str, int]
    params: int
    metrics: Mapping[str, float]
    """Measured on ``test``; ``chance.*`` entries give the level of a random model."""
    validation: Mapping[str, float]
    """Measured on ``validation``, which steered the search."""
    curve: tuple[tuple[int, float], ...]
    """Learning curve of the stage's model: (pairs seen in this stage, validation loss)."""
    pairs_seen: int
    """Pairs the stage's model saw in this stage, repeats included, its trial's included."""
    search_flops: int
    """Training FLOPs of the trials that were not continued."""
    train_flops: int
    """Training FLOPs of the continued trial and the rest of the stage, repeated steps included."""
    cumulative_flops: int
    """Training FLOPs of the whole run up to here, search included."""
    coefficients: Mapping[str, float] = field(default_factory=dict)
    """The objective's coefficients in this stage, as refitted from the stages before."""
    setbacks: tuple[Setback, ...] = ()
    """Where its training diverged; each halved the learning rate from there on."""


def to_line(record: Trial | StageResult) -> str:
    """One JSON line, keys in the order of the dataclass."""
    return json.dumps(to_mapping(record))


def append_line(path: Path, line: str) -> None:
    """Append one line and force it to the disk; several processes may append to one file.

    A last line without its newline (a process killed while writing) is dropped first.

    Raises:
        ValueError: If it cannot be written; what is there of it is a line without its newline.
    """
    with writing(path), path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _drop_torn_line(file)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def drop_torn_line(path: Path) -> None:
    """Cut an unfinished last line off a JSON-lines file.

    Raises:
        ValueError: If it cannot be written.
    """
    if path.exists():
        with writing(path), path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _drop_torn_line(file)


def _drop_torn_line(file: IO[bytes]) -> None:
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read() != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def append_timing(folder: Path, stage: int, what: str, seconds: float) -> None:
    """Note how long something took; times are kept apart, since they never repeat."""
    timing = {"stage": stage, "what": what, "seconds": round(seconds, 3)}
    append_line(folder / TIMINGS_FILE, json.dumps(timing))


def read_timings(folder: Path) -> dict[str, float]:
    """Seconds that a run's parts took, as in ``{"stage 0, training": 12.3}``; repeats add up.

    Raises:
        ValueError: If a line is damaged.
    """
    seconds: dict[str, float] = {}
    for data, where in _lines(folder / TIMINGS_FILE):
        timing = from_mapping(_Timing, data, where)
        name = f"stage {timing.stage}, {timing.what}"
        seconds[name] = seconds.get(name, 0.0) + timing.seconds
    return seconds


@dataclass(frozen=True, kw_only=True)
class _Timing:
    stage: int
    what: str
    seconds: float


def note_data_folder(run: Path, folder: Path) -> None:
    """Note where a run's data lies, for whoever goes on with it."""
    write_atomically(run / DATA_FOLDER_FILE, f"{folder.resolve()}\n".encode())


def noted_data_folder(run: Path) -> Path | None:
    """Where a run's data lay when it was last worked on; None if that was not noted."""
    path = run / DATA_FOLDER_FILE
    return Path(path.read_text(encoding="utf-8").rstrip("\n")) if path.is_file() else None


def write_outcomes(folder: Path, outcomes: Mapping[str, NDArray[np.bool_]]) -> None:
    """Write which test items a stage's model got right; the same outcomes give the same bytes."""
    write_arrays(folder / OUTCOMES_FILE, outcomes)


def read_outcomes(folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Which test items a stage's model got right, by metric; the items are in stored order.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    path = folder / OUTCOMES_FILE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: must hold a stage's outcomes, but: {error}.") from None


def read_trials(run: Path) -> tuple[Trial, ...]:
    """Every recorded trial of a run, in order."""
    return tuple(from_mapping(Trial, d, w) for d, w in _lines(run / TRIALS_FILE))


def read_stages(run: Path) -> tuple[StageResult, ...]:
    """Every finished stage of a run, in order."""
    return tuple(from_mapping(StageResult, d, w) for d, w in _lines(run / STAGES_FILE))


def stage_lines(path: Path, num_stages: int) -> list[str]:
    """A record file's lines of the first stages, as they stand there.

    Raises:
        ValueError: If a line is damaged.
    """
    kept = []
    for line, (data, where) in zip(_whole_lines(path), _lines(path), strict=True):
        stage = data.get("stage") if isinstance(data, Mapping) else None
        if not isinstance(stage, int):
            raise ValueError(f"{where}: must be a record with its stage. Restore the file.")
        if stage < num_stages:
            kept.append(f"{line}\n")
    return kept


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = read_text(path, MAX_RECORDS_BYTES)
    return text.split("\n")[:-1]  # a line without its end was never finished


def _lines(path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(_whole_lines(path), start=1):
        where = f"{path}: line {number}"
        try:
            yield json.loads(line), where
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not valid JSON: {error}. Restore the file.") from None


@dataclass(frozen=True)
class Run:
    """A run folder's records, as read by ``load_run``."""

    path: Path
    name: str
    config: Mapping[str, Any]
    trials: tuple[Trial, ...]
    stages: tuple[StageResult, ...]

    def stages_frame(self) -> pd.DataFrame:
        """One row a stage; metrics and sizes as columns ``metric.*`` and dimension names."""
        return pd.DataFrame([_stage_row(self.name, stage) for stage in self.stages])

    def trials_frame(self) -> pd.DataFrame:
        """One row a trial; metrics, terms and sizes as columns."""
        chosen = {stage.stage: stage.chosen_trial for stage in self.stages}
        rows = [
            _trial_row(self.name, trial) | {"chosen": chosen.get(trial.stage) == trial.number}
            for trial in self.trials
        ]
        return pd.DataFrame(rows)


def config_path(run: Path) -> Path:
    """Where a run folder keeps the experiment that it was made with.

    Raises:
        ValueError: If it is no run folder.
    """
    path = run / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"{run}: not a run folder: it has no {CONFIG_FILE}. Give the --out of `growclip run`."
        )
    return path


def load_run(path: str | Path) -> Run:
    """Read a run folder's records.

    Raises:
        ValueError: If the folder is no run folder or a record in it is damaged.
    """
    folder = Path(path)
    return Run(
        path=folder,
        name=folder.resolve().name,
        config=read_mapping(config_path(folder)),
        trials=read_trials(folder),
        stages=read_stages(folder),
    )


def _stage_row(name: str, stage: StageResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": name,
        "stage": stage.stage,
        "num_pairs": stage.num_pairs,
        "chosen": candidate_label(stage.chosen),
        "flops": stage.flops,
        "params": stage.params,
        "pairs_seen": stage.pairs_seen,
        "search_flops": stage.search_flops,
        "train_flops": stage.train_flops,
        "cumulative_flops": stage.cumulative_flops,
        "skipped": sum(stage.skipped.values()),
        "reason": stage.reason,
    }
    row |= {f"flops.{encoder}": flops for encoder, flops in stage.flops_by_encoder.items()}
    row |= {f"metric.{key}": value for key, value in stage.metrics.items()}
    row |= {f"validation.{key}": value for key, value in stage.validation.items()}
    return row | stage.arch.sizes()


def _trial_row(name: str, trial: Trial) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": name,
        "stage": trial.stage,
        "trial": trial.number,
        "candidate": trial.label,
        "momentum": candidate_momentum(trial.candidate),
        "state": trial.state,
        "flops": trial.flops,
        "params": trial.params,
        "train_flops": trial.train_flops,
        "stage_pairs": trial.stage_pairs,
        "score": trial.score,
        "message": trial.message,
    }
    row |= {f"metric.{key}": value for key, value in trial.metrics.items()}
    row |= {f"term.{key}": value for key, value in trial.terms.items()}
    return row | trial.arch.sizes()
