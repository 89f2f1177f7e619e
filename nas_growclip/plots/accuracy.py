"""Accuracy against FLOPs, stage by stage: what runs are compared by."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_growclip.io.choices import look_up
from nas_growclip.io.formatting import si
from nas_growclip.plots.drawing import (
    WARNING,
    figure_of_words,
    flops_axis,
    handle,
    line_style,
    new_figure,
    plain,
    settle,
    styled,
)
from nas_growclip.plots.labels import Label, write_labels
from nas_growclip.plots.series import Runs, Series, is_measured, series_of
from nas_growclip.records.entries import StageResult
from nas_growclip.records.held_out import set_differences
from nas_growclip.records.words import ACCURACIES, FLOPS_NOTE


class Cost(NamedTuple):
    """What an accuracy is drawn against."""

    of: Callable[[StageResult], float]
    words: str


COSTS: Mapping[str, Cost] = {
    "training": Cost(
        lambda stage: stage.cumulative_flops, "training FLOPs so far, search included"
    ),
    "model": Cost(lambda stage: stage.flops, "FLOPs of the model for a pair, forward"),
}
"""Horizontal axes by name."""

KEY_WIDTH = 118
"""Characters of a line below a figure."""
MOST_KEY_LINES = 30
SET_COLUMNS = 3
CHANCE = "#555555"


@styled
def accuracy_vs_flops(
    runs: Runs,
    metrics: Sequence[str] = tuple(ACCURACIES),
    costs: Sequence[str] = tuple(COSTS),
) -> Figure:
    """Accuracy after each stage, against the training FLOPs so far and the model's own FLOPs.

    A marker is the end of a stage; beside it stand the stage's number and the model's parameters.
    Runs that differ in nothing but the seed are one line: their means, in a band of one standard
    deviation to either side, with a dot for each run. Dashed is the level of a random model. Runs
    that were not measured on the same sets are said to be.

    Args:
        runs: Runs, or groups of runs under their names.
        metrics: Names of metrics as in the records; those that no stage has are left out.
        costs: The horizontal axes, names in ``COSTS``.

    Raises:
        ValueError: If a name of ``costs`` is unknown.
    """
    axes = [look_up(COSTS, cost, "costs") for cost in costs]
    lines = series_of(runs)
    shown = [metric for metric in metrics if _has(lines, metric)]
    if not shown or not axes:
        return figure_of_words(_nothing_words(lines, metrics))
    key = [*_reading_lines(lines), *_chosen_lines(lines), FLOPS_NOTE]
    figure = new_figure(1.9 * len(shown) + 0.15 * len(key) + 0.9)
    grid = figure.subplots(len(shown), len(axes), sharex="col", sharey="row", squeeze=False)
    for row, metric in zip(grid, shown, strict=True):
        for panel, cost in zip(row, axes, strict=True):
            _draw_metric(panel, lines, metric, cost)
        row[0].set_ylabel(axis_words(metric))
    for panel, cost in zip(grid[-1], axes, strict=True):
        flops_axis(panel, _costs(lines, cost))
        panel.set_xlabel(cost.words)
    _write_legend(figure, lines, shown)
    figure.supxlabel("\n".join(key), x=0.01, ha="left", fontsize=7.5, linespacing=1.35)
    settle(figure)
    for row, metric in zip(grid, shown, strict=True):
        for panel, cost in zip(row, axes, strict=True):
            write_labels(panel, _labels(lines, metric, cost))
    return figure


@styled
def accuracy_by_set(runs: Runs, cost: str = "training") -> Figure:
    """Accuracy on each zero-shot and each retrieval set, with that set's own level of chance.

    Args:
        runs: Runs, or groups of runs under their names.
        cost: The horizontal axis, a name in ``COSTS``.

    Raises:
        ValueError: If the name is unknown.
    """
    axis, lines = look_up(COSTS, cost, "cost"), series_of(runs)
    shown = set_metrics(lines)
    if not shown:
        return figure_of_words("No zero-shot or retrieval set was measured.")
    rows = -(-len(shown) // SET_COLUMNS)
    figure = new_figure(1.7 * rows + 0.9)
    grid = figure.subplots(rows, SET_COLUMNS, sharex=True, squeeze=False).ravel()
    for panel, metric in zip(grid, shown, strict=False):
        _draw_metric(panel, lines, metric, axis)
        panel.set_title(set_words(metric), fontsize=8)
        panel.tick_params(labelbottom=True)
    for panel in grid[len(shown) :]:
        panel.set_visible(False)
    flops_axis(grid[0], _costs(lines, axis))
    figure.supylabel("accuracy (%)", fontsize=9)
    figure.supxlabel(f"{axis.words}\n{FLOPS_NOTE}", fontsize=8)
    _write_legend(figure, lines, shown)
    settle(figure)
    return figure


def set_metrics(lines: Sequence[Series]) -> tuple[str, ...]:
    """The metrics of single sets that some stage has, in the order of the records."""
    names = (name for s in _results(lines) for name in s.metrics if is_measured(s, name))
    return tuple(name for name in dict.fromkeys(names) if set_words(name))


def set_words(metric: str) -> str:
    """A set's name, with the direction of a retrieval set; nothing for any other metric."""
    head, _, rest = metric.partition("/")
    name, _, measure = rest.rpartition("/")
    ways = {"i2t_recall@1": "image to text R@1", "t2i_recall@1": "text to image R@1"}
    if head == "zero_shot_top1":
        return rest
    return f"{name}, {ways[measure]}" if head == "retrieval" and measure in ways else ""


