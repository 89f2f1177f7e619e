"""Training that diverges: a trial fails, a stage goes back, a run goes on with another rate."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import nas_growclip.experiment.stage as stage_module
import nas_growclip.experiment.trial as trial_module
import nas_growclip.training.loop as train_module
from nas_growclip.data.batches import PairBatch
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import run_experiment
from nas_growclip.experiment.stage import StageFailedError
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import MAX_LOGIT_SCALE, Clip
from nas_growclip.records.folder import STOPPED_FILE, TRAINING_FILE, read_stages
from nas_growclip.records.frames import Run
from nas_growclip.report.terminal import print_summary
from nas_growclip.search.config import SearchConfig
from nas_growclip.training.checkpoint import load_state, save_state
from nas_growclip.training.loop import DivergedError, train
from nas_growclip.training.state import TrainConfig, TrainState, start_training
from tests.support.dying import die_after, ending, forked
from tests.support.runs import ROOT, records_of, smoke_config

TOO_HIGH = 1.0e15
"""A rate at which the first step ends in nan."""
HIGH = 300.0
"""A rate that a short warm-up hides from the trials; a quarter of it can be trained with."""


def small(learning_rate: float, **train_keys: object) -> ExperimentConfig:
    """One stage of 16 steps; trials of two."""
    config = smoke_config(
        data=replace(smoke_config().data, stages=(128,), zero_shot=()),
        search=SearchConfig(backend="exhaustive", num_trials=2, trial_share=0.15, curve_points=2),
    )
    keys = {"learning_rate": learning_rate, "warmup_steps": 8, "checkpoint_steps": 3} | train_keys
    return replace(config, train=replace(config.train, **keys))


# One training.


def batches(model: Clip) -> Iterator[PairBatch]:
    captions = tuple(f"picture number {i}" for i in range(6))
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    while True:
        yield PairBatch(images, model.tokenize(list(captions)), captions)


def poison_gradient(parameter: torch.nn.Parameter, value: float, *, at: int) -> None:
    """Make one gradient of a parameter bad; the loss of that step stays what it is."""
    steps = 0

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return torch.full_like(gradient, value) if steps == at else gradient

    parameter.register_hook(poison)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["logit_scale", "image.projection.weight"])
def test_a_bad_gradient_is_seen_before_its_step_is_saved(
    name: str, value: float, tiny_arch: ClipArch, tmp_path: Path
) -> None:
    """The step's own loss was finite; what lies on the disk is the step before."""
    config = TrainConfig(batch_size=6, warmup_steps=1, checkpoint_steps=1)
    state = start_training(Clip(tiny_arch), config)
    poison_gradient(state.model.get_parameter(name), value, at=3)
    path = tmp_path / "state.safetensors"
    with pytest.raises(DivergedError, match=r"Weights and moments must stay finite.* at step 3"):
        train(
            state,
            batches(state.model),
            config,
            total_steps=9,
            until_step=9,
            after_step=lambda state: save_state(state, path),
        )
    assert load_state(path, config, torch.device("cpu")).step == 2
    assert all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_an_exploding_logit_scale_is_held(tiny_arch: ClipArch) -> None:
    config = TrainConfig(batch_size=6, warmup_steps=0, learning_rate=50.0, checkpoint_steps=1)
    state = start_training(Clip(tiny_arch), config)
    for parameter in state.model.parameters():
        parameter.requires_grad_(parameter is state.model.logit_scale)
    for step in range(1, 4):
        poison_gradient(state.model.logit_scale, -1e30, at=step)
    train(state, batches(state.model), config, total_steps=3, until_step=3)
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


def poison_batches(monkeypatch: pytest.MonkeyPatch, *, where: Callable[[TrainState], bool]) -> None:
    """Put a pixel that is not a number into the first batch of some trainings."""
    original = trial_module.sharded_batches

    def poisoned(config: ExperimentConfig, data: object, state: TrainState) -> object:
        is_bad = where(state)
        for step, batch in enumerate(original(config, data, state), start=state.step):  # type: ignore[arg-type]
            if is_bad and step == 0:
                batch.images[0, 0, 0, 0] = math.nan
            yield batch

    monkeypatch.setattr(trial_module, "sharded_batches", poisoned)


