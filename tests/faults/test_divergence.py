"""Training that diverges: a trial fails, a stage rolls back, a run resumes with another rate.

Nothing here provokes a divergence by a high rate, which would hang on the processor's rounding:
gradients and batches are made bad at a named step.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import nas_growclip.training.loop as train_module
from nas_growclip.data.encoding import PairBatch
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.follower import follow
from nas_growclip.experiment.run import run_experiment, run_stages
from nas_growclip.experiment.stage import StageFailedError
from nas_growclip.experiment.stage_training import is_out_of_memory
from nas_growclip.growth.candidates import NO_GROWTH
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import MAX_LOGIT_SCALE, Clip
from nas_growclip.records.folder import RunFolder, read_stages
from nas_growclip.records.frames import Run
from nas_growclip.report.terminal import print_summary
from nas_growclip.search.config import SearchConfig
from nas_growclip.training.checkpoint import load_state, save_state
from nas_growclip.training.events import Event, Moment, Observer, at
from nas_growclip.training.loop import DivergedError, train
from nas_growclip.training.process_group import join_group
from nas_growclip.training.state import TrainConfig, TrainState, start_training
from tests.support.faults import (
    Condition,
    both,
    die_at,
    fail_at,
    in_step,
    poison_batch,
    poison_gradient,
    times,
    use_up_memory,
)
from tests.support.processes import ending, forked, in_two_processes
from tests.support.runs import records_of, smoke_config

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 1e-3


def small(learning_rate: float = RATE, **train_keys: object) -> ExperimentConfig:
    """One stage of 16 steps; trials of two."""
    config = smoke_config(
        data=replace(smoke_config().data, stages=(128,), zero_shot=()),
        search=SearchConfig(backend="exhaustive", num_trials=2, trial_share=0.15, curve_points=2),
    )
    keys = {"learning_rate": learning_rate, "warmup_steps": 8, "checkpoint_steps": 3} | train_keys
    return replace(config, train=replace(config.train, **keys))


def rolled_back_less_than(count: int, condition: Condition) -> Condition:
    """Holds until the training has rolled back so often: the same after a restart."""

    def holds(event: Event) -> bool:
        return event.state is not None and len(event.state.rollbacks) < count and condition(event)

    return holds


# One training.


def batches(model: Clip) -> Iterator[PairBatch]:
    captions = tuple(f"picture number {i}" for i in range(6))
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    while True:
        yield PairBatch(images, model.tokenize(list(captions)), captions)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["logit_scale", "image.projection.weight"])
def test_a_bad_gradient_is_seen_before_its_step_is_saved(
    name: str, value: float, tiny_arch: ClipArch, tmp_path: Path
) -> None:
    """The step's own loss was finite; what lies on the disk is the step before."""
    config = TrainConfig(batch_size=6, warmup_steps=1, checkpoint_steps=1)
    state = start_training(Clip(tiny_arch), config)
    path = tmp_path / "state.safetensors"
    save = at("step", lambda event: save_state(state, path))
    with pytest.raises(DivergedError, match=r"Weights and moments must stay finite.* at step 3"):
        train(
            state,
            batches(state.model),
            config,
            total_steps=9,
            until_step=9,
            observer=both(save, poison_gradient(name, value, in_step(3))),
        )
    assert load_state(path, config, torch.device("cpu")).step == 2
    assert all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_an_exploding_logit_scale_is_clamped(tiny_arch: ClipArch) -> None:
    config = TrainConfig(batch_size=6, warmup_steps=0, learning_rate=50.0, checkpoint_steps=1)
    state = start_training(Clip(tiny_arch), config)
    for parameter in state.model.parameters():
        parameter.requires_grad_(parameter is state.model.logit_scale)
    explode = poison_gradient("logit_scale", -1e30)
    train(state, batches(state.model), config, total_steps=3, until_step=3, observer=explode)
    assert state.model.logit_scale.item() == pytest.approx(MAX_LOGIT_SCALE)


