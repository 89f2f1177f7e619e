"""A whole run, or several, as one Optuna study: in optuna-dashboard its front is their picture.

Two objectives, how well the right partner is found and the FLOPs that it takes, over the model of
each finished stage and, marked, each candidate that was tried. Sizes are parameters of their own,
so that the importances are those of the dimensions. A run's own study is made anew when a stage
ends; nothing reads it back.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import optuna
from optuna.distributions import IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import create_trial

from nas_growclip.growth.candidates import Candidate
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import StageResult, Trial
from nas_growclip.search.objective import partner_probability
from nas_growclip.search.optuna.dashboard import save_note
from nas_growclip.search.optuna.samplers import experimental

OBJECTIVES = ("exp(-loss) on validation", "FLOPs a pair")
STAGE, CANDIDATE = "finished stage", "candidate, after its trial"
NOTE = """\
Every finished stage's model, and every candidate at the end of its trial, a part of a stage
(attribute *what*). exp(-loss) is the probability that a model gives to the right partner, geometric
mean over the validation pairs. FLOPs are fvcore FLOPs: one multiply-add is one; one pair, forward.
"""


class RunRecords(NamedTuple):
    """What a run recorded."""

    name: str
    stages: Sequence[StageResult]
    """Finished ones."""
    trials: Sequence[Trial]
    """Of all stages."""


class Point(NamedTuple):
    """A model that was measured."""

    candidate: Candidate
    arch: ClipArch
    loss: float
    """On validation, in nats."""
    flops: int
    attributes: Mapping[str, Any]


def study_of_runs(name: str, storage: BaseStorage, runs: Sequence[RunRecords]) -> optuna.Study:
    """Make a study of one run or of several anew.

    Args:
        name: The study's; one of that name is replaced.
        storage: Where.
        runs: What they recorded.
    """
    points = [point for run in runs for point in _points(run)]
    with suppress(KeyError):
        optuna.delete_study(study_name=name, storage=storage)
    study = optuna.create_study(
        study_name=name, storage=storage, directions=["maximize", "minimize"]
    )
    with experimental():
        study.set_metric_names(list(OBJECTIVES))
    ranges = size_ranges(points)
    study.add_trials([_trial(point, ranges) for point in points])
    save_note(study, NOTE)
    return study


def _points(run: RunRecords) -> list[Point]:
    points = [*map(_of_stage, run.stages), *_of_trials(run.trials)]
    return [p._replace(attributes={"run": run.name, **p.attributes}) for p in points]


def size_ranges(points: Sequence[Point]) -> Mapping[str, IntDistribution]:
    """The dimensions that something grew, each from its least to its largest size.

    Others may differ too, as heads follow the width, but tell nothing more.
    """
    grown = {dimension: None for point in points for dimension in point.candidate.dimensions}
    columns = {name: [point.arch.size(name) for point in points] for name in grown}
    return {name: IntDistribution(min(sizes), max(sizes)) for name, sizes in columns.items()}


def _of_stage(stage: StageResult) -> Point:
    attributes = {
        "what": STAGE,
        "stage": stage.stage,
        "grown": str(stage.chosen),
        "training FLOPs so far": stage.cumulative_flops,
        "pairs": stage.num_pairs,
        **{f"test: {name}": measure.value for name, measure in stage.metrics.items()},
    }
    return Point(stage.chosen, stage.arch, stage.validation["loss"].value, stage.flops, attributes)


def _of_trials(trials: Iterable[Trial]) -> Iterator[Point]:
    """Those that were measured to their end."""
    for trial in trials:
        if trial.state == "complete" and math.isfinite(trial.metrics["loss"]):
            attributes = {
                "what": CANDIDATE,
                "stage": trial.stage,
                "grown": str(trial.candidate),
                "score": trial.score,
                "training FLOPs": trial.train_flops,
            }
            loss = trial.metrics["loss"]
            yield Point(trial.candidate, trial.arch, loss, trial.flops, attributes)


def _trial(point: Point, ranges: Mapping[str, IntDistribution]) -> optuna.trial.FrozenTrial:
    return create_trial(
        values=[partner_probability(point.loss), float(point.flops)],
        params={name: point.arch.size(name) for name in ranges},
        distributions=dict(ranges),
        user_attrs=dict(point.attributes),
    )