def axis_words(metric: str) -> str:
    """A metric's name and unit, on two lines."""
    words = ACCURACIES.get(metric, metric.replace("_", " "))
    unit = "%" if _scale(metric) > 1 else "nats"
    return f"{words} ({unit})".replace(" top", "\ntop").replace(" recall", "\nrecall")


def _scale(metric: str) -> float:
    """Shares are drawn as percent, losses as they are."""
    return 1.0 if metric.endswith("loss") else 100.0


def _draw_metric(panel: Axes, lines: Sequence[Series], metric: str, cost: Cost) -> None:
    scale = _scale(metric)
    for index, line in enumerate(lines):
        color, marker, dashes = line_style(index)
        points = line.points(metric, cost.of)
        x, y = [p.cost for p in points], [scale * p.value for p in points]
        panel.plot(x, y, color=color, marker=marker, linestyle=dashes, zorder=3)
        if len(line.runs) > 1:
            _draw_seeds(panel, line, metric, cost, color)
    _draw_chance(panel, lines, metric, cost)
    panel.margins(y=0.2)
    highest = panel.dataLim.y1
    if scale > 1 and highest > 0:  # from 0 on, with room for a chance level near it
        panel.set_ylim(-0.06 * highest, 1.2 * highest)


def _draw_seeds(panel: Axes, line: Series, metric: str, cost: Cost, color: str) -> None:
    """The band of one standard deviation, and each run's own points."""
    scale, points = _scale(metric), line.points(metric, cost.of)
    low = [scale * (p.value - p.spread) for p in points]
    high = [scale * (p.value + p.spread) for p in points]
    panel.fill_between([p.cost for p in points], low, high, color=color, alpha=0.15, linewidth=0)
    for run in line.runs:
        own = Series(run.name, (run,)).points(metric, cost.of)
        x, y = [p.cost for p in own], [scale * p.value for p in own]
        panel.plot(x, y, color=color, marker=".", markersize=3, linestyle="", alpha=0.6)


def _draw_chance(panel: Axes, lines: Sequence[Series], metric: str, cost: Cost) -> None:
    """One grey line where all have one level; where not, each run's in its colour."""
    style: dict[str, Any] = {"linestyle": "--", "linewidth": 0.8, "zorder": 1}
    scale, common = _scale(metric), _common_chance(lines, metric)
    if common is not None:
        panel.axhline(scale * common, color=CHANCE, **style)
        return
    for index, line in enumerate(lines):
        points = line.points(metric, cost.of)
        levels = {round(point.chance, 9) for point in points}
        color = line_style(index)[0]
        if len(levels) == 1:
            panel.axhline(scale * levels.pop(), color=color, **style)
        else:
            x, y = [p.cost for p in points], [scale * p.chance for p in points]
            panel.plot(x, y, color=color, **style)


