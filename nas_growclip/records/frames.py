"""A run's records as read from its folder, and as pandas frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nas_growclip.io.mappings import read_mapping
from nas_growclip.records.entries import Measure, StageResult, Trial
from nas_growclip.records.folder import find_config, read_stages, read_trials


@dataclass(frozen=True)
class Run:
    """A run folder's records, as read by ``load_run``."""

    path: Path
    name: str
    config: Mapping[str, Any]
    trials: tuple[Trial, ...]
    stages: tuple[StageResult, ...]

    def stages_frame(self) -> pd.DataFrame:
        """One row a stage; columns ``metric.NAME``, ``metric.NAME.chance`` and dimensions."""
        return pd.DataFrame([_stage_row(self.name, stage) for stage in self.stages])

    def trials_frame(self) -> pd.DataFrame:
        """One row a trial; metrics, terms and sizes as columns."""
        chosen = {stage.stage: stage.chosen_trial for stage in self.stages}
        rows = [
            _trial_row(self.name, trial) | {"chosen": chosen.get(trial.stage) == trial.number}
            for trial in self.trials
        ]
        return pd.DataFrame(rows)


def load_run(path: str | Path) -> Run:
    """Read a run folder's records.

    Raises:
        ValueError: If the folder is no run folder or a record in it is damaged.
    """
    folder = Path(path)
    return Run(
        path=folder,
        name=folder.resolve().name,
        config=read_mapping(find_config(folder)),
        trials=read_trials(folder),
        stages=read_stages(folder),
    )


def _stage_row(name: str, stage: StageResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": name,
        "stage": stage.stage,
        "num_pairs": stage.num_pairs,
        "chosen": stage.chosen.label,
        "flops": stage.flops,
        "params": stage.params,
        "pairs_seen": stage.pairs_seen,
        "search_flops": stage.search_flops,
        "train_flops": stage.train_flops,
        "cumulative_flops": stage.cumulative_flops,
        "skipped": sum(stage.skipped.values()),
        "reason": stage.reason,
    }
    row |= {f"flops.{encoder}": flops for encoder, flops in stage.flops_by_encoder.items()}
    row |= _measure_columns("metric", stage.metrics)
    row |= _measure_columns("validation", stage.validation)
    return row | stage.arch.sizes()


def _measure_columns(prefix: str, measures: Mapping[str, Measure]) -> dict[str, float]:
    """Each measure's value under its name, and its chance level under ``NAME.chance``."""
    columns: dict[str, float] = {}
    for name, measure in measures.items():
        columns[f"{prefix}.{name}"] = measure.value
        columns[f"{prefix}.{name}.chance"] = measure.chance
    return columns


def _trial_row(name: str, trial: Trial) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": name,
        "stage": trial.stage,
        "trial": trial.number,
        "candidate": trial.label,
        "momentum": trial.candidate.momentum,
        "state": trial.state,
        "flops": trial.flops,
        "params": trial.params,
        "train_flops": trial.train_flops,
        "stage_pairs": trial.stage_pairs,
        "score": trial.score,
        "message": trial.message,
    }
    row |= {f"metric.{key}": value for key, value in trial.metrics.items()}
    row |= {f"term.{key}": value for key, value in trial.terms.items()}
    return row | trial.arch.sizes()
