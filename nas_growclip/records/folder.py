"""The files of a run folder: their names, and how each is read and written."""

import json
import secrets
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas_growclip.io.files import write_arrays, write_atomically
from nas_growclip.io.mappings import from_mapping, read_mapping, to_mapping
from nas_growclip.io.versions import own_version
from nas_growclip.records.entries import StageResult, Trial
from nas_growclip.records.lines import append_line, read_lines, whole_lines

FORMAT = 3
"""The format of run folders that this version reads and writes; 1 had no format file, 2 had other
coefficients of the objective and scores in nats."""
MAX_NAME = 120
"""Characters of a candidate's label in a file's name; longer ones are hashed."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder: all the state that a run has. This class alone names its files.

    | file | what it holds |
    |---|---|
    | `format.json` | the folder's format, the version that made it, and the run's id |
    | `config.yaml` | the experiment as resolved |
    | `trials.jsonl` | every scored trial, a line each |
    | `stages.jsonl` | finished stages, a line each; without its line a stage is not finished |
    | `timings.jsonl` | how long each part took; apart, since times never repeat |
    | `data_folder.txt` | where the data lay when the run was last worked on |
    | `parent/` | the checkpoint that the run started from, if it did not start from scratch |
    | `stage_NN/` | one folder a stage, see below |
    | `study.db`, `study.journal` | Optuna's studies, where they are kept in the folder |
    | `study.lock` | held while tables are made and while a trial is taken from the queue |
    | `artifacts/` | pictures that optuna-dashboard shows |
    | `report/` | tables, figures and the page |

    In a stage's folder:

    | file | what it holds |
    |---|---|
    | `model.safetensors`, `arch.json` | the stage's model |
    | `manifest.json` | the data it was trained on: files, checksums, counts |
    | `outcomes.npz` | which test items the model got right, by metric |
    | `search_space.json` | the stage's growth space, as NNI takes it |
    | `candidates.csv` | what was expected of all candidates, where a shortlist was made of them |
    | `state.safetensors` | what the training leaves to the next growth, if that makes use of it |
    | `training.safetensors` | the training state while the stage is under way |
    | `stopped.json` | why the stage's training failed |
    | `trials/` | a record and a training state a trial, named after the candidate |
    | `nni/` | an NNI experiment's files; `proposed.json` lists what its tuner proposed |
    | `nni_by_hand/` | the same of `growclip nni`; `records/` has its trials' records |
    """

    path: Path

    @property
    def format(self) -> Path:
        """The folder's format, the version that made it, and the run's id."""
        return self.path / "format.json"

    @property
    def config(self) -> Path:
        """The experiment as resolved."""
        return self.path / "config.yaml"

    @property
    def trials(self) -> Path:
        """Every scored trial."""
        return self.path / "trials.jsonl"

    @property
    def stages(self) -> Path:
        """Every finished stage."""
        return self.path / "stages.jsonl"

    @property
    def timings(self) -> Path:
        """How long each part took."""
        return self.path / "timings.jsonl"

    @property
    def lines(self) -> tuple[Path, Path, Path]:
        """The files of JSON lines; a finished stage's own line comes last."""
        return self.trials, self.timings, self.stages

    @property
    def data_folder(self) -> Path:
        """Where the data lay when the run was last worked on."""
        return self.path / "data_folder.txt"

    @property
    def parent(self) -> Path:
        """The checkpoint that the run started from."""
        return self.path / "parent"

    @property
    def database(self) -> Path:
        """Optuna's studies in SQLite."""
        return self.path / "study.db"

    @property
    def journal(self) -> Path:
        """Optuna's studies in a journal."""
        return self.path / "study.journal"

    @property
    def search_lock(self) -> Path:
        """Held while tables are made and while a trial is taken from the queue."""
        return self.path / "study.lock"

    @property
    def artifacts(self) -> Path:
        """Pictures that optuna-dashboard shows."""
        return self.path / "artifacts"

    @property
    def report(self) -> Path:
        """Tables, figures and the page."""
        return self.path / "report"

    def stage(self, index: int) -> "StageFolder":
        """A stage's folder."""
        return StageFolder(self.path / f"stage_{index:02d}")