def _common_chance(lines: Sequence[Series], metric: str) -> float | None:
    points = [point for line in lines for point in line.points(metric, COSTS["model"].of)]
    levels = {round(point.chance, 9) for point in points}
    return levels.pop() if len(levels) == 1 else None


def _labels(lines: Sequence[Series], metric: str, cost: Cost) -> list[Label]:
    """The stage and the model's parameters; the last stages come first, if room is short."""
    scale = _scale(metric)
    labels = [
        (point.stage, index, point)
        for index, line in enumerate(lines)
        for point in line.points(metric, cost.of)
    ]
    return [
        Label(
            point.cost,
            scale * point.value,
            (f"{stage}: {si(point.params)}", str(stage)),
            line_style(index)[0],
        )
        for stage, index, point in sorted(labels, key=lambda each: -each[0])
    ]


def _write_legend(figure: Figure, lines: Sequence[Series], metrics: Sequence[str]) -> None:
    handles = [handle(line.label, *line_style(index), 1.4) for index, line in enumerate(lines)]
    is_common = all(_common_chance(lines, metric) is not None for metric in metrics)
    words = "chance" if is_common else "chance, in its run's colour"
    legend = figure.legend(
        handles=[*handles, handle(words, CHANCE, "", "--", 0.8)],
        loc="outside upper left",
        ncols=min(4, len(handles) + 1),
        alignment="left",
    )
    if warning := warning_words(lines):
        legend.set_title(warning)
        legend.get_title().set(color=WARNING, fontsize=8)


def warning_words(lines: Sequence[Series]) -> str:
    """That runs were measured on different sets, and on which; nothing where they were not."""
    differences = set_differences([replace(r, name=line.name) for line in lines for r in line.runs])
    if not differences:
        return ""
    said = "Not comparable as they stand: the runs were measured on different sets."
    return "\n".join([said, *(part for line in differences for part in wrap(line, KEY_WIDTH))])


def _reading_lines(lines: Sequence[Series]) -> Iterator[str]:
    yield "At a marker: the stage's number and the model's parameters."
    if any(len(line.runs) > 1 for line in lines):
        yield "Lines join means over seeds, bands are one standard deviation, dots single runs."


def _chosen_lines(lines: Sequence[Series]) -> list[str]:
    """What each stage grew, wrapped to the figure's width."""
    texts = [
        part
        for line in lines
        for part in wrap(_chosen_words(line), KEY_WIDTH, subsequent_indent="    ")
    ]
    left_out = len(texts) - MOST_KEY_LINES
    return texts if left_out <= 0 else [*texts[:MOST_KEY_LINES], f"and {left_out} lines more"]


def _chosen_words(line: Series) -> str:
    stages = "; ".join(f"{stage[0].stage}: {_grown(stage)}" for stage in line.stages)
    return f"{plain(line.name)} grew, by stage, {stages or 'nothing: no stage has finished'}"


def _grown(results: Sequence[StageResult]) -> str:
    """What a stage grew; of several seeds what most of them did."""
    [(label, count)] = Counter(result.chosen.label for result in results).most_common(1)
    return label if count == len(results) else f"{label} ({count} of {len(results)} seeds)"


def _results(lines: Sequence[Series]) -> Iterator[StageResult]:
    return (stage for line in lines for run in line.runs for stage in run.stages)


def _has(lines: Sequence[Series], metric: str) -> bool:
    return any(is_measured(stage, metric) for stage in _results(lines))


def _costs(lines: Sequence[Series], cost: Cost) -> list[float]:
    return [cost.of(stage) for stage in _results(lines)]


def _nothing_words(lines: Sequence[Series], metrics: Sequence[str]) -> str:
    if not any(True for _ in _results(lines)):
        return "No stage has finished."
    return f"Not measured: {', '.join(metrics) or 'no metric was asked for'}."
