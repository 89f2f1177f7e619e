"""A whole run as one study: its points, its front, its importances, and runs side by side."""

import math
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from nas_growclip.cli.main import main
from nas_growclip.experiment.run import run_stages
from nas_growclip.growth.candidates import Candidate, GrowthStep
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import Measure, StageResult, Trial
from nas_growclip.records.folder import read_stages, read_trials, run_name
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.optuna.run_study import CANDIDATE, STAGE, RunRecords, study_of_runs
from tests.support.runs import smoke_config

PARENT = ClipArch.preset("tiny")


def a_trial(number: int, dimension: str, new: int, loss: float) -> Trial:
    old = PARENT.size(dimension)
    step = (GrowthStep(dimension=dimension, old=old, new=new),) if new != old else ()
    candidate = Candidate(steps=step)
    return Trial(
        stage=0,
        number=number,
        candidate=candidate,
        arch=candidate.apply(PARENT),
        flops=1000 * new,
        params=10,
        state="complete",
        metrics={"loss": loss},
        score=-loss,
    )


def a_stage(best: Trial, loss: float) -> StageResult:
    measured = Measure(value=loss, chance=5.0)
    return StageResult(
        stage=0,
        num_pairs=100,
        skipped={},
        parent=PARENT,
        arch=best.arch,
        chosen=best.candidate,
        chosen_trial=best.number,
        reason="it was best",
        flops=best.flops,
        flops_by_encoder={},
        params=10,
        metrics={"loss": measured, "zero_shot/scenes": Measure(value=0.5, chance=0.1)},
        validation={"loss": measured},
        curve=(),
        pairs_seen=100,
        search_flops=0,
        train_flops=10,
        cumulative_flops=10,
    )


def in_memory(trials: list[Trial]) -> optuna.Study:
    storage = optuna.storages.InMemoryStorage()
    records = RunRecords("mine", [a_stage(trials[1], 1.0)], trials)
    return study_of_runs("mine", storage, [records])


def test_points_are_stages_and_candidates() -> None:
    trials = [
        a_trial(0, "image.width", PARENT.size("image.width"), 3.0),
        a_trial(1, "image.width", 96, 2.0),
        replace(a_trial(2, "text.depth", 4, math.nan), state="failed", metrics={}, score=None),
    ]
    stage, control, grown = in_memory(trials).trials
    assert [t.user_attrs["what"] for t in (stage, control, grown)] == [STAGE, CANDIDATE, CANDIDATE]
    assert stage.values == [math.exp(-1.0), 96000.0]
    assert grown.values == [math.exp(-2.0), 96000.0]
    assert stage.user_attrs["test: zero_shot/scenes"] == 0.5
    assert control.params == {"image.width": PARENT.size("image.width")}
    assert stage.params == grown.params == {"image.width": 96}


def test_several_runs_are_one_study(tmp_path: Path) -> None:
    """As often as it is made; sizes that only one run has are a parameter of all."""
    wide, deep = (
        [a_trial(0, name, PARENT.size(name), 3.0), a_trial(1, name, size, 2.0)]
        for name, size in (("image.width", 96), ("text.depth", 4))
    )
    runs = [
        RunRecords(name, [a_stage(trials[1], 1.0)], trials)
        for name, trials in (("wide", wide), ("deep", deep))
    ]
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/runs.db")
    for _ in range(2):
        study = study_of_runs("both", storage, runs)
    assert [t.user_attrs["run"] for t in study.trials] == ["wide"] * 3 + ["deep"] * 3
    assert all(set(t.params) == {"image.width", "text.depth"} for t in study.trials)


def test_front_is_the_best_for_the_flops() -> None:
    widths = (PARENT.size("image.width"), 96, 128)
    trials = [a_trial(i, "image.width", w, 3.0 + i) for i, w in enumerate(widths)]
    front = in_memory(trials).best_trials
    assert {t.user_attrs["what"] for t in front} == {STAGE, CANDIDATE}
    assert {t.values[1] for t in front} == {1000.0 * widths[0], 1000.0 * widths[1]}


def test_importances_are_those_of_the_dimensions() -> None:
    trials = [a_trial(i, "image.width", 64 + 32 * i, 3.0 - 0.2 * i) for i in range(6)]
    trials += [a_trial(6 + i, "text.depth", 3 + i, 3.0) for i in range(6)]
    study = in_memory(trials)
    evaluator = FanovaImportanceEvaluator(seed=0)
    found = get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[0])
    assert set(found) == {"image.width", "text.depth"}
    assert found["image.width"] > 0.7


@pytest.mark.slow
def test_runs_that_share_a_storage_have_a_study_each(tmp_path: Path) -> None:
    """Two runs of one name; the study is made anew at each stage, with all that is known."""
    storage = f"sqlite:///{tmp_path}/all.db"
    config = smoke_config()
    config = replace(
        config,
        data=replace(config.data, stages=(64, 96), zero_shot=()),
        search=SearchConfig(num_trials=2, trial_share=0.3, curve_points=2, storage=storage),
    )
    runs = [tmp_path / place / "run" for place in "ab"]
    for run in runs:
        run_stages(config, run)
    names = set(optuna.get_all_study_names(storage))
    assert len(names) == 6
    both = tmp_path / "both" / "runs.db"
    assert main(["report", *map(str, runs), "--out", str(both.parent), "--study", str(both)]) == 0
    (name,) = optuna.get_all_study_names(f"sqlite:///{both}")
    assert len(optuna.load_study(study_name=name, storage=f"sqlite:///{both}").trials) == 12
    for run in runs:
        name = f"growclip/{run_name(run)}/whole run"
        assert name in names
        points = optuna.load_study(study_name=name, storage=storage).trials
        kinds = [point.user_attrs["what"] for point in points]
        assert kinds.count(STAGE) == len(read_stages(run)) == 2
        assert kinds.count(CANDIDATE) == len(read_trials(run)) == 4