@dataclass(frozen=True)
class StageFolder:
    """A stage's folder in a run folder, see ``RunFolder``; a model's folder too once it is done."""

    path: Path

    @property
    def manifest(self) -> Path:
        """The data that the stage was trained on."""
        return self.path / "manifest.json"

    @property
    def outcomes(self) -> Path:
        """Which test items the model got right."""
        return self.path / "outcomes.npz"

    @property
    def search_space(self) -> Path:
        """The stage's growth space, as NNI takes it."""
        return self.path / "search_space.json"

    @property
    def candidates(self) -> Path:
        """What was expected of all candidates before any was tried."""
        return self.path / "candidates.csv"

    @property
    def state(self) -> Path:
        """What a finished stage's training leaves to the next growth."""
        return self.path / "state.safetensors"

    @property
    def training(self) -> Path:
        """The training state while the stage is under way."""
        return self.path / "training.safetensors"

    @property
    def stopped(self) -> Path:
        """Why the stage's training failed."""
        return self.path / "stopped.json"

    @property
    def trials(self) -> "TrialsFolder":
        """The trials' own files."""
        return TrialsFolder(self.path / "trials")

    @property
    def nni(self) -> Path:
        """An NNI experiment's files."""
        return self.path / "nni"

    @property
    def nni_by_hand(self) -> Path:
        """The files of an NNI experiment that ``growclip nni`` runs."""
        return self.path / "nni_by_hand"

    @property
    def nni_records(self) -> Path:
        """The records of that experiment's trials."""
        return self.nni_by_hand / "records"

    @property
    def nni_proposals(self) -> Path:
        """What NNI's tuner proposed."""
        return self.nni / "proposed.json"


@dataclass(frozen=True)
class TrialsFolder:
    """Where a stage's trials keep their records and states, by their candidates' labels."""

    path: Path

    def record(self, label: str) -> Path:
        """A trial's record, not scored, where all workers find it."""
        return self.path / f"{_file_name(label)}.json"

    def lock(self, label: str) -> Path:
        """Held while the candidate is tried."""
        return self.path / f"{_file_name(label)}.lock"

    def state(self, label: str) -> Path:
        """A trial's training state."""
        return self.path / f"{_file_name(label)}.safetensors"


def _file_name(label: str) -> str:
    if len(label) <= MAX_NAME:
        return label
    return f"{label[:MAX_NAME]}-{sha256(label.encode()).hexdigest()[:16]}"


def write_format(run: Path) -> None:
    """Note a new run folder's format, the version that made it, and an id of its own."""
    made = {"format": FORMAT, "written_by": own_version(), "id": secrets.token_hex(3)}
    write_atomically(RunFolder(run).format, (json.dumps(made) + "\n").encode())


def run_name(run: Path) -> str:
    """A run's name where several are kept together: its folder's, with the id that it got."""
    return "-".join(filter(None, (run.resolve().name, _read_format(RunFolder(run)).id)))


def stage_folders(run: Path) -> list[StageFolder]:
    """Those that are there."""
    return [StageFolder(path) for path in sorted(run.glob("stage_*"))]


def run_folders(path: Path) -> list[Path]:
    """A run folder itself, or all run folders in a folder, as those of a comparison.

    Raises:
        ValueError: If there is none.
    """
    if RunFolder(path).config.is_file():
        return [path]
    found = sorted(file.parent for file in path.rglob(RunFolder(path).config.name))
    if not found:
        raise ValueError(f"{path}: must be a run folder or hold some, but there is none in it.")
    return found


