"""Runs that go on when more shards arrive: what is new, what is left out, kills, refusals."""

import json
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from nas_growclip.cli.main import main
from nas_growclip.data.config import (
    AddedShards,
    CsvConfig,
    DataConfig,
    FilesConfig,
    ScenesConfig,
    WebdatasetConfig,
)
from nas_growclip.data.in_memory import CachedPairs
from nas_growclip.data.sources.table import open_split
from nas_growclip.data.stages import open_stages
from nas_growclip.experiment.config import ExperimentConfig, load_config
from nas_growclip.experiment.extend import Continued, continue_run, continue_stages
from nas_growclip.experiment.run import is_complete, run_stages
from nas_growclip.experiment.stage_setup import open_stage
from nas_growclip.experiment.worker import work
from nas_growclip.growth.space import GrowthSpace, SizeChoices
from nas_growclip.models.checkpoint import load_model
from nas_growclip.records.folder import RunFolder, write_format
from nas_growclip.records.frames import load_run
from nas_growclip.search.config import SearchConfig
from nas_growclip.training.events import Moment
from nas_growclip.training.state import TrainConfig
from tests.data.sources.test_webdataset import png, write_tar
from tests.data.test_added import write_table
from tests.support.faults import die_at, fail_at, refuse_to_work
from tests.support.processes import ending, forked
from tests.support.runs import records_of, smoke_config

pytestmark = pytest.mark.usefixtures("one_thread")

slow = pytest.mark.slow

PER_SHARD = 24

Member = tuple[str, bytes]


def pair(key: int, content: int) -> Iterator[Member]:
    """One pair whose image and caption follow from a number."""
    colour = tuple(int(value) for value in np.random.default_rng(content).integers(0, 256, 3))
    yield f"{key:09d}.png", png(colour, (16, 16))
    yield f"{key:09d}.txt", f"picture {content}".encode()


def shard(path: Path, number: int, contents: Iterable[int]) -> Path:
    """A shard as img2dataset numbers its keys."""
    members = (m for n, c in enumerate(contents) for m in pair(10_000 * number + n, c))
    return write_tar(path / f"{number:05d}.tar", members)


def contents(start: int) -> range:
    return range(start, start + PER_SHARD)


def write_data(folder: Path) -> Path:
    for number in range(2):
        shard(folder / "train", number, contents(100 * number))
    shard(folder / "validation", 0, contents(10_000))
    shard(folder / "test", 0, contents(20_000))
    return folder


