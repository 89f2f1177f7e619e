"""Several processes under torchrun give what one process gives, and either resumes after a kill."""

import json
import os
import signal
import subprocess
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.nn.parallel import DistributedDataParallel

from nas_growclip.cli.main import BAD_INPUT, main
from nas_growclip.experiment.config import load_config
from nas_growclip.experiment.follower import check_group, follow
from nas_growclip.experiment.run import is_complete, run_stages
from nas_growclip.records.folder import RunFolder, read_stages, read_trials
from nas_growclip.search.config import SearchConfig
from nas_growclip.training import process_group
from nas_growclip.training.events import Moment
from nas_growclip.training.process_group import ALONE, ProcessGroup, join_group
from tests.support.faults import die_at
from tests.support.forked_python import forking_python
from tests.support.processes import in_two_processes
from tests.support.runs import ROOT, SMOKE, by_two_processes, smoke_config
from tests.support.words import IN_YAML

pytestmark = pytest.mark.slow

GROWN: dict[str, Any] = {
    "growth": {"moments": "grow", "depth_operator": "gated", "momentum": 0.9},
    "schedule": [{"text.depth": 2}, {"image.width": 64, "shared.depth": 1}],
    "data": {"augment": {"crop_scale": 0.5}},
}
ONE_STAGE: dict[str, Any] = {"schedule": [{"text.depth": 2}], "data": {"stages": [64]}}
TRUNK: dict[str, Any] = {
    "growth": {"moments": "grow", "rewarm": {"steps": 6}},
    "schedule": [{}, {"text.depth": 2, "image.width": 64}],
    "train": {"schedule": "trunk", "rate_rule": "width"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "searched": {"search": {"backend": "optuna"}},
    "everything": GROWN | {"train": {"ema_decay": 0.9}},
    "siglip": ONE_STAGE | {"parent": {"logit_bias": True}, "train": {"micro_batch_size": 12}},
    "in_parts": ONE_STAGE | {"train": {"micro_batch_size": 10}},
    "sharded": GROWN | {"train": {"ema_decay": 0.9, "shard": True}},
    "one_sharded": ONE_STAGE
    | {"growth": GROWN["growth"], "train": {"ema_decay": 0.9, "shard": True}},
    "trunk": TRUNK,
    "sharded_trunk": TRUNK | {"train": TRUNK["train"] | {"shard": True}},
    "sharded_siglip": ONE_STAGE
    | {
        "parent": {"logit_bias": True},
        "train": {"micro_batch_size": 12, "shard": True},
    },
}


def write_experiment(folder: Path, name: str) -> Path:
    config = yaml.safe_load(SMOKE.read_text())
    config["parent"]["text"] |= IN_YAML
    config["data"] |= {"stages": [64, 96], "zero_shot": []}
    config["train"] |= {"checkpoint_steps": 3, "learning_rate": 3.0e-4}
    config["search"] = {"backend": "exhaustive", "num_trials": 2, "trial_share": 0.3}
    config["passes"] = 3.0
    for key, value in VARIANTS[name].items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def arguments(experiment: Path, out: Path) -> list[str]:
    return ["run", str(experiment), "--out", str(out), "--device", "cpu"]


def assert_same(one: Path, other: Path) -> None:
    """The same choices; losses and weights that differ by rounding only."""
    for trial, twin in zip(read_trials(one), read_trials(other), strict=True):
        assert (trial.candidate, trial.state) == (twin.candidate, twin.state)
        losses = ([loss for _, loss in t.curve] for t in (trial, twin))
        assert next(losses) == pytest.approx(next(losses), abs=1e-5)
    stages = list(zip(read_stages(one), read_stages(other), strict=True))
    for stage, twin in stages:
        assert stage.chosen == twin.chosen
        assert stage.train_flops == twin.train_flops
        assert stage.metrics["loss"].value == pytest.approx(twin.metrics["loss"].value, abs=1e-5)
        folder = f"stage_{stage.stage:02d}"
        weights, twins = (load_file(run / folder / "model.safetensors") for run in (one, other))
        for name, value in weights.items():
            torch.testing.assert_close(twins[name], value, atol=1e-5, rtol=1e-5, msg=name)
    assert stages


@pytest.mark.long("two processes wait for each other, for long where they share a processor")
@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"one_sharded"}))
def test_two_processes_train_what_one_trains(variant: str, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, variant)
    run_stages(load_config(experiment), tmp_path / "one")
    command = arguments(experiment, tmp_path / "two")
    codes = in_two_processes(lambda: main(command), tmp_path)
    leader, follower = ((tmp_path / f"{rank}.log").read_text() for rank in range(2))
    assert codes == [0, 0], leader + follower
    assert leader.count("stage 0: chose") == 1
    assert "stage 0" not in follower
    assert_same(tmp_path / "one", tmp_path / "two")