def test_steps_between_two_looks_do_not_wait_for_the_device(
    tiny_arch: ClipArch, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def look(state: TrainState, loss: torch.Tensor) -> None:
        looked.append(state.step)

    monkeypatch.setattr(train_module, "_check_finite", look)
    config = TrainConfig(batch_size=6, checkpoint_steps=30)
    state = start_training(Clip(tiny_arch), config)
    train(state, batches(state.model), config, total_steps=50, until_step=45)
    assert looked == [20, 30, 40, 45]


# Trials.


@pytest.mark.slow
def test_a_poisoned_candidate_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    config = small()
    config = replace(config, search=replace(config.search, num_trials=3, backend="optuna"))
    poison = poison_batch(in_step(1, "trial of image.width=64"))
    run = run_stages(config, tmp_path / "run", observer=poison)
    states = {trial.label: trial.state for trial in run.trials}
    assert states == {"none": "complete", "image.width=64": "failed"} | {
        label: "complete" for label in states if label not in ("none", "image.width=64")
    }
    assert len(states) == 3
    failed = next(trial for trial in run.trials if trial.state == "failed")
    assert failed.message.startswith("DivergedError: The loss must stay finite, but is nan at ste")
    assert run.stages[0].chosen != failed.candidate
    assert run.stages[0].rollbacks == ()


@pytest.mark.slow
def test_a_trial_that_the_allocator_has_no_room_for_fails(tmp_path: Path) -> None:
    """PyTorch's CPU allocator raises a plain RuntimeError."""
    full = fail_at("trial_begins", use_up_memory, lambda event: "image.width=64" in event.where)
    run = run_stages(small(), tmp_path / "run", observer=full)
    assert [trial.state for trial in run.trials] == ["complete", "failed"]
    assert "allocate memory" in run.trials[1].message


def test_other_errors_of_the_runtime_are_not_taken_for_want_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.slow
def test_where_every_trial_fails_the_parent_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(divergence_retries=12)
    in_stage = rolled_back_less_than(11, in_step(1, "training"))
    poison = both(poison_batch(in_step(1, "trial of")), poison_batch(in_stage))
    run = run_experiment(config, tmp_path / "run", observer=poison)
    assert [(trial.state, trial.score) for trial in run.trials] == [("failed", None)] * 2
    assert all("The loss must stay finite, but is nan" in trial.message for trial in run.trials)
    (stage,) = run.stages
    assert stage.chosen == NO_GROWTH
    assert stage.arch == stage.parent
    assert len(stage.rollbacks) == 11
    assert stage.curve[0][0] == 0
    assert all(math.isfinite(loss) for _, loss in stage.curve)
    said = "no growth: the parent is kept, since 2 of 2 trials failed, the control among them"
    assert stage.reason.startswith(said)
    assert f"stage 0: chose {said}" in capsys.readouterr().err
    assert said in (run.path / "report" / "index.html").read_text()


# A stage's training.

TWICE = rolled_back_less_than(2, in_step(7, "training"))


def diverging_twice() -> Observer:
    """Diverge at step 7; the state that it rolls back to first is finite, but no good."""
    return poison_gradient("image.projection.weight", math.nan, TWICE)


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that diverges twice."""
    out = tmp_path_factory.mktemp("rolled_back") / "run"
    return run_experiment(small(), out, observer=diverging_twice())


@pytest.mark.slow
def test_a_stage_rolls_back_with_half_the_rate_and_says_so(
    rolled_back: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [trial.state for trial in rolled_back.trials] == ["complete", "complete"]
    (stage,) = rolled_back.stages
    trial = rolled_back.trials[stage.chosen_trial].curve[-1][0] // 32
    assert [(s.step, s.back_to, s.learning_rate) for s in stage.rollbacks] == [
        (7, 6, RATE),
        (7, trial, RATE),
    ]
    assert all(math.isfinite(loss) for _, loss in stage.curve)
    steps = stage.pairs_seen // 32 + (7 - 6) + (7 - trial)
    assert stage.train_flops == 3 * stage.flops * 32 * steps
    words = "diverged at step 7 and went back to step 6"
    assert words in (rolled_back.path / "report" / "index.html").read_text()
    print_summary(rolled_back)
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "call"),
    [
        ("diverged", 1),  # the rollback not written down
        ("rolled_back", 1),
        ("diverged", 2),
        ("rolled_back", 2),
        ("step", 12),  # after it has recovered
    ],
)
def test_a_kill_while_it_rolls_back_changes_nothing(
    moment: Moment, call: int, rolled_back: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    die = die_at(moment, call, lambda event: "training" in event.where)

    def run() -> None:
        run_stages(small(), out, observer=both(diverging_twice(), die))

    assert ending(forked(run)) == -9
    assert read_stages(out) == ()
    run_stages(small(), out, observer=diverging_twice())
    assert records_of(out) == records_of(rolled_back.path)


@pytest.mark.slow
def test_a_stage_that_keeps_diverging_ends_and_resumes_with_another_rate(tmp_path: Path) -> None:
    out = tmp_path / "run"
    bad = small(divergence_retries=2)
    always = poison_batch(in_step(1))
    stopped = RunFolder(out).stage(0).stopped
    for _ in range(2):  # the same command again ends the same way
        with pytest.raises(StageFailedError, match=r"did 3 times, the last time at 0\.25 of train"):
            run_stages(bad, out, observer=always)
        assert "must not diverge" in json.loads(stopped.read_text())["reason"]
    good = small(5e-4, divergence_retries=2)
    with pytest.raises(ValueError, match=r"it differs in passes \(\S+ there, 5\.0 here\)"):
        run_experiment(replace(bad, passes=5.0), out)
    other = replace(good, train=replace(good.train, batch_size=16))
    with pytest.raises(ValueError, match=r"it differs in train\.batch_size \(32 there, 16 here\)"):
        run_experiment(other, out)
    run = run_stages(good, out)
    assert [rollback.learning_rate for rollback in run.stages[0].rollbacks] == [RATE] * 2
    assert yaml.safe_load((out / "config.yaml").read_text())["train"]["learning_rate"] == 5e-4
    assert not stopped.exists()
    with pytest.raises(ValueError, match=r"it differs in train\.learning_rate"):
        run_experiment(bad, out)


@pytest.mark.slow
def test_a_stage_that_does_not_fit_memory_resumes_in_parts(tmp_path: Path) -> None:
    full = fail_at("batch", use_up_memory, in_step(3, "training"))
    with pytest.raises(StageFailedError, match=r"must fit memory, but did not at step 2.*micr"):
        run_stages(small(), tmp_path / "run", observer=full)
    run = run_stages(small(micro_batch_size=16), tmp_path / "run")
    assert len(run.stages) == 1


@pytest.mark.slow
def test_a_poisoned_batch_ends_after_its_retries(tmp_path: Path) -> None:
    """No rate helps; the last saved state stays finite."""
    with pytest.raises(StageFailedError, match=r"did 4 times.*is nan at step 11"):
        run_stages(small(), tmp_path / "run", observer=poison_batch(in_step(11)))
    saved = load_file(RunFolder(tmp_path / "run").stage(0).training)
    assert all(tensor.isfinite().all() for tensor in saved.values())


# Several processes.


@pytest.mark.slow
def test_two_processes_roll_back_together(tmp_path: Path) -> None:
    """A bad gradient on one of them is seen by both at the same step."""
    config, out = small(), tmp_path / "two"

    def work() -> None:
        group = join_group("cpu")
        if not group.is_leader:
            follow(config, None, group)
            return
        poison = poison_gradient("logit_scale", math.nan, times(1, in_step(7, "training")))
        run_stages(config, out, device=group.device, observer=poison)
        group.leave()

    codes = in_two_processes(work, tmp_path)
    assert codes == [0, 0], (tmp_path / "0.log").read_text()
    (stage,) = read_stages(out)
    assert [(s.step, s.back_to) for s in stage.rollbacks] == [(7, 6)]
    assert all(math.isfinite(loss) for _, loss in stage.curve)
