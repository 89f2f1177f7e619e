"""Runs as lines of a figure: those that differ in nothing but the seed are one line with a band."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean, stdev
from typing import Any, NamedTuple

from nas_growclip.records.entries import Measure, StageResult
from nas_growclip.records.frames import Run

Runs = Sequence[Run] | Mapping[str, Sequence[Run]]
"""Runs, which are put together by ``group_by_seed``, or groups of runs under their names."""


class Point(NamedTuple):
    """The end of a stage: means over a line's runs."""

    stage: int
    cost: float
    value: float
    spread: float
    """Standard deviation over the runs; 0 of a single one."""
    chance: float
    params: float


@dataclass(frozen=True)
class Series:
    """One line of a figure."""

    name: str
    runs: tuple[Run, ...]
    """A single one, or one a seed."""

    @property
    def label(self) -> str:
        """Its name, and how many seeds it stands for."""
        return f"{self.name} ({len(self.runs)} seeds)" if len(self.runs) > 1 else self.name

    @property
    def stages(self) -> tuple[tuple[StageResult, ...], ...]:
        """Each stage that all its runs have finished, as its runs' results."""
        return tuple(zip(*(run.stages for run in self.runs), strict=False))

    def points(self, metric: str, cost: Callable[[StageResult], float]) -> tuple[Point, ...]:
        """The stages at which a metric was measured.

        Args:
            metric: Its name in the records, such as ``zero_shot_top1``.
            cost: What a stage cost, which is its place on the axis.
        """
        measured = [
            (results, [result.metrics[metric] for result in results])
            for results in self.stages
            if all(is_measured(result, metric) for result in results)
        ]
        return tuple(_point(results, measures, cost) for results, measures in measured)


def is_measured(result: StageResult, metric: str) -> bool:
    """Whether a stage has a finite value of a metric."""
    return metric in result.metrics and math.isfinite(result.metrics[metric].value)


def _point(
    results: Sequence[StageResult],
    measures: Sequence[Measure],
    cost: Callable[[StageResult], float],
) -> Point:
    values = [measure.value for measure in measures]
    return Point(
        stage=results[0].stage,
        cost=fmean(map(cost, results)),
        value=fmean(values),
        spread=stdev(values) if len(values) > 1 else 0.0,
        chance=fmean(measure.chance for measure in measures),
        params=fmean(result.params for result in results),
    )


def group_by_seed(runs: Sequence[Run]) -> dict[str, tuple[Run, ...]]:
    """Runs whose configurations are the same but for their seeds, under a name that they share.

    Args:
        runs: Any runs; one that is like no other is a group of its own.

    Returns:
        The groups, in the order of their first runs.
    """
    groups: dict[tuple[str, int], list[Run]] = {}
    seen = Counter[tuple[str, Any]]()
    for run in runs:
        config = json.dumps({**run.config, "seed": None}, sort_keys=True, default=str)
        once = (config, run.config.get("seed"))
        groups.setdefault((config, seen[once]), []).append(run)
        seen[once] += 1
    names = distinct_names(map(_shared_name, groups.values()))
    return {name: tuple(group) for name, group in zip(names, groups.values(), strict=True)}


def series_of(runs: Runs) -> tuple[Series, ...]:
    """The lines of a figure."""
    groups = runs if isinstance(runs, Mapping) else group_by_seed(runs)
    return tuple(Series(name, tuple(group)) for name, group in groups.items())


def distinct_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names, numbered where several are the same."""
    given = tuple(names)
    times, seen = Counter(given), Counter[str]()
    distinct = []
    for name in given:
        seen[name] += 1
        distinct.append(f"{name} ({seen[name]})" if times[name] > 1 else name)
    return tuple(distinct)


def _shared_name(runs: Sequence[Run]) -> str:
    """A single run's name; of several what their names begin with, or their folder."""
    if len(runs) == 1:
        return runs[0].name
    letters = takewhile(
        lambda each: len(set(each)) == 1, zip(*(r.name for r in runs), strict=False)
    )
    shared = "".join(each[0] for each in letters)
    return re.sub(r"[\W_]*(seed[\W_\d]*)?$", "", shared) or runs[0].path.resolve().parent.name