def test_one_replica_is_made_for_each_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a trial or a stage is measured and saved; the last one's memory is free."""
    experiment = write_experiment(tmp_path, "trunk")
    out = tmp_path / "out"
    made: list[weakref.ref[DistributedDataParallel]] = []
    alive: list[int] = []

    def noted(*given: Any, **options: Any) -> DistributedDataParallel:
        alive.append(sum(replica() is not None for replica in made))
        replica = DistributedDataParallel(*given, **options)
        made.append(weakref.ref(replica))
        return replica

    def work() -> int:
        code = main(arguments(experiment, out))
        (tmp_path / f"{os.environ['RANK']}.json").write_text(json.dumps(alive))
        return code

    monkeypatch.setattr(process_group, "DistributedDataParallel", noted)
    assert in_two_processes(work, tmp_path) == [0, 0], (tmp_path / "0.log").read_text()
    trials, stages = read_trials(out), read_stages(out)
    assert sum(len(stage.curve) - 1 for stage in stages) > len(trials) + len(stages)
    for rank in range(2):
        counted = json.loads((tmp_path / f"{rank}.json").read_text())
        assert counted == [0] * (len(trials) + len(stages))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An experiment of one stage whose state is sharded, and its run by one process."""
    folder = tmp_path_factory.mktemp("alone")
    experiment = write_experiment(folder, "one_sharded")
    run_stages(load_config(experiment), folder / "run")
    return experiment, folder / "run"


@pytest.mark.parametrize(
    ("moment", "call"), [("trial_listed", 1), ("state_saved", 2), ("model_saved", 1)]
)
def test_killed_leader_leaves_a_run_that_one_process_resumes(
    moment: Moment, call: int, alone: tuple[Path, Path], tmp_path: Path
) -> None:
    experiment, undisturbed = alone
    config, out = load_config(experiment), tmp_path / "two"

    def work() -> None:
        group = join_group("cpu")
        if group.is_leader:
            run_stages(config, out, device="cpu", observer=die_at(moment, call))
        follow(config, None, group)

    leader, follower = in_two_processes(work, tmp_path)
    assert leader == -signal.SIGKILL
    assert follower != 0
    assert not is_complete(config, out)
    run_stages(config, out)
    assert_same(undisturbed, out)


@pytest.mark.long("two processes wait for each other, for long where they share a processor")
def test_torchrun_starts_a_run_and_its_death_ends_both_processes(
    alone: tuple[Path, Path], tmp_path: Path
) -> None:
    """The command as it is typed; torchrun alone is killed, and what is left is resumed by it."""
    experiment, undisturbed = alone
    out = tmp_path / "two"
    command = by_two_processes("nas_growclip", *arguments(experiment, out))
    with forking_python(subprocess_handler):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            while not RunFolder(out).trials.exists():
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        assert not is_complete(load_config(experiment), out)
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Report:") == 1
    assert ended.stderr.count("stage 0: chose") == 1
    assert_same(undisturbed, out)


def test_a_bad_experiment_ends_every_process_with_one_line(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, "searched")
    config = yaml.safe_load(experiment.read_text())
    config["train"]["batch_size"] = 33
    experiment.write_text(yaml.safe_dump(config))
    command = arguments(experiment, tmp_path / "out")
    assert in_two_processes(lambda: main(command), tmp_path) == [BAD_INPUT, BAD_INPUT]
    for rank in range(2):
        (line,) = (tmp_path / f"{rank}.log").read_text().splitlines()
        assert "train.batch_size must be divisible by the 2 processes" in line
    assert not (tmp_path / "out").exists()


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert join_group() is ALONE
    assert ALONE.mean(torch.tensor(3.0)).item() == 3.0


def test_trials_in_processes_of_their_own_are_refused() -> None:
    search = SearchConfig(backend="nni")
    with pytest.raises(ValueError, match="'nni' starts trials as processes of their own"):
        check_group(smoke_config(search=search), ProcessGroup(rank=0, size=2))
    check_group(smoke_config(search=search), ALONE)
