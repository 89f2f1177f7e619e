"""Optuna studies and NNI exports as data frames: one row a trial, the same columns for both.

Columns: ``trial``, ``candidate``, ``state``, ``score`` (gain over no growth, higher is better),
``loss``, ``flops``, ``params``, ``curve`` (validation losses, point by point), and each dimension
that some candidate grows, with the size it grows to, 0 where it does not.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

from nas_growclip.search.nni.space import sample_label

COLUMNS = ("trial", "candidate", "state", "score", "loss", "flops", "params", "curve")

_STEP = re.compile(r"([a-z_.]+)=(\d+)")


def stage_studies(database: Path) -> list[optuna.Study]:
    """The studies of a run's stages, from the SQLite file in its folder.

    Args:
        database: ``RUN/study.db``.

    Raises:
        ValueError: If there is no such file.
    """
    if not database.is_file():
        raise ValueError(
            f"{database}: must be Optuna's SQLite file of a run, but is not there. Give a run "
            "whose search.backend is optuna and whose search.storage is not set."
        )
    storage = f"sqlite:///{database}"
    names = optuna.get_all_study_names(storage)
    studies = [optuna.load_study(study_name=n, storage=storage) for n in names if "/stage_" in n]
    return sorted(studies, key=lambda study: study.study_name)


def study_frame(study: optuna.Study) -> pd.DataFrame:
    """A stage's study; trials that were handed back, and have no candidate, are left out."""
    sign = -1.0 if study.directions[0] == StudyDirection.MINIMIZE else 1.0
    trials = (t for t in study.get_trials(deepcopy=False) if "candidate" in t.user_attrs)
    return _frame(_study_row(trial, sign) for trial in trials)


def nni_frame(export: Path) -> pd.DataFrame:
    """What ``nnictl experiment export --type json --intermediate`` wrote.

    Raises:
        ValueError: If the file is not such an export.
    """
    try:
        records = json.loads(export.read_text(encoding="utf-8"))
        if not isinstance(records, list):
            raise TypeError("not a list of trials")
        rows = [_nni_row(record) for record in records]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{export}: must be an export of NNI, but: {type(error).__name__}: {error}. Write it "
            "by `nnictl experiment export ID --type json --intermediate --filename FILE`."
        ) from None
    return _frame(rows)


def front(frame: pd.DataFrame) -> pd.DataFrame:
    """The trials that no other one beats in both score and FLOPs, by rising FLOPs."""
    scored = frame.dropna(subset=["score", "flops"])
    ordered = scored.sort_values(["flops", "score"], ascending=[True, False])
    best_before = ordered["score"].cummax().shift(fill_value=-math.inf)
    return ordered[ordered["score"] > best_before]


def importances(frame: pd.DataFrame, seed: int = 0) -> pd.Series:
    """Each dimension's share in the variance of the score, by Optuna's fANOVA.

    Optuna's own page sees which dimensions were chosen as one parameter, which then explains
    everything; here each dimension is a parameter of every trial.

    Args:
        frame: Of ``study_frame`` or ``nni_frame``.
        seed: Of the forest.

    Returns:
        Shares by dimension, the largest first; empty where there is nothing to compare.
    """
    scored = frame.dropna(subset=["score"])
    dimensions = [name for name in frame.columns[len(COLUMNS) :] if scored[name].nunique() > 1]
    if not dimensions or scored["score"].nunique() < 2:
        return pd.Series(dtype=float, name="importance")
    distributions: dict[str, BaseDistribution] = {
        d: IntDistribution(0, int(scored[d].max())) for d in dimensions
    }
    study = optuna.create_study(direction="maximize")
    for _, row in scored.iterrows():
        sizes = {d: int(row[d]) for d in dimensions}
        study.add_trial(create_trial(params=sizes, distributions=distributions, value=row["score"]))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return pd.Series(found, name="importance")


def _study_row(trial: FrozenTrial, sign: float) -> dict[str, Any]:
    about = trial.user_attrs
    return {
        "trial": about["number"],
        "candidate": about["candidate"],
        "state": trial.state.name.lower(),
        "score": sign * trial.values[0] + 0.0 if trial.state.name == "COMPLETE" else math.nan,
        "loss": about.get("metric: loss", math.nan),
        "flops": about.get("FLOPs a pair", math.nan),
        "params": about.get("parameters", math.nan),
        "curve": [loss for _, loss in about.get("learning curve", ())],
    }


def _nni_row(record: Mapping[str, Any]) -> dict[str, Any]:
    final = _decoded(record["value"])
    # NNI lists the final result among the intermediate ones.
    points = [point for point in map(_decoded, record.get("intermediate", ())) if point != final]
    return {
        "trial": record.get("trialJobId"),
        "candidate": sample_label(record["parameter"]),
        "state": "complete",
        "score": final.get("score", final["default"]),
        "loss": final["loss"],
        "flops": final["flops"],
        "params": final["params"],
        "curve": [point["loss"] for point in points],
    }


def _decoded(value: Any) -> Any:
    """What a trial reported; NNI keeps it as JSON in JSON."""
    while isinstance(value, str):
        value = json.loads(value)
    return value


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    made = [dict(row) | _sizes(str(row["candidate"])) for row in rows]
    frame = pd.DataFrame(made, columns=_columns(made))
    dimensions = list(frame.columns[len(COLUMNS) :])
    return frame.fillna(dict.fromkeys(dimensions, 0)).astype(dict.fromkeys(dimensions, int))


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))


def _sizes(candidate: str) -> dict[str, int]:
    return {dimension: int(size) for dimension, size in _STEP.findall(candidate)}
