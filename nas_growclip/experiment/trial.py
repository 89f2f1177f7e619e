"""One trial: a candidate grown from the stage's parent, trained briefly and measured.

A trial is the beginning of its candidate's stage training, so the chosen one's trained state is
continued and nothing of it is thrown away. Its record and its training state are files that are
named after the candidate, in a folder that all workers of the stage share: what is recorded is
not trained again, and what was interrupted resumes.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

from nas_growclip.data.batches import training_batches
from nas_growclip.experiment.stage_context import StageContext
from nas_growclip.experiment.stage_training import (
    TrainingFile,
    finite_loss,
    is_out_of_memory,
    never_stop,
    train_through,
    training_encoder,
    validation_loss,
)
from nas_growclip.experiment.trial_records import read_record, write_record
from nas_growclip.growth.candidates import Candidate
from nas_growclip.growth.inputs import GrowthInputs, ImagesAndTokens
from nas_growclip.io.files import locked, make_folder
from nas_growclip.io.memory import release_freed
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops, count_params
from nas_growclip.records.entries import Trial
from nas_growclip.search.loop import Report
from nas_growclip.training.checkpoint import load_state
from nas_growclip.training.events import Event
from nas_growclip.training.grow_state import grow_training
from nas_growclip.training.loop import DivergedError
from nas_growclip.training.state import TrainState


def measure_candidate(
    stage: StageContext, number: int, candidate: Candidate, report: Report = never_stop
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
    make_folder(stage.trials.path)
    with locked(stage.trials.lock(candidate.label)):
        known = read_record(stage, candidate)
        if known is not None:
            return replace(known, number=number)
        started = time.monotonic()
        trial = run_trial(stage, number, candidate, report)
        release_freed()
        write_record(stage, trial)
        stage.note_time(f"trial {number}", time.monotonic() - started)
        return trial


def run_trial(stage: StageContext, number: int, candidate: Candidate, report: Report) -> Trial:
    """Grow one candidate, train it briefly, measure it; a failure is recorded as such."""
    trial = planned_trial(stage, number, candidate)
    arch, steps = trial.arch, stage.plan.trial_steps(trial.arch)
    try:
        stage.observe(Event(moment="trial_begins"), f"trial of {trial.label}")
        state = trained_trial(stage, candidate, report)
    except (DivergedError, MemoryError, RuntimeError) as error:
        if not isinstance(error, DivergedError) and not is_out_of_memory(error):
            raise
        failed = replace(trial, state="failed", message=f"{type(error).__name__}: {error}")
        if stage.group.size > 1 and not isinstance(error, DivergedError):
            write_record(stage, failed)
            raise  # the others still wait for its gradients; the next start finds the record
        return failed
    trial = replace(trial, metrics={"loss": state.curve[-1][1]}, curve=tuple(state.curve))
    if state.step < steps:
        spent = stage.plan.train_flops(arch, state.step)
        message = f"stopped after {state.step} of {steps} steps"
        return replace(trial, state="pruned", train_flops=spent, message=message)
    return trial


def planned_trial(stage: StageContext, number: int, candidate: Candidate) -> Trial:
    """A trial's record before it is tried, as if it were to run to its end."""
    arch = candidate.apply(stage.parent_model.arch)
    return Trial(
        stage=stage.index,
        number=number,
        candidate=candidate,
        arch=arch,
        flops=count_flops(arch),
        params=count_params(arch),
        state="complete",
        train_flops=stage.plan.train_flops(arch, stage.plan.trial_steps(arch)),
        stage_pairs=stage.plan.stage_steps(arch) * stage.config.train.batch_size,
    )


def trained_trial(stage: StageContext, candidate: Candidate, report: Report) -> TrainState:
    """The candidate's training state at the end of its trial, from disk as far as it got."""
    label = candidate.label
    state = trial_state(stage, candidate)
    points = stage.plan.trial_points(state.model.arch)
    stops = [report(point, loss) for point, (_, loss) in enumerate(state.curve) if point]
    if any(stops):
        return state
    return train_through(
        stage, state, points, TrainingFile(stage.trials.state(label), f"trial of {label}"), report
    )


def trial_state(stage: StageContext, candidate: Candidate) -> TrainState:
    """The candidate's last saved training state; where there is none, it is grown.

    Raises:
        DivergedError: If its loss is not finite before any training.
    """
    path = stage.trials.state(candidate.label)
    if path.exists():
        return load_state(path, stage.config.train, stage.parent_model.logit_scale.device)
    arch = candidate.apply(stage.parent_model.arch)
    momentum = candidate.momentum
    growth = stage.config.growth
    if momentum is not None:
        growth = replace(growth, momentum=momentum)
    inputs = growth_inputs(stage)
    state = grow_training(
        stage.parent_state, arch, growth, stage.config.train, stage.plan.seed, inputs
    )
    state.curve.append((0, finite_loss(stage, state)))
    return state


def growth_inputs(stage: StageContext) -> GrowthInputs:
    """What growing may look at: the validation loss, and the stage's batches."""

    def batches(child: Clip) -> Iterator[ImagesAndTokens]:
        encoder, seed = training_encoder(stage.config, child), stage.plan.seed
        batch_size = stage.config.train.batch_size
        for batch in training_batches(stage.data.train, encoder, batch_size, seed=seed):
            yield batch.images, batch.tokens

    return GrowthInputs(
        validation_loss=lambda model: validation_loss(stage, model), batches=batches
    )