def find_config(run: Path) -> Path:
    """Where a run folder keeps the experiment that it was made with.

    Raises:
        ValueError: If it is no run folder, or one of another format.
    """
    folder = RunFolder(run)
    if not folder.config.is_file():
        raise ValueError(
            f"{run}: not a run folder: it has no {folder.config.name}. Give the --out of "
            "`growclip run`."
        )
    noted = _read_format(folder)
    if noted.format != FORMAT:
        raise ValueError(
            f"{run}: a run folder must have format {FORMAT} for this version, but has format "
            f"{noted.format}, written by nas_growclip {noted.written_by}. Use that version, or "
            "start from its model: set parent to a stage's folder and choose another --out."
        )
    return folder.config


@dataclass(frozen=True, kw_only=True)
class _Format:
    format: int
    written_by: str
    id: str = ""


def _read_format(folder: RunFolder) -> _Format:
    if not folder.format.is_file():
        return _Format(format=1, written_by="0.1.0")
    return from_mapping(_Format, read_mapping(folder.format), str(folder.format))


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a part of a stage took, and on which device."""

    stage: int
    what: str
    """``training``, with the measuring after it, or ``trial`` and its number."""
    seconds: float
    device: str = ""
    """As in ``cpu, 2 threads`` or a GPU's name; folders of before 0.2.0 do not say."""


def append_timing(folder: Path, timing: Timing) -> None:
    """Note how long something took; times are kept apart, since they never repeat."""
    rounded = replace(timing, seconds=round(timing.seconds, 3))
    append_line(RunFolder(folder).timings, json.dumps(to_mapping(rounded)))


def read_timings(run: Path) -> tuple[Timing, ...]:
    """How long a run's parts took, in the order in which they ended; some may repeat.

    Raises:
        ValueError: If a line is damaged.
    """
    return tuple(from_mapping(Timing, d, w) for d, w in read_lines(RunFolder(run).timings))


def written_by(run: Path) -> str:
    """The version that made a run folder.

    Raises:
        ValueError: If its note is damaged.
    """
    return _read_format(RunFolder(run)).written_by


def note_data_folder(run: Path, folder: Path) -> None:
    """Note where a run's data lies, for whoever resumes it."""
    write_atomically(RunFolder(run).data_folder, f"{folder.resolve()}\n".encode())


def noted_data_folder(run: Path) -> Path | None:
    """Where a run's data lay when it was last worked on; None if that was not noted."""
    path = RunFolder(run).data_folder
    return Path(path.read_text(encoding="utf-8").rstrip("\n")) if path.is_file() else None


def write_outcomes(stage: StageFolder, outcomes: Mapping[str, NDArray[np.bool_]]) -> None:
    """Write which test items a stage's model got right; the same outcomes give the same bytes."""
    write_arrays(stage.outcomes, outcomes)


def read_outcomes(stage: StageFolder) -> dict[str, NDArray[np.bool_]]:
    """Which test items a stage's model got right, by metric; the items are in stored order.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    path = stage.outcomes
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: must hold a stage's outcomes, but: {error}.") from None


def read_trials(run: Path) -> tuple[Trial, ...]:
    """Every recorded trial of a run, in order."""
    return tuple(from_mapping(Trial, d, w) for d, w in read_lines(RunFolder(run).trials))


def read_stages(run: Path) -> tuple[StageResult, ...]:
    """Every finished stage of a run, in order."""
    return tuple(from_mapping(StageResult, d, w) for d, w in read_lines(RunFolder(run).stages))


def stage_lines(path: Path, num_stages: int) -> list[str]:
    """A record file's lines of the first stages, as they stand there.

    Raises:
        ValueError: If a line is damaged.
    """
    kept = []
    for line, (data, where) in zip(whole_lines(path), read_lines(path), strict=True):
        stage = data.get("stage") if isinstance(data, Mapping) else None
        if not isinstance(stage, int):
            raise ValueError(f"{where}: must be a record with its stage. Restore the file.")
        if stage < num_stages:
            kept.append(f"{line}\n")
    return kept
