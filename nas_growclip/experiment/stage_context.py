"""What a stage works with beside its plan: its folder, its parent, its data and its processes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from nas_growclip.data.stages import DataStage
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.stage_plan import StagePlan
from nas_growclip.models.clip import Clip
from nas_growclip.records.entries import StageResult
from nas_growclip.records.folder import (
    RunFolder,
    StageFolder,
    Timing,
    TrialsFolder,
    append_timing,
)
from nas_growclip.training.events import Event, Observer, no_observer
from nas_growclip.training.grow_state import ParentState
from nas_growclip.training.process_group import ProcessGroup, current_group


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """One stage of a run, ready to be searched and trained."""

    config: ExperimentConfig
    plan: StagePlan
    data: DataStage
    parent_state: ParentState
    """The parent, with what its training left behind."""
    history: Sequence[StageResult]
    """Results of the stages before."""
    run: Path
    """The run folder."""
    data_folder: Path | None = None
    """Where the data's relative paths start."""
    own_trials: Path | None = None
    """Where the trials' records, states and timings go in place of the run folder."""
    group: ProcessGroup = field(default_factory=current_group)
    """The processes that train each model together."""
    observer: Observer = no_observer

    @property
    def index(self) -> int:
        """The stage's number."""
        return self.plan.index

    @property
    def parent_model(self) -> Clip:
        """The parent's model."""
        return self.parent_state.model

    @property
    def files(self) -> StageFolder:
        """The stage's own files."""
        return RunFolder(self.run).stage(self.index)

    @property
    def trials(self) -> TrialsFolder:
        """Where the trials' records and states are."""
        return TrialsFolder(self.own_trials) if self.own_trials else self.files.trials

    @property
    def timings(self) -> Path:
        """The folder that times are noted in."""
        return self.own_trials or self.run

    def note_time(self, what: str, seconds: float) -> None:
        """Note how long a part of the stage took, and on which device."""
        device = device_words(self.parent_model.logit_scale.device, self.group.size)
        timing = Timing(stage=self.index, what=what, seconds=seconds, device=device)
        append_timing(self.timings, timing)

    def observe(self, event: Event, where: str = "") -> None:
        """Tell the observer, with the stage's number before what was under way."""
        place = f"stage {self.index}, {where}" if where else f"stage {self.index}"
        self.observer(replace(event, where=place))


def device_words(device: torch.device, num_processes: int = 1) -> str:
    """A device as people call it, and how many of them train together."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    else:
        name = str(device)
    return f"{num_processes} x {name}" if num_processes > 1 else name
