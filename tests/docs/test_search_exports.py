"""Frames of Optuna studies and of NNI exports: the same columns, the front, the importances."""

import json
import math
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from analysis.search_exports import (
    COLUMNS,
    front,
    importances,
    nni_frame,
    stage_studies,
    study_frame,
)
from tests.support.runs import ROOT

CANDIDATES = ("none", "image.width=96", "text.depth=4", "image.width=96+text.depth=4@0.5")


def tell(study: optuna.Study, number: int, candidate: str, score: float) -> None:
    trial = study.ask()
    sign = -1 if study.direction == optuna.study.StudyDirection.MINIMIZE else 1
    for name, value in {
        "number": number,
        "candidate": candidate,
        "FLOPs a pair": 100 + 10 * number,
        "parameters": 5,
        "metric: loss": 2.0,
        "learning curve": [[0, 3.0], [32, 2.5]],
    }.items():
        trial.set_user_attr(name, value)
    study.tell(trial, sign * score)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_study_is_a_frame_in_which_higher_is_better(direction: str) -> None:
    study = optuna.create_study(direction=direction)
    for number, candidate in enumerate(CANDIDATES):
        tell(study, number, candidate, score=0.1 * number)
    study.tell(study.ask(), state=TrialState.FAIL)  # handed back: without a candidate
    frame = study_frame(study)
    assert list(frame["candidate"]) == list(CANDIDATES)
    assert list(frame["score"]) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert frame["curve"][0] == [3.0, 2.5]
    assert list(frame["image.width"]) == [0, 96, 0, 96]
    assert list(frame["text.depth"]) == [0, 0, 4, 4]


def record(parameter: object, score: float, flops: float) -> dict[str, object]:
    final = {"default": score, "loss": 2.5, "flops": flops, "params": 5.0}
    curve = [json.dumps({"default": 0.1, "loss": loss}) for loss in (3.0, 2.5)]
    return {
        "parameter": {"grow": parameter},
        "value": json.dumps(final),
        "trialJobId": "a",
        "intermediate": [*map(json.dumps, curve), json.dumps(final)],  # NNI lists the final one too
    }


def test_an_nni_export_has_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    nested = {"_name": "image.width=96+text.depth", "text.depth": 4.0}
    path.write_text(json.dumps([record({"_name": "none"}, 0.0, 1.0), record(nested, 0.3, 2.0)]))
    frame = nni_frame(path)
    assert list(frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert list(frame["candidate"]) == ["none", "image.width=96+text.depth=4"]
    assert list(frame["score"]) == [0.0, 0.3]
    assert frame["curve"][1] == [3.0, 2.5]
    assert list(frame["text.depth"]) == [0, 4]


def test_the_export_beside_the_notebook_is_read() -> None:
    frame = nni_frame(ROOT / "analysis" / "nni_export.json")
    assert len(frame) > 3
    assert frame["score"].notna().all()
    assert (frame["curve"].map(len) > 1).all()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"parameter": {}}]'])
def test_a_file_that_is_no_export_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"must be an export of NNI, but: .*nnictl experiment"):
        nni_frame(path)


def test_a_run_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"study\.db: must be Optuna's SQLite file"):
        stage_studies(tmp_path / "study.db")


def test_the_front_is_what_no_trial_beats() -> None:
    frame = pd.DataFrame(
        {
            "score": [0.0, 0.2, 0.1, 0.3, math.nan],
            "flops": [1, 2, 3, 3, 1],
            "candidate": list("abcde"),
        }
    )
    assert list(front(frame)["candidate"]) == ["a", "b", "d"]


def test_importance_goes_to_the_dimension_that_matters() -> None:
    study = optuna.create_study(direction="maximize")
    for number in range(24):
        width, depth = (0, 64, 96)[number % 3], (0, 4)[number // 3 % 2]
        steps = [f"image.width={width}"] * (width > 0) + [f"text.depth={depth}"] * (depth > 0)
        tell(study, number, "+".join(steps) or "none", score=width / 96 + 0.001 * depth)
    shares = importances(study_frame(study))
    assert shares.index[0] == "image.width"
    assert shares["image.width"] > 0.9
    assert shares.sum() == pytest.approx(1.0)


def test_nothing_to_compare_has_no_importance() -> None:
    study = optuna.create_study(direction="maximize")
    tell(study, 0, "none", score=0.0)
    assert importances(study_frame(study)).empty