def small_config(data: dict[str, object] | None = None, **changes: object) -> ExperimentConfig:
    settings = WebdatasetConfig(stages=(1, 2), train="train", validation="validation", test="test")
    changes = {
        "passes": 2.0,
        "space": GrowthSpace(dimensions={"text.depth": SizeChoices(add=(1,))}),
        "search": SearchConfig(backend="exhaustive", num_trials=2, trial_share=0.3, curve_points=2),
        "train": TrainConfig(batch_size=8, warmup_steps=2, checkpoint_steps=2),
        "metrics": ("loss",),
        **changes,
    }
    return smoke_config(data=replace(settings, **(data or {})), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    data = write_data(folder / "data")
    run_stages(small_config(), folder / "run", data_folder=data)
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (RunFolder(tmp_path / "run").data_folder).write_text(f"{tmp_path / 'data'}\n")
    return tmp_path


def go_on(place: Path, shards: Path, **options: object) -> Continued:
    """Continue without the report, which takes longest here."""
    return continue_stages(place / "run", shards, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Records of a run that was continued once, without a kill."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(finished / "run", folder / "run")
    shard(folder / "may", 0, contents(500))
    go_on(folder, folder / "may")
    return records_of(folder / "run")


def manifest(place: Path, stage: int) -> dict[str, dict[str, object]]:
    path = place / "run" / f"stage_{stage:02d}" / "manifest.json"
    held: dict[str, dict[str, object]] = json.loads(path.read_text())
    return held


def files_of(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and "report" not in path.parts
    }


@slow
def test_folder_that_was_extended_gives_one_stage_more(place: Path) -> None:
    before = records_of(place / "run")
    shard(place / "data/train", 2, contents(200))
    shard(place / "data/train", 3, contents(300))
    continued = go_on(place, place / "data/train")
    assert "stage 2 added: 48 new pairs in 2 files, left out: none" in continued.what
    stage = continued.records.stages[2]
    assert stage.num_pairs == 4 * PER_SHARD
    assert stage.skipped == {}
    assert stage.parent == continued.records.stages[1].arch
    assert len([trial for trial in continued.records.trials if trial.stage == 2]) == 2
    assert load_model(place / "run/stage_02").arch == stage.arch
    assert [entry["name"] for entry in manifest(place, 2)["train"]["entries"]] == [  # type: ignore[attr-defined]
        f"train/{number:05d}.tar" for number in range(4)
    ]
    held = load_config(place / "run/config.yaml").data
    assert held.added == (AddedShards(folder="train", shards=("00002.tar", "00003.tar")),)
    assert held.stages == (1, 2, 4)
    for name, text in records_of(place / "run").items():
        assert text.startswith(before[name])


@slow
def test_stage_is_the_one_that_the_run_would_have_had(place: Path) -> None:
    shard(place / "data/train", 2, contents(200))
    go_on(place, place / "data/train")
    whole = small_config(data={"stages": (1, 2, 3)})
    run_stages(whole, place / "whole" / "run", data_folder=place / "data")
    assert records_of(place / "whole/run") == records_of(place / "run")


@slow
def test_pairs_of_another_folder_are_told_apart_by_content_alone(place: Path) -> None:
    """The other folder's keys begin at 0 again; some of its pairs are old, some are held out."""
    new = place / "may"
    shard(new, 0, [*range(3), *range(500, 510), *range(10_000, 10_002), 20_000])
    shard(new, 1, [*range(505, 515), *range(600, 620)])
    continued = go_on(place, new)
    stage = continued.records.stages[2]
    assert stage.num_pairs == 2 * PER_SHARD + 10 + 5 + 20
    assert stage.skipped == {"held-out pair": 3, "seen pair": 3 + 5}
    assert manifest(place, 2)["skipped"] == stage.skipped
    entries = manifest(place, 2)["train"]["entries"]
    assert [entry["skipped"] for entry in entries[2:]] == [  # type: ignore[index]
        {"held-out pair": 3, "seen pair": 3},
        {"seen pair": 5},
    ]
    assert "35 new pairs in 2 files, left out: 3 x held-out pair, 8 x seen pair" in continued.what


@slow
@pytest.mark.long("seven commands, four of which train")
def test_months_follow_one_another_and_the_commands_work(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = str(place / "run"), place / "run" / "config.yaml"
    config.write_text(config.read_text().replace("backend: exhaustive", "backend: optuna"))
    shard(place / "may", 0, contents(500))
    go_on(place, place / "may")
    shard(place / "may", 1, [500, 501, *contents(600)])
    go_on(place, place / "may")
    shard(place / "data/train", 2, contents(700))
    assert main(["continue", run, "--data", str(place / "data/train")]) == 0
    assert "stage 4 added: 24 new pairs in 1 files" in capsys.readouterr().out
    assert (place / "run/report/index.html").exists()
    stages = load_run(run).stages
    assert [stage.num_pairs for stage in stages] == [24, 48, 72, 96, 120]
    assert stages[-1].skipped == {"seen pair": 2}
    before = files_of(place / "run")
    for shards in (place / "may", place / "data/train"):
        nothing = go_on(place, shards, observer=refuse_to_work).what
        assert f"Nothing new in {shards}: the run has all of its files." in nothing
    assert files_of(place / "run") == before
    work(place / "run", patience=0.0)
    assert main(["rescore", run, "--objective", "quality"]) == 0
    assert main(["report", run]) == 0


@slow
def test_added_stage_is_opened_for_workers(place: Path) -> None:
    shard(place / "may", 0, contents(500))
    plan_only(place, place / "may")
    assert open_stage(place / "run", device="cpu").data.num_pairs == 3 * PER_SHARD


@slow
@pytest.mark.parametrize(
    ("moment", "call"),
    [
        ("trial_begins", 1),  # planned, nothing trained
        ("state_saved", 2),  # in a trial
        ("model_saved", 1),  # before the stage's record
        ("stage_recorded", 1),  # recorded, not reported
    ],
)
def test_killed_continuation_is_resumed_by_the_same_command(
    moment: Moment, call: int, place: Path, undisturbed: dict[str, str]
) -> None:
    may = shard(place / "may", 0, contents(500)).parent
    die = die_at(moment, call)
    assert ending(forked(lambda: go_on(place, may, observer=die))) == -signal.SIGKILL
    go_on(place, may)
    assert records_of(place / "run") == undisturbed


@slow
def test_shards_that_arrive_during_a_stage_are_the_next_ones(place: Path) -> None:
    plan_only(place, shard(place / "may", 0, contents(500)).parent)
    shard(place / "may", 1, contents(600))
    assert "stage 2 resumes: 24 new pairs in 1 files" in go_on(place, place / "may").what
    assert "stage 3 added: 24 new pairs in 1 files" in go_on(place, place / "may").what


@slow
def test_nothing_but_old_pairs_trains_nothing(place: Path) -> None:
    shard(place / "may", 0, contents(100))
    before = files_of(place / "run")
    continued = go_on(place, place / "may", observer=refuse_to_work)
    assert continued.what == (
        f"Nothing new in {place / 'may'}: 0 new pairs in 1 files, left out: 24 x seen pair. "
        "Nothing was trained."
    )
    assert files_of(place / "run") == before


@slow
def test_held_out_shards_in_the_same_folder_are_not_taken(tmp_path: Path) -> None:
    """As where one folder of img2dataset holds all splits, and stages take a part of it."""
    for number in range(5):
        shard(tmp_path / "data", number, contents(100 * number))
    data = {
        "stages": (1,),
        "train": "{00000..00002}.tar",
        "validation": "00003.tar",
        "test": "00004.tar",
        "in_memory": True,
    }
    run_stages(small_config(data), tmp_path / "run", data_folder=tmp_path / "data")
    shard(tmp_path / "data", 5, contents(500))
    continued = go_on(tmp_path, tmp_path / "data")
    assert continued.records.stages[1].num_pairs == 4 * PER_SHARD
    added = load_config(tmp_path / "run/config.yaml").data.added
    assert added == (AddedShards(folder=".", shards=("00001.tar", "00002.tar", "00005.tar")),)


@slow
def test_copy_of_a_held_out_shard_is_left_out_whole(place: Path) -> None:
    shard(place / "may", 0, contents(500))
    shutil.copy(place / "data/validation/00000.tar", place / "may/00001.tar")
    continued = go_on(place, place / "may")
    assert continued.records.stages[2].skipped == {"held-out pair": PER_SHARD}


@slow
@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": ({}, {"image.width": 64}), "growth": {"moments": "grow"}},
        {"restart": True, "stage_flops": (2e8, 4e8)},
    ],
    ids=["schedule_moments", "restart_stage_flops"],
)
def test_runs_of_every_kind_go_on(changes: dict[str, object], tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    path = tmp_path / "experiment.yaml"
    mapping = yaml.safe_load(small_config().to_yaml())
    path.write_text(yaml.safe_dump(mapping | json.loads(json.dumps(changes))))
    run = run_stages(load_config(path), tmp_path / "run", data_folder=data).path
    shard(tmp_path / "may", 0, contents(500))
    records = go_on(tmp_path, tmp_path / "may").records
    stage, config = records.stages[2], load_config(run / "config.yaml")
    assert len([trial for trial in records.trials if trial.stage == 2]) == 2
    assert "Searched because the data grew 1.5 times" in stage.reason
    assert stage.parent == records.stages[1].arch
    if "stage_flops" in changes:
        assert config.stage_flops == (2e8, 4e8, pytest.approx(6e8))
        assert stage.search_flops + stage.train_flops <= 6e8 * 1.05
    assert main(["rescore", str(run)]) == 0


@slow
def test_a_rule_goes_on(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    rule = {"text.depth": SizeChoices(add=(1,))}
    run_stages(small_config(rule=rule), tmp_path / "run", data_folder=data)
    shard(tmp_path / "may", 0, contents(500))
    records = go_on(tmp_path, tmp_path / "may").records
    assert [stage.arch.text.depth for stage in records.stages] == [1, 2, 3]
    assert [stage.reason for stage in records.stages] == [
        "no growth, by the rule: the first model is not trained yet.",
        "text.depth 1 -> 2, by the rule: the data grew 2 times, at least 1.01 asked.",
        "text.depth 2 -> 3, by the rule: the data grew 1.5 times, at least 1.01 asked.",
    ]
    assert [stage.search_flops for stage in records.stages] == [0, 0, 0]


@slow
def test_budget_may_be_given(place: Path) -> None:
    shard(place / "may", 0, contents(500))
    stage = go_on(place, place / "may", flops=3e8).records.stages[2]
    assert 2e8 < stage.search_flops + stage.train_flops <= 3e8 * 1.05
    shard(place / "may", 1, contents(600))
    go_on(place, place / "may")
    held = load_config(place / "run/config.yaml").stage_flops
    assert held == (None, None, 3e8, pytest.approx(4e8))


@slow
def test_old_data_may_have_moved(place: Path) -> None:
    (place / "data").rename(place / "moved")
    shard(place / "moved/train", 2, contents(200))
    with pytest.raises(ValueError, match=r"there is none at '.*/data'\. Pass `--old-data DIR`"):
        go_on(place, place / "moved/train")
    go_on(place, place / "moved/train", old_data=place / "moved")
    assert (RunFolder(place / "run").data_folder).read_text() == f"{place / 'moved'}\n"
    (RunFolder(place / "run").data_folder).unlink()
    with pytest.raises(ValueError, match=r"must be known, but was not noted\. Pass `--old-data"):
        go_on(place, place / "moved/train")


def replace_first(place: Path) -> None:
    shard(place / "data/train", 0, contents(900))


def put_before(place: Path) -> None:
    shard(place / "data/train", 0, contents(900)).rename(place / "data/train/00000-0.tar")


@slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_first, "where it had 'train/00000.tar' there is 'train/00000.tar' with other"),
        (put_before, "where it had 'train/00000.tar' there is 'train/00000-0.tar' with other"),
        (lambda p: shard(p / "data/validation", 0, contents(900)), "data.validation must be what"),
        (lambda p: (p / "run/stage_01/manifest.json").write_text("{}"), "must list the files of"),
        (lambda p: shutil.rmtree(p / "may"), "--data must be a folder, but got"),
        (lambda p: (p / "may/00000.tar").unlink(), "--data must hold shards"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    place: Path, change: Callable[[Path], object], message: str
) -> None:
    new = shard(place / "may", 0, contents(500)).parent
    change(place)
    before = files_of(place / "run")
    with pytest.raises(ValueError, match=message):
        go_on(place, new)
    assert files_of(place / "run") == before


@slow
def test_unfinished_stages_are_refused(place: Path) -> None:
    new = shard(place / "may", 0, contents(500)).parent
    stages = place / "run/stages.jsonl"
    lines = stages.read_text().splitlines(keepends=True)
    stages.write_text(lines[0])
    with pytest.raises(ValueError, match=r"but 1 of 2 are\. Finish them with `growclip run`"):
        go_on(place, new)
    stages.write_text("".join(lines))
    plan_only(place, new)
    assert not is_complete(load_config(place / "run/config.yaml"), place / "run")
    other = shard(place / "june", 0, contents(600)).parent
    with pytest.raises(ValueError, match=r"stage 2 must be finished .*--data .*/may` first"):
        go_on(place, other)
    with pytest.raises(ValueError, match=r"--flops must stay what stage 2 began with"):
        go_on(place, new, flops=1e9)


def plan_only(place: Path, new: Path) -> None:
    """Leave the run as a kill before the first trial does."""

    def stop() -> None:
        raise InterruptedError("stopped")

    with pytest.raises(InterruptedError, match="stopped"):
        go_on(place, new, observer=fail_at("trial_begins", stop))


@slow
def test_experiment_of_a_continued_run_says_how_to_go_on(place: Path) -> None:
    plan_only(place, shard(place / "may", 0, contents(500)).parent)
    with pytest.raises(ValueError, match=r"1 stages more than the experiment.*growclip continue"):
        run_stages(small_config(), place / "run", data_folder=place / "data")


@pytest.mark.parametrize("data", [ScenesConfig(stages=(8,)), FilesConfig(stages=(8,), train="a")])
def test_other_sources_are_refused(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(smoke_config(data=data).to_yaml())
    write_format(tmp_path)
    message = rf"must be 'webdataset' or 'csv' .* is '{data.source}': only shards and tables"
    with pytest.raises(ValueError, match=message):
        continue_run(tmp_path, tmp_path)


@slow
def test_tables_go_on_like_shards(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("validation", 100), ("test", 120), ("may/new", 40)):
        write_table(tmp_path / "data" / f"{split}.csv", range(first, first + 24))
    data = CsvConfig(stages=(24,), train="train.csv", validation="validation.csv", test="test.csv")
    config = replace(small_config(), data=data)
    run_stages(config, tmp_path / "run", data_folder=tmp_path / "data")
    continued = go_on(tmp_path, tmp_path / "data/may/new.csv")
    assert "stage 1 added: 24 new pairs in 1 files, left out: none" in continued.what
    assert continued.records.stages[1].num_pairs == 48
    assert "Nothing new in" in go_on(tmp_path, tmp_path / "data/may").what


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": (1,)}, "must leave one stage of the experiment's own or more"),
        ({"stages": (1, 3)}, "'may' must list 2, but lists 1"),
        ({"stages": (1, 2, 3), "test_by_stage": ("a",)}, "must name one set for each of"),
    ],
)
def test_added_shards_must_fit_the_stages(changes: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"stages": (1, 2)} | changes
    with pytest.raises(ValueError, match=message):
        WebdatasetConfig(added=(AddedShards(folder="may", shards=("0.tar",)),), **settings)  # type: ignore[arg-type]


def test_added_shard_that_is_gone_is_told(tmp_path: Path) -> None:
    write_data(tmp_path)
    added = (AddedShards(folder="may", shards=("00000.tar",)),)
    config = small_config({"added": added, "stages": (1, 2)}).data
    with pytest.raises(ValueError, match=r"no such file: '.*may/00000\.tar'\. Put it back"):
        open_split(config, tmp_path, "train", 2)


def test_added_stage_without_a_held_out_set_is_measured_on_the_earlier_ones(
    tmp_path: Path,
) -> None:
    write_data(tmp_path)
    shard(tmp_path / "may", 0, [0, *contents(500)])
    shard(tmp_path / "old", 0, contents(700))
    added = (AddedShards(folder="may", shards=("00000.tar",)),)
    config = small_config({"added": added, "test_by_stage": ("old",)}).data
    stages = open_stages(replace(config, in_memory=True), tmp_path)
    assert [len(stage.test_by_stage) for stage in stages] == [1, 1]
    assert [stage.num_pairs for stage in stages] == [PER_SHARD, 2 * PER_SHARD]
    train = stages[1].train
    assert isinstance(train, CachedPairs)
    assert len(list(train.epoch(3))) == 2 * PER_SHARD


@pytest.mark.parametrize("flops", ["0", "-1", "inf", "nan"])
def test_budget_must_be_a_number(flops: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["continue", str(tmp_path), "--data", str(tmp_path), f"--flops={flops}"]) == 2
    assert "--flops: must be above 0" in capsys.readouterr().err
