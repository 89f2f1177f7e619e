"""One growth stage, as a straight line: search, choose, go on with the winner, measure.

Trial 0 is the control: no growth, same budget. Every trial is the beginning of its candidate's
stage training, so the chosen one's trained state is continued and nothing of it is thrown away.
All state is in the run folder; calling again goes on where it was.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nas_growclip.arch import ClipArch
from nas_growclip.checkpoint import load_state, save_state
from nas_growclip.config import ExperimentConfig
from nas_growclip.data.pairs import PairBatch, PairEncoder, epoch_seed, training_batches
from nas_growclip.data.stages import DataStage, skipped_counts
from nas_growclip.evaluation.embeddings import embed_pairs
from nas_growclip.evaluation.metrics import contrastive_loss, evaluate
from nas_growclip.growing import Parent, grow_training
from nas_growclip.growth.inherit import Evidence
from nas_growclip.growth.space import Candidate, apply_steps, candidate_label, candidate_momentum
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops, count_params, flops_by_encoder
from nas_growclip.progress import say, track
from nas_growclip.records import (
    TRAIN_FLOPS_PER_FORWARD,
    TRIALS_FILE,
    StageResult,
    Trial,
    append_line,
    append_timing,
    read_trials,
    to_line,
)
from nas_growclip.search.backends import BACKENDS, StageSearch
from nas_growclip.search.loop import search
from nas_growclip.search.objective import OBJECTIVES, DataSize, choose_growth, explain
from nas_growclip.train import DivergedError, TrainState, train

STUDY_FILE = "study.db"
TRAINING_FILE = "training.safetensors"
"""A stage's training state while it is under way."""
STAGE_CURVE_POINTS = 12


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

    @property
    def parent(self) -> Clip:
        """The parent's model."""
        return self.trained.model

    @property
    def folder(self) -> Path:
        """The stage's own folder."""
        return stage_folder(self.run, self.data.index)

    @property
    def seed(self) -> int:
        """The stage's seed: for its fresh weights, its batches and its search."""
        return epoch_seed(self.config.seed, self.data.index)

    @property
    def budget(self) -> float:
        """Training FLOPs of the stage, the continued trial included."""
        forward = count_flops(self.parent.arch)
        return TRAIN_FLOPS_PER_FORWARD * forward * self.config.passes * self.data.num_pairs

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


def stage_folder(run: Path, index: int) -> Path:
    """Where a stage keeps its files."""
    return run / f"stage_{index:02d}"


def run_stage(stage: StageRun) -> tuple[Clip, StageResult]:
    """Search, choose, train on, measure.

    Returns:
        The stage's model and its record.

    Raises:
        ValueError: If no trial completes, or the run folder was tampered with.
    """
    trials = run_search(stage)
    best = choose_growth(trials)
    reason = explain(best, trials)
    say(f"stage {stage.data.index}: chose {reason}")
    started = time.monotonic()
    state = continue_training(stage, best)
    result = measure_stage(stage, state, trials, best, reason)
    append_timing(stage.run, stage.data.index, "training", time.monotonic() - started)
    return state.model, result


def run_search(stage: StageRun) -> tuple[Trial, ...]:
    """Every trial of the stage, control first; trials recorded earlier are not run again."""
    config, index = stage.config.search, stage.data.index
    backend = BACKENDS[config.backend](
        StageSearch(
            candidates=stage.config.space.candidates(stage.parent.arch, stage.data.num_pairs),
            seed=stage.seed,
            stage=index,
            num_pairs=stage.data.num_pairs,
            sampler=config.sampler,
            storage=stage.run / STUDY_FILE,
        )
    )
    recorded = [trial for trial in read_trials(stage.run) if trial.stage == index]

    def measure(number: int, candidate: Candidate) -> Trial:
        trial = scored_trial(stage, recorded, run_trial(stage, number, candidate))
        recorded.append(trial)
        append_line(stage.run / TRIALS_FILE, to_line(trial))
        keep_best_state(stage, recorded)
        score = f"score {trial.score:+.4g}" if trial.score is not None else trial.message
        say(f"stage {index}, trial {number}: {trial.label}: {score}")
        return trial

    return search(backend, measure, num_trials=config.num_trials, recorded=tuple(recorded))


def run_trial(stage: StageRun, number: int, candidate: Candidate) -> Trial:
    """Grow one candidate, train it briefly, measure it; a failure is recorded as such."""
    arch = apply_steps(stage.parent.arch, candidate)
    steps = stage.trial_steps(arch)
    trial = Trial(
        stage=stage.data.index,
        number=number,
        candidate=candidate,
        arch=arch,
        flops=count_flops(arch),
        params=count_params(arch),
        state="complete",
        train_flops=stage.train_flops(arch, steps),
        stage_pairs=stage.stage_steps(arch) * stage.config.train.batch_size,
    )
    started = time.monotonic()
    try:
        state = trained_trial(stage, number, candidate, steps)
    except (DivergedError, torch.OutOfMemoryError, MemoryError) as error:
        return replace(trial, state="failed", message=f"{type(error).__name__}: {error}")
    append_timing(stage.run, stage.data.index, f"trial {number}", time.monotonic() - started)
    return replace(trial, metrics={"loss": state.curve[-1][1]}, curve=tuple(state.curve))


