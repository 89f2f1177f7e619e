"""What one stage works with and what follows from it before anything is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nas_growclip.data.batches import epoch_seed
from nas_growclip.data.stages import DataStage
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.growth.candidates import Candidate, GrowthStep
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops
from nas_growclip.records.entries import TRAIN_FLOPS_PER_FORWARD, StageResult
from nas_growclip.records.folder import read_trials, stage_folder
from nas_growclip.search.objective import OBJECTIVES, DataSize, Objective, ObjectiveConfig
from nas_growclip.search.refit import finished_stages, refit
from nas_growclip.search.trigger import TRIGGERS, Decision, TriggerInput
from nas_growclip.training.grow_state import Parent
from nas_growclip.training.process_group import ProcessGroup, current_group


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """Everything that one stage works with."""

    config: ExperimentConfig
    data: DataStage
    trained: Parent
    """The parent, with what its training left behind."""
    history: Sequence[StageResult]
    """Results of the stages before."""
    run: Path
    """The run folder."""
    measure_losses: Callable[["StageRun"], tuple[float, float]]
    """Gives the parent's loss on ``validation`` and on as many of its oldest training pairs."""
    data_folder: Path | None = None
    """Where the data's relative paths start."""
    trials: Path | None = None
    """Where the trials' records and states are; in the stage's folder if not given."""
    group: ProcessGroup = field(default_factory=current_group)
    """The processes that train each model together."""

    @property
    def parent(self) -> Clip:
        """The parent's model."""
        return self.trained.model

    @property
    def folder(self) -> Path:
        """The stage's own folder."""
        return stage_folder(self.run, self.data.index)

    @property
    def trials_folder(self) -> Path:
        """Where the trials' records and states are."""
        return self.trials or self.folder / "trials"

    @cached_property
    def trigger(self) -> Decision:
        """Whether the stage is searched, and why."""
        given = TriggerInput(
            num_pairs=self.data.num_pairs,
            earlier_pairs=self.history[-1].num_pairs if self.history else None,
            measure_losses=lambda: self.measure_losses(self),
        )
        return TRIGGERS[self.config.trigger.name](given, self.config.trigger)

    @property
    def objective(self) -> Objective:
        """What scores the trials and chooses among them."""
        return OBJECTIVES[self.config.objective.name]

    @cached_property
    def coefficients(self) -> ObjectiveConfig:
        """The objective's coefficients, refitted from the stages before."""
        return refit(self.config.objective, finished_stages(read_trials(self.run), self.history))

    @property
    def seed(self) -> int:
        """The stage's seed: for its fresh weights, its batches and its search."""
        return stage_seed(self.config, self.data)

    @property
    def scheduled_sizes(self) -> Mapping[str, int] | None:
        """Sizes that the stage grows to in place of a search; None where it is searched."""
        schedule = self.config.schedule
        return schedule[self.data.index] if self.data.index < len(schedule) else None

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """What the stage may choose from, no growth first; only that where there is no search.

        A schedule leaves one choice, its own.

        Raises:
            ValueError: If the schedule shrinks the parent.
        """
        if self.scheduled_sizes is not None:
            return (scheduled(self.parent.arch, self.scheduled_sizes),)
        if not self.trigger.should_search:
            return ((),)
        return self.config.space.candidates(self.parent.arch, self.data.num_pairs)

    @property
    def budget(self) -> float:
        """Training FLOPs of the stage's model, the continued trial included.

        By ``passes`` trials that are not continued cost extra; of ``stage_flops`` they take their
        part, whether they are pruned or not, so that the stage ends within it.
        """
        given = self.config.stage_flops[self.data.index] if self.config.stage_flops else None
        if given is None:
            forward = count_flops(self.parent.arch)
            return TRAIN_FLOPS_PER_FORWARD * forward * self.config.passes * self.data.num_pairs
        search = self.config.search
        others = min(search.num_trials, len(self.candidates)) - 1
        return given / (1 + others * search.trial_share)

    @property
    def data_size(self) -> DataSize:
        """The data's size now and at the run's start."""
        first_pairs = self.history[0].num_pairs if self.history else self.data.num_pairs
        first_arch = self.history[0].parent if self.history else self.parent.arch
        return DataSize(self.data.num_pairs, first_pairs, count_flops(first_arch))

    def train_flops(self, arch: ClipArch, steps: int) -> int:
        """Training FLOPs of so many steps."""
        pairs = steps * self.config.train.batch_size
        return TRAIN_FLOPS_PER_FORWARD * count_flops(arch) * pairs

    def stage_steps(self, arch: ClipArch) -> int:
        """Steps that the stage's budget buys an architecture."""
        return max(1, int(self.budget / self.train_flops(arch, 1)))

    def trial_steps(self, arch: ClipArch) -> int:
        """Steps of a trial: the same share of the budget for every architecture."""
        return max(1, round(self.config.search.trial_share * self.stage_steps(arch)))


def stage_seed(config: ExperimentConfig, data: DataStage) -> int:
    """The seed of a stage of an experiment."""
    return epoch_seed(config.seed, data.index)


def scheduled(parent: ClipArch, sizes: Mapping[str, int]) -> Candidate:
    """The steps from a parent to scheduled sizes; sizes that it has already are no steps."""
    return tuple(
        GrowthStep(dimension=dimension, old=parent.size(dimension), new=size)
        for dimension, size in sizes.items()
        if size != parent.size(dimension)
    )


def curve_steps(start: int, end: int, count: int) -> tuple[int, ...]:
    """Evenly spaced steps after ``start`` in rising order, the last one being ``end``."""
    steps = {start + (end - start) * point // count for point in range(1, count + 1)}
    return tuple(sorted(steps - {start}))
