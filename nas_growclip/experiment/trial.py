"""One trial: a candidate grown from the stage's parent, trained briefly and measured.

A trial is the beginning of its candidate's stage training, so the chosen one's trained state is
continued and nothing of it is thrown away. Its record and its training state are files that are
named after the candidate, in a folder that all workers of the stage share: what is recorded is
not trained again, and what was interrupted goes on.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch

from nas_growclip.data.batches import BatchOrder, load_batches
from nas_growclip.data.pairs import (
    FirstPairs,
    ImageTextPairs,
    PairBatch,
    PairEncoder,
    epoch_seed,
    training_batches,
)
from nas_growclip.data.stages import DataStage
from nas_growclip.evaluation.embeddings import embed_pairs
from nas_growclip.evaluation.metrics import contrastive_loss
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.growth.inherit import Evidence
from nas_growclip.growth.space import (
    Candidate,
    GrowthStep,
    apply_steps,
    candidate_label,
    candidate_momentum,
)
from nas_growclip.io.files import locked, make_folder, write_atomically
from nas_growclip.io.mappings import from_mapping, read_mapping
from nas_growclip.io.progress import track
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip, placed, tokenized
from nas_growclip.models.flops import count_flops, count_params
from nas_growclip.records.entries import (
    TRAIN_FLOPS_PER_FORWARD,
    StageResult,
    Trial,
    append_timing,
    read_trials,
    to_line,
)
from nas_growclip.search.loop import Report
from nas_growclip.search.objective import OBJECTIVES, DataSize, Objective, ObjectiveConfig
from nas_growclip.search.refit import finished_stages, refit
from nas_growclip.search.trigger import TRIGGERS, Decision, Situation
from nas_growclip.training.checkpoint import load_state, pack_state, save_state
from nas_growclip.training.grow_state import Parent, grow_training
from nas_growclip.training.loop import DivergedError, TrainState, check_loss, train
from nas_growclip.training.sharding import gather, share_out
from nas_growclip.training.team import Team, current_team

NO_ROOM = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
"""In the messages of a RuntimeError for want of memory: of the CPU's allocator, CUDA, cuBLAS."""
MAX_NAME = 120
"""Characters of a candidate's label in a file's name; longer ones are hashed."""


class StageFailedError(ValueError):
    """A stage has nothing to go on with: what all else is compared with failed."""


def never_stop(point: int, loss: float) -> bool:
    """A trial that runs to its end."""
    return False


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
    data_folder: Path | None = None
    """Where the data's relative paths start."""
    trials: Path | None = None
    """Where the trials' records and states are; in the stage's folder if not given."""
    team: Team = field(default_factory=current_team)
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
        situation = Situation(
            num_pairs=self.data.num_pairs,
            earlier_pairs=self.history[-1].num_pairs if self.history else None,
            measure_losses=lambda: parent_losses(self),
        )
        return TRIGGERS[self.config.trigger.name](situation, self.config.trigger)

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
        if not self.trigger.is_search:
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


def stage_folder(run: Path, index: int) -> Path:
    """Where a stage keeps its files."""
    return run / f"stage_{index:02d}"


def measure_candidate(
    stage: StageRun, number: int, candidate: Candidate, report: Report = never_stop
) -> Trial:
    """Grow one candidate, train it briefly, measure it, and write down its record.

    Two processes never train the same candidate: the second waits, and gets the first's record.

    Args:
        stage: The stage.
        number: The trial's number in the stage.
        candidate: What to grow.
        report: Called with (point, loss) at each point of the learning curve, from 1 on; the
            trial ends early where it returns True.

    Returns:
        The record, not scored; failures are recorded as such.
    """
    make_folder(stage.trials_folder)
    with locked(record_path(stage, candidate).with_suffix(".lock")):
        held = held_record(stage, candidate)
        if held is not None:
            return replace(held, number=number)
        started = time.monotonic()
        trial = run_trial(stage, number, candidate, report)
        write_record(stage, trial)
        seconds = time.monotonic() - started
        append_timing(stage.trials or stage.run, stage.data.index, f"trial {number}", seconds)
        return trial


def write_record(stage: StageRun, trial: Trial) -> None:
    """Write a trial's record, not scored, where all workers find it."""
    write_atomically(record_path(stage, trial.candidate), (to_line(trial) + "\n").encode())