def trained_trial(stage: StageRun, number: int, candidate: Candidate, steps: int) -> TrainState:
    """The candidate's training state at the end of its trial, from disk as far as it got."""
    path = trial_path(stage, number)
    if path.exists():
        state = load_state(path, stage.config.train, stage.parent.logit_scale.device)
    else:
        arch = apply_steps(stage.parent.arch, candidate)
        momentum = candidate_momentum(candidate)
        growth = stage.config.growth
        if momentum is not None:
            growth = replace(growth, momentum=momentum)
        state = grow_training(
            stage.trained, arch, growth, stage.config.train, stage.seed, evidence(stage)
        )
        state.curve.append((0, validation_loss(stage, state.model)))
    label = f"stage {stage.data.index}, trial {number} ({candidate_label(candidate)})"
    points = curve_steps(0, steps, stage.config.search.curve_points)
    return train_to(stage, state, steps, points, path, label)


def evidence(stage: StageRun) -> Evidence:
    """What growing may look at: the validation loss, and the stage's batches."""

    def batches(child: Clip) -> Iterator[PairBatch]:
        encoder = PairEncoder(child.arch.image.image_shape, child.tokenize)
        batch_size = stage.config.train.batch_size
        return training_batches(stage.data.train, encoder, batch_size, seed=stage.seed)

    return Evidence(validation_loss=lambda model: validation_loss(stage, model), batches=batches)


def continue_training(stage: StageRun, best: Trial) -> TrainState:
    """Train the chosen trial on to the end of the stage's budget."""
    path = stage.folder / TRAINING_FILE
    source = path if path.exists() else trial_path(stage, best.number)
    state = load_state(source, stage.config.train, stage.parent.logit_scale.device)
    steps = stage.stage_steps(best.arch)
    points = curve_steps(stage.trial_steps(best.arch), steps, STAGE_CURVE_POINTS)
    return train_to(stage, state, steps, points, path, f"stage {stage.data.index}, training")


def train_to(
    stage: StageRun,
    state: TrainState,
    until_step: int,
    points: set[int],
    path: Path,
    label: str,
) -> TrainState:
    """Train up to a step; measure at ``points``; save now and then, and at the end."""
    config, model = stage.config.train, state.model
    encoder = PairEncoder(model.arch.image.image_shape, model.tokenize)
    batches = training_batches(
        stage.data.train, encoder, config.batch_size, seed=stage.seed, start=state.step
    )

    def after_step(state: TrainState) -> None:
        if state.step in points:
            state.curve.append(
                (state.step * config.batch_size, validation_loss(stage, state.model))
            )
        if state.step % config.checkpoint_steps == 0 or state.step == until_step:
            save_state(state, path)

    if state.step < until_step:
        shown = track(batches, total=until_step - state.step, label=label)
        train(
            state,
            shown,
            config,
            total_steps=stage.stage_steps(model.arch),
            until_step=until_step,
            after_step=after_step,
        )
        shown.close()
    return state


def measure_stage(
    stage: StageRun, state: TrainState, trials: Sequence[Trial], best: Trial, reason: str
) -> StageResult:
    """The stage's record: what was chosen, what it cost, how good it is."""
    config, model, data = stage.config, state.model, stage.data
    batch_size = config.train.batch_size
    before = stage.history[-1].cumulative_flops if stage.history else 0
    search_flops = sum(t.train_flops for t in trials if t.number != best.number)
    train_flops = stage.train_flops(best.arch, state.step)
    validation = evaluate(model, data.validation, (), ("loss", "retrieval"), batch_size)
    return StageResult(
        stage=data.index,
        num_pairs=data.num_pairs,
        skipped=skipped_counts(data),
        parent=stage.parent.arch,
        arch=best.arch,
        chosen=best.candidate,
        chosen_trial=best.number,
        reason=reason,
        flops=best.flops,
        flops_by_encoder=flops_by_encoder(best.arch),
        params=best.params,
        metrics=evaluate(model, data.test, data.zero_shot, config.metrics, batch_size),
        validation=validation,
        curve=tuple(state.curve),
        pairs_seen=state.step * batch_size,
        search_flops=search_flops,
        train_flops=train_flops,
        cumulative_flops=before + search_flops + train_flops,
    )


def scored_trial(stage: StageRun, earlier: Sequence[Trial], trial: Trial) -> Trial:
    """The trial with its score against the control, which is the first trial.

    Raises:
        ValueError: If the control itself failed: then nothing can be compared.
    """
    control = earlier[0] if earlier else trial
    if control.state == "failed":
        raise ValueError(
            f"The control trial of stage {stage.data.index} must complete, but failed: "
            f"{control.message}"
        )
    if trial.state == "failed":
        return trial
    objective = OBJECTIVES[stage.config.objective.name]
    score = objective(trial, control, stage.data_size, stage.config.objective)
    return replace(trial, score=score.value, terms=score.terms)


def keep_best_state(stage: StageRun, trials: Sequence[Trial]) -> None:
    """Delete the training states of all trials but the best one so far."""
    best = choose_growth(trials)
    for trial in trials:
        if trial.number != best.number:
            trial_path(stage, trial.number).unlink(missing_ok=True)


def trial_path(stage: StageRun, number: int) -> Path:
    """A trial's training state."""
    return stage.folder / "trials" / f"{number:03d}.safetensors"


def validation_loss(stage: StageRun, model: Clip) -> float:
    """Contrastive loss on ``validation``, in batches of the training size."""
    batch_size = stage.config.train.batch_size
    embedded = embed_pairs(model, stage.data.validation, batch_size)
    return contrastive_loss(embedded, batch_size)["loss"]


def curve_steps(start: int, end: int, count: int) -> set[int]:
    """Evenly spaced steps after ``start``, the last one being ``end``."""
    return {start + (end - start) * point // count for point in range(1, count + 1)} - {start}
