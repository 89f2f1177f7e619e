"""Whole runs: repeatable, complete, resumable after a kill at any point, safe from mix-ups."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.experiment.config import ExperimentConfig, load_config
from nas_growclip.experiment.run import is_complete, run_experiment, run_stages
from nas_growclip.experiment.stage_setup import open_stage
from nas_growclip.experiment.trial import measure_candidate
from nas_growclip.growth.candidates import NO_GROWTH
from nas_growclip.growth.space import GrowthSpace, SizeChoices
from nas_growclip.io.files import owned
from nas_growclip.models.checkpoint import load_model
from nas_growclip.models.flops import count_flops, count_params
from nas_growclip.records.folder import RunFolder
from nas_growclip.records.frames import Run, load_run
from nas_growclip.search.backends import BACKENDS
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.trigger import TriggerConfig
from nas_growclip.training.events import Event, Moment
from tests.support.faults import die_at, fail_at, in_step, nth_time, poison_batch, refuse_to_work
from tests.support.forked_python import forking_python
from tests.support.processes import ending, forked
from tests.support.runs import ROOT, SMOKE, one_stage, records_of, small_config, smoke_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def killed_at(config: ExperimentConfig, out: Path, moment: Moment, call: int) -> None:
    """Run an experiment in a process that dies the n-th time of some moment."""
    die = die_at(moment, call)
    assert ending(forked(lambda: run_stages(config, out, observer=die))) == -9


def searched_config() -> ExperimentConfig:
    """The smallest run whose stages are searched with Optuna."""
    search = SearchConfig(num_trials=2, trial_share=0.3, curve_points=2)
    config = small_config(search=search, passes=4.0)
    return replace(config, train=replace(config.train, checkpoint_steps=2))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Its run."""
    return run_stages(searched_config(), tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.mark.parametrize("point", [1, 2])
def test_a_trial_that_is_pruned_before_its_end_leaves_no_state(
    point: int, undisturbed: Run, tmp_path: Path
) -> None:
    stage = open_stage(undisturbed.path, stage=0, trials=tmp_path)
    trial = measure_candidate(stage, 0, NO_GROWTH, lambda at, loss: at == point)
    is_last = point == 2
    assert trial.state == ("complete" if is_last else "pruned")
    assert stage.trials.state("none").exists() == is_last


def test_run_leaves_everything_that_a_user_needs(smoke_run: Run) -> None:
    assert [stage.num_pairs for stage in smoke_run.stages] == [256, 512]
    for stage in smoke_run.stages:
        folder = smoke_run.path / f"stage_{stage.stage:02d}"
        model = load_model(folder)
        assert model.arch == stage.arch
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["train"]["num_pairs"] == stage.num_pairs
        assert manifest["pairs_seen"] == stage.pairs_seen
        assert len(manifest["train"]["entries"][0]["sha256"]) == 64
        assert not list(folder.glob("trials/*"))
        assert not (folder / "training.safetensors").exists()
    assert (smoke_run.path / "report" / "index.html").exists()


def test_records_add_up(smoke_run: Run) -> None:
    spent = 0
    parent = load_config(SMOKE).parent_arch
    for stage in smoke_run.stages:
        trials = [trial for trial in smoke_run.trials if trial.stage == stage.stage]
        chosen = trials[stage.chosen_trial]
        assert [trial.number for trial in trials] == [0, 1, 2]
        assert trials[0].candidate == NO_GROWTH
        assert trials[0].score == 0
        assert chosen.score == max(t.score for t in trials if t.score is not None)
        assert stage.parent == parent
        assert stage.arch == chosen.arch
        assert stage.flops == count_flops(stage.arch) == sum(stage.flops_by_encoder.values())
        assert stage.params == count_params(stage.arch)
        others = sum(t.train_flops for t in trials if t is not chosen)
        assert stage.search_flops == others
        assert stage.train_flops == 3 * stage.flops * stage.pairs_seen
        spent += others + stage.train_flops
        assert stage.cumulative_flops == spent
        assert stage.pairs_seen == chosen.stage_pairs
        assert stage.curve[: len(chosen.curve)] == chosen.curve
        parent = stage.arch


def test_trials_cost_the_same_flops(smoke_run: Run) -> None:
    for stage in smoke_run.stages:
        trials = [trial for trial in smoke_run.trials if trial.stage == stage.stage]
        for trial in trials:
            one_step = 3 * trial.flops * 32
            assert abs(trial.train_flops - trials[0].train_flops) <= one_step


def test_training_lowers_the_loss(smoke_run: Run) -> None:
    for stage in smoke_run.stages:
        assert stage.curve[-1][1] < stage.curve[0][1]
    last = smoke_run.stages[-1].validation
    assert last["loss"].value < last["loss"].chance


def test_same_seed_gives_the_same_records_and_an_observer_sees_every_moment(
    undisturbed: Run, tmp_path: Path
) -> None:
    seen: list[Event] = []
    run_stages(searched_config(), tmp_path / "again", observer=seen.append)
    assert records_of(tmp_path / "again") == records_of(undisturbed.path)
    moments = {event.moment for event in seen}
    assert moments == set(get_args(Moment)) - {"diverged", "rolled_back", "trunk_saved"}
    assert all(event.where.startswith("stage ") for event in seen)
    assert sum(event.moment == "trial_listed" for event in seen) == len(undisturbed.trials)
    assert sum(event.moment == "stage_recorded" for event in seen) == len(undisturbed.stages)


def test_complete_run_is_not_run_again(smoke_run: Run) -> None:
    before = records_of(smoke_run.path)
    run_experiment(load_config(SMOKE), smoke_run.path, observer=refuse_to_work)
    assert is_complete(load_config(SMOKE), smoke_run.path)
    assert records_of(smoke_run.path) == before


@pytest.mark.parametrize(
    ("moment", "call"),
    [
        ("state_saved", 3),  # in a trial
        ("trial_measured", 2),  # measured, not written down
        ("trial_recorded", 2),  # written down, not told to the search
        ("trial_listed", 2),  # told and listed
        ("step", 8),  # in the first stage's training
        ("model_saved", 2),  # before the last stage's record
    ],
)
def test_killed_run_ends_with_the_records_of_an_undisturbed_one(
    moment: Moment, call: int, undisturbed: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    killed_at(searched_config(), out, moment, call)
    assert not is_complete(searched_config(), out)
    run_stages(searched_config(), out)
    assert records_of(out) == records_of(undisturbed.path)


def test_a_killed_command_resumes(undisturbed: Run, tmp_path: Path) -> None:
    """The command itself, as a process of its own, killed as soon as it has a trial's record."""
    experiment, out = tmp_path / "searched.yaml", tmp_path / "run"
    experiment.write_text(searched_config().to_yaml())
    command = [sys.executable, "-m", "nas_growclip", "run", str(experiment), "--out", str(out)]
    with forking_python(), subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        while not RunFolder(out).trials.exists() and run.poll() is None:
            time.sleep(0.01)
        run.kill()
    assert run.returncode == -9
    run_stages(searched_config(), out)
    assert records_of(out) == records_of(undisturbed.path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_runs_a_stage(backend: str, tmp_path: Path) -> None:
    config = one_stage(small_config())
    config = replace(config, search=replace(config.search, backend=backend))
    run = run_stages(config, tmp_path / "run")
    assert len(run.trials) == 2


def test_run_without_new_data_is_not_searched_but_trained_on(tmp_path: Path) -> None:
    config = small_config(trigger=TriggerConfig(name="data_grew", min_ratio=3.0))
    run = run_stages(config, tmp_path / "run")
    assert [len([t for t in run.trials if t.stage == stage]) for stage in (0, 1)] == [2, 1]
    assert run.stages[1].chosen == NO_GROWTH
    assert "did not grow enough: 1.5 times, at least 3 asked" in run.stages[1].reason


@pytest.mark.parametrize(("max_gap", "num_trials"), [(1e-6, 1), (100.0, 2)])
def test_gap_between_training_and_validation_triggers(
    max_gap: float, num_trials: int, tmp_path: Path
) -> None:
    config = small_config(trigger=TriggerConfig(name="gap", max_gap=max_gap), passes=8.0)
    config = replace(config, data=replace(config.data, stages=(64, 65)))
    run = run_stages(config, tmp_path / "run")
    assert len([t for t in run.trials if t.stage == 1]) == num_trials
    assert "training loss" in run.stages[1].reason


def test_run_goes_on_when_nothing_can_grow(tmp_path: Path) -> None:
    space = GrowthSpace(dimensions={"text.depth": SizeChoices(sizes=(1,))})
    config = one_stage(small_config(space=space))
    run = run_stages(config, tmp_path / "run")
    assert run.stages[0].chosen == NO_GROWTH
    assert run.stages[0].arch == config.parent_arch


def test_trial_that_runs_out_of_memory_is_recorded_as_failed(tmp_path: Path) -> None:
    def run_out() -> None:
        raise torch.OutOfMemoryError("no room")

    fail = fail_at("trial_begins", run_out, nth_time(2))
    run = run_stages(one_stage(small_config()), tmp_path / "run", observer=fail)
    failed = run.trials[1]
    assert (failed.state, failed.score) == ("failed", None)
    assert "no room" in failed.message
    assert run.stages[0].chosen_trial != 1


def test_divergence_at_every_rate_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stage 0 must not diverge, but did 4 times.*Lower train"):
        run_stages(small_config(), tmp_path / "run", observer=poison_batch(in_step(1)))


def test_folder_of_another_experiment_is_refused(smoke_run: Run) -> None:
    with pytest.raises(ValueError, match=r"holds another experiment: it differs in passes"):
        run_experiment(replace(load_config(SMOKE), passes=5.0), smoke_run.path)


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="must be a new or empty folder or a run folder"):
        run_experiment(smoke_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/run: cannot be made"):
        run_experiment(smoke_config(), tmp_path / "file" / "run")


def test_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"device 'tpu9' cannot be used"):
        run_experiment(smoke_config(), tmp_path / "run", device="tpu9")


def test_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    config = smoke_config(data=replace(smoke_config().data, stages=(20,)))
    with pytest.raises(ValueError, match=r"train\.batch_size must be at most the number"):
        run_experiment(config, tmp_path / "run")


def test_config_in_the_folder_is_the_resolved_one(smoke_run: Run) -> None:
    held = yaml.safe_load((smoke_run.path / "config.yaml").read_text())
    assert held["train"]["beta2"] == 0.98
    assert held["space"]["dimensions"]["image.width"]["ratios"] == [2.0]
    assert load_run(smoke_run.path).stages == smoke_run.stages


def test_shards_on_disk_run_end_to_end(tmp_path: Path) -> None:
    pairs = ROOT.parent / "shared" / "data" / "pairs"
    if not pairs.is_dir():
        pytest.skip("the real data pack is not on this machine")
    data = WebdatasetConfig(
        stages=(1,),
        train="train/0000{0..1}.tar",
        validation="val/00000.tar",
        test="val/00001.tar",
        validation_pairs=64,
        test_pairs=64,
    )
    config = smoke_config(data=data, passes=0.5)
    run = run_experiment(config, tmp_path / "run", data_folder=pairs)
    assert run.stages[0].num_pairs == 1000


def full_growth(folder: Path) -> Path:
    """The smoke experiment with all that a growth can carry along."""
    mapping = dict(yaml.safe_load(small_config(passes=4.0).to_yaml()))
    mapping["train"] = dict(mapping.get("train", {})) | {"ema_decay": 0.9}
    mapping["growth"] = {
        "depth_operator": "gated",
        "gate_steps": 1000,
        "moments": "grow",
        "pim": "ema",
    }
    mapping["space"] = {
        "dimensions": {"image.depth": {"add": [1]}, "text.mlp_width": {"ratios": [1.5]}},
        "momenta": [1.0, 0.95],
    }
    path = folder / "full.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def test_moments_averages_gates_and_momenta_survive_a_kill(tmp_path: Path) -> None:
    """Gates are still half open where a stage ends, and are folded into the next parent."""
    path = full_growth(tmp_path)
    run = run_stages(load_config(path), tmp_path / "whole")
    labels = {trial.candidate.momentum for trial in run.trials if trial.candidate.grows}
    assert labels <= {1.0, 0.95}
    assert labels
    state = tmp_path / "whole" / "stage_00" / "state.safetensors"
    assert {name.split(".")[0] for name in load_file(state)} >= {"exp_avg", "step_count", "ema"}
    out = tmp_path / "killed"
    killed_at(load_config(path), out, "state_saved", 4)
    run_stages(load_config(path), out)
    assert records_of(out) == records_of(tmp_path / "whole")


def test_ligo_and_a_budget_run_as_an_experiment(tmp_path: Path) -> None:
    for growth in ({"operator": "ligo", "learn_steps": 2}, {"pim": "budgeted"}):
        mapping = dict(yaml.safe_load(full_growth(tmp_path).read_text())) | {"growth": growth}
        path = tmp_path / "other.yaml"
        path.write_text(yaml.safe_dump(mapping))
        config = load_config(path)
        config = replace(config, space=replace(config.space, momenta=()))
        run = run_stages(one_stage(config), tmp_path / next(iter(growth)))
        assert [trial.state for trial in run.trials] == ["complete"] * len(run.trials)


def test_a_run_that_another_process_works_on_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    holding = "import sys, pathlib, time; from nas_growclip.io.files import owned\n"
    holding += "with owned(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", holding, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        message = rf"is locked by process {other.pid} on .*\. Wait for it, or stop it"
        with pytest.raises(ValueError, match=message):
            run_experiment(smoke_config(), out)
        other.kill()
    assert not (out / "config.yaml").exists()
    with owned(out), owned(out):
        assert f"process {os.getpid()} on " in (out / ".owner").read_text()


def test_a_dead_process_leaves_its_run_to_the_next_one(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    dying = "import os, sys, pathlib; from nas_growclip.io.files import owned; "
    dying += "owned(pathlib.Path(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", dying, str(out)], check=False)
    assert killed.returncode == -9
    assert (out / ".owner").read_text().startswith("process ")
    with owned(out):
        assert f"process {os.getpid()}" in (out / ".owner").read_text()