@pytest.mark.slow
def test_a_poisoned_candidate_fails_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_batches(monkeypatch, where=lambda state: state.model.arch.image.width == 64)
    config = small(1e-3)
    config = replace(config, search=replace(config.search, num_trials=3, backend="optuna"))
    run = run_experiment(config, tmp_path / "run", with_report=False)
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
def test_a_trial_that_the_allocator_has_no_room_for_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's CPU allocator raises a plain RuntimeError."""
    original = trial_module.grow_training

    def growing(parent: object, arch: ClipArch, *rest: object) -> object:
        if arch.image.width == 64:
            torch.empty(1 << 60, dtype=torch.uint8)
        return original(parent, arch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(trial_module, "grow_training", growing)
    run = run_experiment(small(1e-3), tmp_path / "run", with_report=False)
    assert [trial.state for trial in run.trials] == ["complete", "failed"]
    assert "allocate memory" in run.trials[1].message


def test_other_errors_of_the_runtime_are_not_taken_for_want_of_memory() -> None:
    assert trial_module.is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not trial_module.is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not trial_module.is_out_of_memory(ValueError("out of memory"))


@pytest.mark.slow
def test_where_every_trial_fails_the_parent_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Forty halvings make a rate of it that trains."""
    run = run_experiment(small(1e9, divergence_retries=40), tmp_path / "run")
    assert [(trial.state, trial.score) for trial in run.trials] == [("failed", None)] * 2
    assert all("The loss must stay finite, but is nan" in trial.message for trial in run.trials)
    (stage,) = run.stages
    assert stage.chosen == ()
    assert stage.arch == stage.parent
    assert 10 < len(stage.rollbacks) < 40
    assert stage.curve[0][0] == 0
    assert all(math.isfinite(loss) for _, loss in stage.curve)
    said = "no growth: the parent is kept, since 2 of 2 trials failed, the control among them"
    assert stage.reason.startswith(said)
    assert f"stage 0: chose {said}" in capsys.readouterr().err
    assert said in (run.path / "report" / "index.html").read_text()


# A stage's training.


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that diverges twice: the state it goes back to first is finite, but no good."""
    return run_experiment(small(HIGH), tmp_path_factory.mktemp("rolled_back") / "run")


@pytest.mark.slow
def test_a_stage_goes_back_with_half_the_rate_and_says_so(
    rolled_back: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [trial.state for trial in rolled_back.trials] == ["complete", "complete"]
    (stage,) = rolled_back.stages
    assert [(s.step, s.back_to, s.learning_rate) for s in stage.rollbacks] == [
        (7, 6, HIGH),
        (7, 1, HIGH),
    ]
    assert all(math.isfinite(loss) for _, loss in stage.curve)
    steps = stage.pairs_seen // 32 + 1 + 6
    assert stage.train_flops == 3 * stage.flops * 32 * steps
    words = "diverged at step 7 and went back to step 6"
    assert words in (rolled_back.path / "report" / "index.html").read_text()
    print_summary(rolled_back)
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("_roll_back", 1),
        ("_roll_back", 2),
        ("load_state", 1),  # diverged, the rollback not written down
        ("load_state", 3),
        ("train_through", 1),
    ],
)
def test_a_kill_while_it_goes_back_changes_nothing(
    what: str, call: int, rolled_back: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def run() -> None:
        monkeypatch.setattr(stage_module, what, die_after(call, getattr(stage_module, what)))
        run_experiment(small(HIGH), out, with_report=False)

    assert ending(forked(run)) == -9
    assert read_stages(out) == ()
    run_experiment(small(HIGH), out, with_report=False)
    assert records_of(out) == records_of(rolled_back.path)


@pytest.mark.slow
def test_a_stage_that_keeps_diverging_ends_and_goes_on_with_another_rate(tmp_path: Path) -> None:
    out = tmp_path / "run"
    bad = small(TOO_HIGH, divergence_retries=2)
    for _ in range(2):  # the same command again ends the same way
        with pytest.raises(StageFailedError, match=r"did 3 times, the last time at 0\.25 of train"):
            run_experiment(bad, out, with_report=False)
        reason = json.loads((out / "stage_00" / STOPPED_FILE).read_text())["reason"]
        assert "must not diverge" in reason
    good = small(1e-3, divergence_retries=2)
    with pytest.raises(ValueError, match="holds another experiment: it differs in passes"):
        run_experiment(replace(bad, passes=5.0), out)
    with pytest.raises(ValueError, match="holds another experiment: it differs in train"):
        run_experiment(replace(good, train=replace(good.train, batch_size=16)), out)
    run = run_experiment(good, out, with_report=False)
    assert [rollback.learning_rate for rollback in run.stages[0].rollbacks] == [TOO_HIGH] * 2
    assert yaml.safe_load((out / "config.yaml").read_text())["train"]["learning_rate"] == 1e-3
    assert not (out / "stage_00" / STOPPED_FILE).exists()
    with pytest.raises(ValueError, match="holds another experiment: it differs in train"):
        run_experiment(bad, out)


@pytest.mark.slow
def test_a_stage_that_does_not_fit_memory_goes_on_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    with monkeypatch.context() as patched:
        patched.setattr(stage_module, "train_through", no_room)
        with pytest.raises(StageFailedError, match=r"must fit memory, but did not at step 2.*micr"):
            run_experiment(small(1e-3), tmp_path / "run", with_report=False)
    run = run_experiment(small(1e-3, micro_batch_size=16), tmp_path / "run", with_report=False)
    assert len(run.stages) == 1


@pytest.mark.slow
def test_a_poisoned_batch_ends_after_its_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rate helps; the last saved state stays finite."""
    original = trial_module.sharded_batches

    def poisoned(config: ExperimentConfig, data: object, state: TrainState) -> object:
        for step, batch in enumerate(original(config, data, state), start=state.step):  # type: ignore[arg-type]
            if step == 10:
                batch.images[0, 0, 0, 0] = math.nan
            yield batch

    monkeypatch.setattr(trial_module, "sharded_batches", poisoned)
    with pytest.raises(StageFailedError, match=r"did 4 times.*is nan at step 11"):
        run_experiment(small(1e-3), tmp_path / "run", with_report=False)
    held = load_file(tmp_path / "run" / "stage_00" / TRAINING_FILE)
    assert all(tensor.isfinite().all() for tensor in held.values())


# Several processes.


@pytest.mark.slow
def test_two_processes_go_back_together(tmp_path: Path) -> None:
    """How often depends on rounding: at such a rate it grows from step to step."""
    experiment, out = tmp_path / "high.yaml", tmp_path / "two"
    experiment.write_text(small(HIGH, divergence_retries=20).to_yaml())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "nas_growclip", "run", str(experiment), "--out", str(out)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    (stage,) = read_stages(out)
    assert (stage.rollbacks[0].step, stage.rollbacks[0].back_to) == (7, 6)
    assert all(math.isfinite(loss) for _, loss in stage.curve)
