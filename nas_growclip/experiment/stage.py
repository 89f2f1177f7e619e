"""One growth stage, as a straight line: search, choose, continue the winner, measure.

All state is in the run folder; calling again resumes.
"""

import logging
import time
from collections.abc import Sequence

from nas_growclip.data.stages import skipped_counts
from nas_growclip.evaluation.metrics import Outcomes, evaluate
from nas_growclip.experiment.search_stage import choose_trial, describe_choice, run_search
from nas_growclip.experiment.stage_context import StageContext
from nas_growclip.experiment.stage_training import (
    TrainingFile,
    is_out_of_memory,
    train_through,
)
from nas_growclip.experiment.trial import trial_state
from nas_growclip.models.clip import Clip, placed
from nas_growclip.models.flops import flops_by_encoder
from nas_growclip.records.entries import Measure, Rollback, StageResult, Trial, search_flops
from nas_growclip.records.folder import write_outcomes
from nas_growclip.training.checkpoint import load_state, save_state
from nas_growclip.training.events import Event
from nas_growclip.training.loop import LR_DECAY, DivergedError, count_rollbacks
from nas_growclip.training.state import TrainState

_log = logging.getLogger(__name__)


def run_stage(stage: StageContext) -> tuple[Clip, StageResult]:
    """Search, choose, train on, measure.

    Returns:
        The stage's model and its record.

    Raises:
        StageFailedError: If its training diverges too often or does not fit memory.
        ValueError: If the run folder was tampered with.
    """
    trials = run_search(stage)
    best, reason = choose_trial(stage, trials)
    _log.info(f"stage {stage.index}: chose {reason}")
    stage.observe(Event(moment="chosen"))
    describe_choice(stage, trials, best, reason)
    started = time.monotonic()
    state = continue_training(stage, best)
    with placed(state.model, stage.group.device):
        result = measure_stage(stage, state, trials, best, reason)
    describe_choice(stage, trials, best, reason, result)
    stage.note_time("training", time.monotonic() - started)
    return state.model, result


def continue_training(stage: StageContext, best: Trial) -> TrainState:
    """Train the chosen trial on to the end of the stage's budget.

    Where it diverges it goes back to the last saved state with half the rate, as often as
    ``train.divergence_retries`` says; rollbacks are saved before it resumes.

    Raises:
        StageFailedError: If it diverges once more, or does not fit memory.
    """
    while True:
        state = _last_state(stage, best)
        diverged = _try_training(stage, best, state)
        if diverged is None:
            return state
        del state  # room for the one that it rolls back to
        stage.observe(Event(moment="diverged"), "training")
        _roll_back(stage, best, diverged)


def _last_state(stage: StageContext, best: Trial) -> TrainState:
    """The stage's last saved state, which is its trial's at first."""
    path = stage.files.training
    if path.exists():
        return load_state(path, stage.config.train, stage.parent_model.logit_scale.device)
    try:
        return trial_state(stage, best.candidate)
    except DivergedError as error:
        raise StageFailedError(
            f"Stage {stage.index} must begin with a finite loss, but: {error}"
        ) from None


def _try_training(stage: StageContext, best: Trial, state: TrainState) -> DivergedError | None:
    """Train to the end; what is raised where the training diverges is returned.

    The trunk that the next stage goes on from is saved where this stage's model branches off it.
    """
    file = TrainingFile(stage.files.training, "training")
    trunk = stage.plan.trunk_steps(best.arch)

    def branch_off(*reached: float) -> bool:
        if state.step == trunk:
            save_state(state, stage.files.state)
            stage.observe(Event(moment="trunk_saved", state=state), "training")
        return False

    try:
        branch_off()  # where its trial ended, or a run was interrupted
        train_through(stage, state, stage.plan.stage_points(best.arch), file, branch_off)
    except DivergedError as error:
        return error.with_traceback(None)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error) or stage.group.size > 1:
            raise
        raise StageFailedError(
            f"Stage {stage.index} must fit memory, but did not at step {state.step}: {error} "
            "Free memory or set train.micro_batch_size; then the same command resumes."
        ) from None
    return None


def _roll_back(stage: StageContext, best: Trial, diverged: DivergedError) -> None:
    """Note a rollback in the last saved state, which halves the rate from there on.

    Where that state was gone back to already it is finite but no good: then to the trial's end.
    """
    config, index = stage.config.train, stage.index
    state = _last_state(stage, best)
    num_rollbacks = count_rollbacks(state.rollbacks, config)
    if num_rollbacks >= config.divergence_retries:
        raise StageFailedError(
            f"The training of stage {index} must not diverge, but did {num_rollbacks + 1} times, "
            f"the last time at {LR_DECAY**num_rollbacks:g} of train.learning_rate: {diverged} Then "
            f"the same command resumes from step {state.step}."
        )
    rollbacks = state.rollbacks
    if rollbacks and rollbacks[-1].back_to == state.step:
        state = trial_state(stage, best.candidate)
    rollback = Rollback(
        step=diverged.step,
        back_to=state.step,
        learning_rate=config.learning_rate,
        reason=str(diverged),
    )
    state.rollbacks = (*rollbacks, rollback)
    save_state(state, stage.files.training)
    stage.observe(Event(moment="rolled_back", state=state), "training")
    _log.warning(
        f"stage {index}, training: {rollback} It resumes with "
        f"{LR_DECAY ** (num_rollbacks + 1):g} of the learning rate; "
        f"retries left: {config.divergence_retries - num_rollbacks - 1}."
    )


def measure_by_stage(stage: StageContext, model: Clip) -> dict[str, Measure]:
    """Loss and recall on held-out pairs of each stage's new data so far, under ``stage_K/...``."""
    metrics: dict[str, Measure] = {}
    for index, pairs in enumerate(stage.data.test_by_stage):
        size = stage.config.train.batch_size
        measures = evaluate(model, pairs, (), ("loss", "retrieval"), size)
        metrics |= {f"stage_{index}/{name}": measure for name, measure in measures.items()}
    return metrics


def measure_stage(
    stage: StageContext, state: TrainState, trials: Sequence[Trial], best: Trial, reason: str
) -> StageResult:
    """The stage's record: what was chosen, what it cost, how good it is."""
    config, model, data = stage.config, state.model, stage.data
    batch_size = config.train.batch_size
    before = stage.history[-1].cumulative_flops if stage.history else 0
    searched = search_flops(trials, best)
    repeated = sum(rollback.step - rollback.back_to for rollback in state.rollbacks)
    train_flops = stage.plan.train_flops(best.arch, state.step + repeated)
    validation = evaluate(model, data.validation, (), ("loss", "retrieval"), batch_size)
    outcomes: Outcomes = {}
    metrics = evaluate(model, data.test, data.zero_shot, config.metrics, batch_size, outcomes)
    write_outcomes(stage.files, outcomes)
    return StageResult(
        stage=data.index,
        num_pairs=data.num_pairs,
        skipped=skipped_counts(data),
        parent=stage.parent_model.arch,
        arch=best.arch,
        chosen=best.candidate,
        chosen_trial=best.number,
        reason=reason,
        flops=best.flops,
        flops_by_encoder=flops_by_encoder(best.arch),
        params=best.params,
        metrics={**metrics, **measure_by_stage(stage, model)},
        validation=validation,
        curve=tuple(state.curve),
        pairs_seen=state.step * batch_size,
        search_flops=searched,
        train_flops=train_flops,
        cumulative_flops=before + searched + train_flops,
        rollbacks=state.rollbacks,
    )


class StageFailedError(ValueError):
    """A stage has nothing to go on with: what all else is compared with failed."""
