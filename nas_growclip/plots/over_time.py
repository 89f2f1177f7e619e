"""Arms over time: what grew against every fixed size and against the best of them."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_growclip.io.formatting import si
from nas_growclip.plots.accuracy import axis_words
from nas_growclip.plots.drawing import (
    figure_of_words,
    flops_axis,
    handle,
    line_style,
    new_figure,
    settle,
    styled,
)
from nas_growclip.plots.labels import Label, write_labels
from nas_growclip.plots.series import Point, Series
from nas_growclip.records.entries import StageResult
from nas_growclip.records.frames import Run
from nas_growclip.records.words import FLOPS_NOTE

METRICS = ("zero_shot_top1", "i2t_recall@1")
FIXED = "#9a9a9a"
ENVELOPE = "#000000"
THICK, THIN = 2.2, 0.8


@styled
def accuracy_over_time(
    runs: Mapping[str, Sequence[Run]],
    fixed: Sequence[str] = (),
    metrics: Sequence[str] = METRICS,
) -> Figure:
    """Accuracy after each stage against the training FLOPs so far: fixed sizes thin, others thick.

    The dotted black line is the envelope: the best fixed size of each stage. Beside the markers of
    what is no fixed size stand the FLOPs of its model for a pair, where they change.

    Args:
        runs: The runs of each arm, one a seed, under the arm's name; lines join their means.
        fixed: Names of arms of fixed size.
        metrics: One panel each, names as in the records; those that no stage has are left out.
    """
    lines = [Series(name, tuple(group)) for name, group in runs.items()]
    shown = [m for m in metrics if any(line.points(m, _spent) for line in lines)]
    if not shown:
        return figure_of_words("No stage has finished, or nothing of this was measured.")
    thick = [line for line in lines if line.name not in fixed]
    thin = [line for line in lines if line.name in fixed]
    figure = new_figure(2.6 * len(shown) + 0.9)
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for panel, metric in zip(panels, shown, strict=True):
        _draw(panel, thick, thin, metric)
        panel.set_ylabel(axis_words(metric))
    costs = [_spent(stage) for line in lines for run in line.runs for stage in run.stages]
    flops_axis(panels[-1], costs)
    panels[-1].set_xlabel(f"training FLOPs so far, search included\n{FLOPS_NOTE}")
    _legend(figure, thick, thin)
    settle(figure)
    for panel, metric in zip(panels, shown, strict=True):
        write_labels(panel, [*_sizes(thick, metric), *_names(thin, metric)])
    return figure


def envelope_points(fixed: Sequence[Series], metric: str) -> list[Point]:
    """The best fixed size of each stage, of those that were run so far."""
    points = [point for line in fixed for point in line.points(metric, _spent)]
    return [
        max((p for p in points if p.stage == stage), key=lambda point: point.value)
        for stage in sorted({point.stage for point in points})
    ]


def _spent(stage: StageResult) -> float:
    return stage.cumulative_flops


def _draw(panel: Axes, thick: Sequence[Series], thin: Sequence[Series], metric: str) -> None:
    for line in thin:
        x, y = _places(line.points(metric, _spent))
        panel.plot(x, y, color=FIXED, linewidth=THIN, marker=".", markersize=3, zorder=2)
    for index, line in enumerate(thick):
        color, marker, dashes = line_style(index)
        x, y = _places(line.points(metric, _spent))
        panel.plot(x, y, color=color, marker=marker, linestyle=dashes, linewidth=THICK, zorder=4)
    x, y = _places(envelope_points(thin, metric))
    panel.plot(x, y, color=ENVELOPE, linestyle=":", linewidth=1.4, zorder=3)
    panel.margins(x=0.12, y=0.15)


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.cost for point in points], [100 * point.value for point in points]


def _sizes(thick: Sequence[Series], metric: str) -> list[Label]:
    """The FLOPs of a model for a pair, where a line begins or they change; the last come first."""
    labels = [
        (index, point, flops)
        for index, line in enumerate(thick)
        for point, flops in _changes(line, metric)
    ]
    return [
        Label(point.cost, 100 * point.value, (si(flops),), line_style(index)[0])
        for index, point, flops in sorted(labels, key=lambda each: -each[1].stage)
    ]


def _changes(line: Series, metric: str) -> Iterator[tuple[Point, float]]:
    """The first point, and those with another size than the one before, with their sizes."""
    before = None
    points = line.points(metric, _spent), line.points(metric, lambda stage: stage.flops)
    for point, size in zip(*points, strict=True):
        if size.cost != before:
            yield point, size.cost
        before = size.cost


def _names(thin: Sequence[Series], metric: str) -> list[Label]:
    """The names of the fixed sizes, beside their last markers."""
    ends = [(line.name, line.points(metric, _spent)[-1]) for line in thin]
    return [Label(point.cost, 100 * point.value, (name,), FIXED) for name, point in ends]


def _legend(figure: Figure, thick: Sequence[Series], thin: Sequence[Series]) -> None:
    handles = [handle(line.label, *line_style(k), THICK) for k, line in enumerate(thick)]
    if thin:
        handles.append(handle("fixed sizes", FIXED, ".", "-", THIN))
        handles.append(handle("best fixed size", ENVELOPE, "", ":", 1.4))
    figure.legend(handles=handles, loc="outside upper left", ncols=min(4, len(handles)))
