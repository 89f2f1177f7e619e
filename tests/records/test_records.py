import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep
from nas_growclip.models.arch import DIMENSIONS, ClipArch
from nas_growclip.records.entries import Measure, StageResult, Trial, to_line
from nas_growclip.records.folder import (
    RunFolder,
    Timing,
    append_timing,
    read_stages,
    read_trials,
    write_format,
)
from nas_growclip.records.frames import load_run
from nas_growclip.records.lines import append_line, drop_torn_line

PARENT = ClipArch.preset("tiny")
WIDER = Candidate(steps=(GrowthStep(dimension="image.width", old=64, new=96),))
NUMBERS = st.floats(allow_nan=False)
METRICS = st.dictionaries(st.text(), NUMBERS, max_size=3)


def make_trial(number: int = 1) -> Trial:
    return Trial(
        stage=1,
        number=number,
        candidate=WIDER,
        arch=PARENT.with_size("image.width", 96),
        flops=10**20,
        params=1000,
        state="complete",
        metrics={"loss": 1.5, "zero_shot_top1": 0.25},
        curve=((8, 2.0), (16, 1.5)),
        train_flops=3000,
        stage_pairs=64,
        score=0.5,
        terms={"predicted_loss": 1.25},
    )


def make_stage(stage: int = 1) -> StageResult:
    return StageResult(
        stage=stage,
        num_pairs=100,
        skipped={"no text": 2, "too small": 1},
        parent=PARENT,
        arch=PARENT.with_size("image.width", 96),
        chosen=WIDER,
        chosen_trial=1,
        reason="It has the highest score.",
        flops=10,
        flops_by_encoder={"image": 6, "text": 4},
        params=1000,
        metrics={"zero_shot_top1": Measure(0.5, 0.25)},
        validation={"loss": Measure(1.0, 3.5)},
        curve=((32, 1.5), (64, 1.0)),
        pairs_seen=64,
        search_flops=300,
        train_flops=1920,
        cumulative_flops=2220,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_format(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    for number in (0, 1):
        append_line(RunFolder(tmp_path).trials, to_line(make_trial(number)))
    append_line(RunFolder(tmp_path).stages, to_line(make_stage()))
    return tmp_path


def test_records_come_back_as_they_were_written(folder: Path) -> None:
    assert read_trials(folder) == (make_trial(0), make_trial(1))
    assert read_stages(folder) == (make_stage(),)


FIELDS = st.fixed_dictionaries(
    {
        "candidate": st.sampled_from([NO_GROWTH, WIDER]),
        "state": st.sampled_from(["complete", "failed"]),
        "metrics": METRICS,
        "terms": METRICS,
        "curve": st.lists(st.tuples(st.integers(0, 10**15), NUMBERS), max_size=3).map(tuple),
        "score": st.none() | NUMBERS,
        "message": st.text(),
    }
)


@given(fields=FIELDS)
def test_every_trial_round_trips(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    trial = replace(make_trial(), **fields)
    run = tmp_path_factory.mktemp("run")
    append_line(RunFolder(run).trials, to_line(trial))
    assert read_trials(run) == (trial,)


def test_a_record_is_one_line_in_the_order_of_its_fields() -> None:
    line = to_line(replace(make_trial(), message="two\nlines"))
    assert "\n" not in line
    assert list(json.loads(line))[:4] == ["stage", "number", "candidate", "arch"]


def test_torn_last_line_is_dropped_before_the_next_append(folder: Path) -> None:
    path = RunFolder(folder).trials
    whole = path.read_bytes()
    path.write_bytes(whole + to_line(make_trial(2)).encode()[:40])
    append_line(path, to_line(make_trial(3)))
    assert [trial.number for trial in read_trials(folder)] == [0, 1, 3]


def test_torn_last_line_is_not_read(folder: Path) -> None:
    path = RunFolder(folder).trials
    path.write_bytes(path.read_bytes() + to_line(make_trial(2)).encode())
    assert [trial.number for trial in read_trials(folder)] == [0, 1]


def test_drop_torn_line_leaves_whole_lines_and_missing_files_alone(folder: Path) -> None:
    path = RunFolder(folder).trials
    whole = path.read_bytes()
    drop_torn_line(path)
    assert path.read_bytes() == whole
    path.write_bytes(b"torn")
    drop_torn_line(path)
    assert path.read_bytes() == b""
    drop_torn_line(folder / "missing.jsonl")
    assert not (folder / "missing.jsonl").exists()


def test_damaged_line_is_named(folder: Path) -> None:
    path = RunFolder(folder).trials
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{second[:30]}\n{first}\n")
    with pytest.raises(ValueError, match=r"trials\.jsonl: line 2: not valid JSON"):
        read_trials(folder)


def test_damaged_value_is_named(folder: Path) -> None:
    path = RunFolder(folder).stages
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"params": "many"}) + "\n")
    with pytest.raises(ValueError, match=r"stages\.jsonl: line 1: params: must be int"):
        load_run(folder)
    path.write_text(json.dumps(record | {"parms": 3}) + "\n")
    with pytest.raises(ValueError, match=r"line 1: parms: unknown key. Did you mean 'params'"):
        load_run(folder)


def test_folder_without_a_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a run folder: it has no config\.yaml"):
        load_run(tmp_path)


def test_run_without_records_is_empty(tmp_path: Path) -> None:
    write_format(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    run = load_run(tmp_path)
    assert (run.trials, run.stages, run.config) == ((), (), {"seed": 3})
    assert run.stages_frame().empty
    assert run.trials_frame().empty


def test_frames_have_a_column_for_every_dimension_metric_and_term(folder: Path) -> None:
    run = load_run(folder)
    trials, stages = run.trials_frame(), run.stages_frame()
    assert set(DIMENSIONS) <= set(trials.columns) & set(stages.columns)
    assert list(trials["chosen"]) == [False, True]
    assert list(trials["term.predicted_loss"]) == [1.25, 1.25]
    assert stages.loc[0, "metric.zero_shot_top1.chance"] == 0.25
    assert stages.loc[0, "validation.loss"] == 1.0
    assert stages.loc[0, "flops.image"] == 6
    assert stages.loc[0, "skipped"] == 3
    assert stages.loc[0, "chosen"] == run.trials[1].label == "image.width=96"
    assert set(stages["run"]) == {folder.name}


def test_times_are_kept_apart_from_the_records(folder: Path) -> None:
    before = load_run(folder)
    append_timing(folder, Timing(stage=1, what="train", seconds=1.23456, device="cpu, 1 thread"))
    assert json.loads((RunFolder(folder).timings).read_text()) == {
        "stage": 1,
        "what": "train",
        "seconds": 1.235,
        "device": "cpu, 1 thread",
    }
    assert load_run(folder) == before