def held_record(stage: StageRun, candidate: Candidate) -> Trial | None:
    """A candidate's record in the trials folder, not scored."""
    path = record_path(stage, candidate)
    if not path.is_file():
        return None
    return from_mapping(Trial, read_mapping(path), str(path))


def run_trial(stage: StageRun, number: int, candidate: Candidate, report: Report) -> Trial:
    """Grow one candidate, train it briefly, measure it; a failure is recorded as such."""
    trial = planned_trial(stage, number, candidate)
    arch, steps = trial.arch, stage.trial_steps(trial.arch)
    try:
        state = trained_trial(stage, candidate, steps, report)
    except (DivergedError, MemoryError, RuntimeError) as error:
        if not isinstance(error, DivergedError) and not is_out_of_memory(error):
            raise
        failed = replace(trial, state="failed", message=f"{type(error).__name__}: {error}")
        if stage.team.size > 1 and not isinstance(error, DivergedError):
            write_record(stage, failed)
            raise  # the others still wait for its gradients; the next start finds the record
        return failed
    trial = replace(trial, metrics={"loss": state.curve[-1][1]}, curve=tuple(state.curve))
    if state.step < steps:
        spent = stage.train_flops(arch, state.step)
        message = f"stopped after {state.step} of {steps} steps"
        return replace(trial, state="pruned", train_flops=spent, message=message)
    return trial


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no room: PyTorch's CPU allocator has no type for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and any(part in words for part in NO_ROOM)


def planned_trial(stage: StageRun, number: int, candidate: Candidate) -> Trial:
    """A trial's record before it is tried, as if it were to run to its end."""
    arch = apply_steps(stage.parent.arch, candidate)
    return Trial(
        stage=stage.data.index,
        number=number,
        candidate=candidate,
        arch=arch,
        flops=count_flops(arch),
        params=count_params(arch),
        state="complete",
        train_flops=stage.train_flops(arch, stage.trial_steps(arch)),
        stage_pairs=stage.stage_steps(arch) * stage.config.train.batch_size,
    )


def trained_trial(stage: StageRun, candidate: Candidate, steps: int, report: Report) -> TrainState:
    """The candidate's training state at the end of its trial, from disk as far as it got."""
    path = trial_path(stage, candidate)
    state = trial_state(stage, candidate)
    label = f"stage {stage.data.index}, trial of {candidate_label(candidate)}"
    points = curve_steps(0, steps, stage.config.search.curve_points)
    stops = [report(point, loss) for point, (_, loss) in enumerate(state.curve) if point]
    if any(stops):
        return state
    return train_through(stage, state, points, TrainingFile(path, label), report)


def trial_state(stage: StageRun, candidate: Candidate) -> TrainState:
    """The candidate's last saved training state; where there is none, it is grown.

    Raises:
        DivergedError: If its loss is not finite before any training.
    """
    path = trial_path(stage, candidate)
    if path.exists():
        return load_state(path, stage.config.train, stage.parent.logit_scale.device)
    arch = apply_steps(stage.parent.arch, candidate)
    momentum = candidate_momentum(candidate)
    growth = stage.config.growth
    if momentum is not None:
        growth = replace(growth, momentum=momentum)
    state = grow_training(
        stage.trained, arch, growth, stage.config.train, stage.seed, evidence(stage)
    )
    state.curve.append((0, finite_loss(stage, state)))
    return state


def evidence(stage: StageRun) -> Evidence:
    """What growing may look at: the validation loss, and the stage's batches."""

    def batches(child: Clip) -> Iterator[PairBatch]:
        encoder = training_encoder(stage.config, child)
        batch_size = stage.config.train.batch_size
        return training_batches(stage.data.train, encoder, batch_size, seed=stage.seed)

    return Evidence(validation_loss=lambda model: validation_loss(stage, model), batches=batches)


def training_encoder(config: ExperimentConfig, model: Clip) -> PairEncoder:
    """How training pairs become a model's batches."""
    tokenize = partial(tokenized, context_length=model.arch.text.context_length)
    return PairEncoder(model.arch.image.image_shape, tokenize, config.data.augment)


class TrainingFile(NamedTuple):
    """Where a training's state is saved, and its name in the progress bar."""

    path: Path
    label: str


