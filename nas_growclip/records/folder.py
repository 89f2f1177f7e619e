"""The files of a run folder: their names, and how each is read and written."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas_growclip.growth.candidates import Candidate, candidate_label
from nas_growclip.io.files import (
    write_arrays,
    write_atomically,
)
from nas_growclip.io.mappings import from_mapping
from nas_growclip.records.entries import StageResult, Trial
from nas_growclip.records.lines import _lines, _whole_lines, append_line

CONFIG_FILE = "config.yaml"

TRIALS_FILE = "trials.jsonl"

STAGES_FILE = "stages.jsonl"

TIMINGS_FILE = "timings.jsonl"

DATA_FOLDER_FILE = "data_folder.txt"
"""Where the data lay when the run was last worked on: apart, since it is no part of the result."""

OUTCOMES_FILE = "outcomes.npz"
"""In a stage's folder: which test items its model got right, by metric."""


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


STATE_FILE = "state.safetensors"
"""What a finished stage's training leaves to the next one, where growing makes use of it."""

MAX_NAME = 120
"""Characters of a candidate's label in a file's name; longer ones are hashed."""


def stage_folder(run: Path, index: int) -> Path:
    """Where a stage keeps its files."""
    return run / f"stage_{index:02d}"


def _file_name(candidate: Candidate) -> str:
    label = candidate_label(candidate)
    if len(label) <= MAX_NAME:
        return label
    return f"{label[:MAX_NAME]}-{sha256(label.encode()).hexdigest()[:16]}"


SPACE_FILE = "search_space.json"
"""The stage's growth space, as NNI takes it."""

STOPPED_FILE = "stopped.json"
"""In the folder of a stage whose training failed: why."""

PARENT_FOLDER = "parent"
"""In a run folder: the checkpoint that it started from, if it did not start afresh."""

TRAINING_FILE = "training.safetensors"
"""A stage's training state while it is under way."""
