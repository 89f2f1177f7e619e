"""One growth stage, as a straight line: search, choose, go on with the winner, measure.

All state is in the run folder; calling again goes on where it was.
"""

import time
from collections.abc import Sequence

from nas_growclip.checkpoint import load_state
from nas_growclip.data.stages import skipped_counts
from nas_growclip.evaluation.metrics import Outcomes, evaluate
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import flops_by_encoder
from nas_growclip.progress import say
from nas_growclip.records import (
    StageResult,
    Trial,
    append_timing,
    write_outcomes,
)
from nas_growclip.search.objective import explain
from nas_growclip.searching import describe_choice, run_search
from nas_growclip.strict import to_mapping
from nas_growclip.train import TrainState
from nas_growclip.trial import StageRun, TrainingFile, curve_steps, train_through, trial_path

TRAINING_FILE = "training.safetensors"
"""A stage's training state while it is under way."""
STAGE_CURVE_POINTS = 12


def run_stage(stage: StageRun) -> tuple[Clip, StageResult]:
    """Search, choose, train on, measure.

    Returns:
        The stage's model and its record.

    Raises:
        ValueError: If no trial completes, or the run folder was tampered with.
    """
    trials = run_search(stage)
    best = stage.objective.choose(trials)
    if stage.scheduled_sizes is not None:
        reason = f"{', '.join(map(str, best.candidate)) or 'no growth'}, as scheduled."
    else:
        reason = f"{explain(best, trials)} Searched because {stage.trigger.reason}."
    say(f"stage {stage.data.index}: chose {reason}")
    describe_choice(stage, trials, best, reason)
    started = time.monotonic()
    state = continue_training(stage, best)
    result = measure_stage(stage, state, trials, best, reason)
    describe_choice(stage, trials, best, reason, result)
    append_timing(stage.run, stage.data.index, "training", time.monotonic() - started)
    return state.model, result


def continue_training(stage: StageRun, best: Trial) -> TrainState:
    """Train the chosen trial on to the end of the stage's budget."""
    path = stage.folder / TRAINING_FILE
    source = path if path.exists() else trial_path(stage, best.candidate)
    state = load_state(source, stage.config.train, stage.parent.logit_scale.device)
    steps = stage.stage_steps(best.arch)
    points = curve_steps(stage.trial_steps(best.arch), steps, STAGE_CURVE_POINTS)
    label = f"stage {stage.data.index}, training"
    return train_through(stage, state, points, TrainingFile(path, label))


def measure_by_stage(stage: StageRun, model: Clip) -> dict[str, float]:
    """Loss and recall on held-out pairs of each stage's new data so far, under ``stage_K/...``."""
    metrics: dict[str, float] = {}
    for index, pairs in enumerate(stage.data.test_by_stage):
        size = stage.config.train.batch_size
        for name, value in evaluate(model, pairs, (), ("loss", "retrieval"), size).items():
            is_chance = name.startswith("chance.")
            base = name.removeprefix("chance.")
            metrics[f"{'chance.' if is_chance else ''}stage_{index}/{base}"] = value
    return metrics


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
    outcomes: Outcomes = {}
    metrics = evaluate(model, data.test, data.zero_shot, config.metrics, batch_size, outcomes)
    write_outcomes(stage.folder, outcomes)
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
        metrics={**metrics, **measure_by_stage(stage, model)},
        validation=validation,
        curve=tuple(state.curve),
        pairs_seen=state.step * batch_size,
        search_flops=search_flops,
        train_flops=train_flops,
        cumulative_flops=before + search_flops + train_flops,
        coefficients={
            name: value
            for name, value in to_mapping(stage.coefficients).items()
            if isinstance(value, int | float)
        },
    )