def train_through(
    stage: StageRun,
    state: TrainState,
    points: Sequence[int],
    file: TrainingFile,
    report: Report = never_stop,
) -> TrainState:
    """Train through steps in rising order, measuring at each; save now and then and at the end.

    Ends early where ``report`` says so.

    Raises:
        DivergedError: If a loss or the state is not finite; what is saved always is.
    """
    points = [point for point in points if point > state.step]
    if not points:
        return state
    state.team = stage.team
    start_followers(stage, state)
    config = stage.config.train
    shares = share_out(state, config)
    batches = shared_batches(stage.config, stage.data, shares)
    total_steps = stage.stage_steps(state.model.arch)
    with closing(track(batches, total=points[-1] - state.step, label=file.label)) as tracked:
        for step in _stops(state.step, points, config.checkpoint_steps):
            stage.team.tell({"total_steps": total_steps, "until_step": step})
            train(shares, tracked, config, total_steps=total_steps, until_step=step)
            gather(shares, state)
            ends = step == points[-1]
            if step in points:
                loss = finite_loss(stage, state)
                state.curve.append((step * config.batch_size, loss))
                ends = report(len(state.curve) - 1, loss) or ends
            if ends or step % config.checkpoint_steps == 0:
                save_state(state, file.path)
            if ends:
                break
    return state


def _stops(start: int, points: Sequence[int], checkpoint_steps: int) -> list[int]:
    """The steps after ``start`` at which training stops to be measured or saved."""
    checkpoints = range(0, points[-1], checkpoint_steps)
    return sorted(step for step in {*points, *checkpoints} if step > start)


def shared_batches(
    config: ExperimentConfig, data: DataStage, state: TrainState
) -> Generator[PairBatch]:
    """This process's share of a stage's batches, from a training state's step on."""
    batch_size, seed = config.train.batch_size, stage_seed(config, data)
    return load_batches(
        data.train,
        training_encoder(config, state.model),
        BatchOrder(batch_size, seed, start=state.step, share=state.team.share),
        config.data.workers,
        pin_memory=state.model.logit_scale.device.type == "cuda",
    )


def start_followers(stage: StageRun, state: TrainState) -> None:
    """Give the other processes of the team a copy of a training state to train on."""
    if stage.team.size > 1:
        tensors, metadata = pack_state(state)
        stage.team.tell({"stage": stage.data.index, "metadata": metadata})
        stage.team.send(tensors)


def record_path(stage: StageRun, candidate: Candidate) -> Path:
    """A trial's record, not scored, where all workers find it."""
    return stage.trials_folder / f"{_file_name(candidate)}.json"


def trial_path(stage: StageRun, candidate: Candidate) -> Path:
    """A trial's training state."""
    return stage.trials_folder / f"{_file_name(candidate)}.safetensors"


def _file_name(candidate: Candidate) -> str:
    label = candidate_label(candidate)
    if len(label) <= MAX_NAME:
        return label
    return f"{label[:MAX_NAME]}-{sha256(label.encode()).hexdigest()[:16]}"


def validation_loss(stage: StageRun, model: Clip) -> float:
    """Contrastive loss on ``validation``, in batches of the training size."""
    return loss_on(stage, model, stage.data.validation)


def finite_loss(stage: StageRun, state: TrainState) -> float:
    """A training state's loss on ``validation``.

    Raises:
        DivergedError: If it is not finite. Only the leader measures; others are not in a step then.
    """
    loss = validation_loss(stage, state.model)
    check_loss(loss, state.step)
    return loss


def parent_losses(stage: StageRun) -> tuple[float, float]:
    """The parent's loss on ``validation`` and on as many of its oldest training pairs."""
    validation = stage.data.validation
    seen = FirstPairs(stage.data.train, validation.num_pairs)
    return loss_on(stage, stage.parent, validation), loss_on(stage, stage.parent, seen)


def loss_on(stage: StageRun, model: Clip, pairs: ImageTextPairs) -> float:
    """Contrastive loss on some pairs, in batches of the training size."""
    batch_size = stage.config.train.batch_size
    with placed(model, stage.team.device):
        return contrastive_loss(embed_pairs(model, pairs, batch_size), batch_size)["loss"]


def curve_steps(start: int, end: int, count: int) -> tuple[int, ...]:
    """Evenly spaced steps after ``start`` in rising order, the last one being ``end``."""
    steps = {start + (end - start) * point // count for point in range(1, count + 1)}
    return tuple(sorted(steps - {start}))
