"""Runs with a trunk: a stage's model branches off, and the next stage goes on from before it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import run_stages
from nas_growclip.experiment.stage_setup import open_stage
from nas_growclip.growth.config import GrowthConfig, RewarmConfig
from nas_growclip.models.checkpoint import load_model
from nas_growclip.models.clip import Clip
from nas_growclip.records.frames import Run
from nas_growclip.training.checkpoint import load_state
from nas_growclip.training.events import Event, Moment
from tests.experiment import test_extend
from tests.support.faults import die_at, in_step, poison_batch, times
from tests.support.processes import ending, forked
from tests.support.runs import records_of, small_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

GROWTH = GrowthConfig(moments="grow", rewarm=RewarmConfig(steps=4))


def trunk_config(schedule: str = "trunk", **changes: object) -> ExperimentConfig:
    """Two stages of ten and fifteen steps; the second is wider and deeper."""
    sizes = ({}, {"image.width": 64, "text.depth": 2})
    config = small_config(**{"passes": 5.0, "schedule": sizes, "growth": GROWTH} | changes)
    train = replace(config.train, schedule=schedule, warmup_steps=2, checkpoint_steps=3)
    return replace(config, train=train)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_stages(trunk_config(), tmp_path_factory.mktemp("trunk") / "run")


def trunk_of(run: Path, stage: int = 0) -> Clip:
    path = run / f"stage_{stage:02d}" / "state.safetensors"
    return load_state(path, trunk_config().train, torch.device("cpu")).model


def same(one: Clip, other: Clip) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_first_stage_is_that_of_a_constant_rate_with_a_cooldown(
    undisturbed: Run, tmp_path: Path
) -> None:
    cooled = run_stages(trunk_config("const-cooldown"), tmp_path / "run")
    delivered = [load_model(run.path / "stage_00") for run in (undisturbed, cooled)]
    assert same(*delivered)
    assert not same(delivered[0], trunk_of(undisturbed.path))
    for ours, theirs in zip(undisturbed.stages, cooled.stages, strict=True):
        assert ours.train_flops == theirs.train_flops  # the branch is paid for alike
        assert ours.pairs_seen == theirs.pairs_seen
    first = [run.trials[1].curve[0][1] for run in (undisturbed, cooled)]
    last = cooled.stages[0].curve[-1][1]
    assert first[1] == pytest.approx(last, abs=1e-4)  # exact growth of the cooled model
    branch = dict(undisturbed.stages[0].curve)[32 * 8]
    assert first[0] == pytest.approx(branch, abs=1e-4)  # of the trunk, after eight of ten steps


def test_next_stage_goes_on_with_the_trunks_rate_and_moments(tmp_path: Path) -> None:
    rates: dict[str, list[float]] = {}
    ages: dict[str, list[int]] = {}

    def note(event: Event) -> None:
        if event.moment == "step" and event.state is not None:
            optimizer = event.state.optimizer
            scale = event.state.model.logit_scale
            rates.setdefault(event.where, []).append(optimizer.param_groups[0]["lr"])
            ages.setdefault(event.where, []).append(int(optimizer.state[scale]["step"]))

    config = trunk_config()
    run_stages(config, tmp_path / "run", observer=note)
    rate = config.train.learning_rate
    first = rates["stage 0, trial of none"] + rates["stage 0, training"]
    (trial,) = (name for name in rates if name.startswith("stage 1, trial"))
    later = rates[trial] + rates["stage 1, training"]
    assert first == pytest.approx([rate / 2, *[rate] * 8, rate / 2])
    assert later[:-2] == [rate] * (len(later) - 2)
    counted = ages[trial] + ages["stage 1, training"]
    assert counted == list(range(9, 9 + len(later)))  # on from the eight steps of the trunk


@pytest.mark.parametrize(("moment", "call"), [("trunk_saved", 1), ("state_saved", 5)])
def test_killed_run_resumes_bit_for_bit(
    moment: Moment, call: int, undisturbed: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    die = die_at(moment, call)
    assert ending(forked(lambda: run_stages(trunk_config(), out, observer=die))) == -9
    run_stages(trunk_config(), out)
    assert records_of(out) == records_of(undisturbed.path)
    for stage in ("stage_00", "stage_01"):
        for name in ("model.safetensors", "state.safetensors"):
            ours, theirs = (load_file(run / stage / name) for run in (out, undisturbed.path))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_divergence_in_the_branch_leaves_the_trunk_alone(undisturbed: Run, tmp_path: Path) -> None:
    poison = poison_batch(times(1, in_step(10, "stage 0, training")))
    run = run_stages(trunk_config(), tmp_path / "run", observer=poison)
    (rollback,) = run.stages[0].rollbacks
    assert rollback.back_to >= 8
    assert same(trunk_of(run.path), trunk_of(undisturbed.path))
    assert not same(load_model(run.path / "stage_00"), load_model(undisturbed.path / "stage_00"))


def test_workers_find_the_trunk(undisturbed: Run) -> None:
    parent = open_stage(undisturbed.path, stage=1).parent_state
    assert same(parent.model, trunk_of(undisturbed.path))
    assert int(parent.moments["step_count.logit_scale"]) == 8


def test_added_stage_goes_on_from_the_trunk(tmp_path: Path) -> None:
    data = test_extend.write_data(tmp_path / "data")
    config = test_extend.small_config(growth=GROWTH)
    config = replace(config, train=replace(config.train, schedule="trunk"))
    run = run_stages(config, tmp_path / "run", data_folder=data)
    trunk = load_state(
        run.path / "stage_01" / "state.safetensors", config.train, torch.device("cpu")
    )
    test_extend.shard(tmp_path / "may", 0, test_extend.contents(500))
    records = test_extend.go_on(tmp_path, tmp_path / "may").records
    control = next(t for t in records.trials if t.stage == 2 and t.label == "none")
    branch = dict(records.stages[1].curve)[trunk.step * config.train.batch_size]
    assert control.curve[0][1] == pytest.approx(branch)
    assert (run.path / "stage_02" / "state.safetensors").exists()


def test_a_trial_must_end_on_the_trunk() -> None:
    config = trunk_config()
    with pytest.raises(ValueError, match=r"search\.trial_share: must be at most 0\.8"):
        replace(config, search=replace(config.search, trial_share=0.9))
