"""Figures drawn from records: accuracy against FLOPs, candidates, the architecture's trajectory.

Each function takes the runs and returns a matplotlib ``Figure``; nothing touches pyplot's global
state. Markers and line styles tell lines apart without colour.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from nas_growclip.models.arch import DIMENSIONS
from nas_growclip.records.entries import StageResult
from nas_growclip.records.frames import Run
from nas_growclip.report.candidates_figure import draw_candidates
from nas_growclip.report.drawing import (
    DPI,
    STYLE,
    figure_of_words,
    flops_axis,
    handle,
    line_style,
    new_figure,
    note,
    plain,
    run_handles,
    stage_axis,
    times,
)
from nas_growclip.report.tables import (
    ACCURACIES,
    FLOPS_NOTE,
)


def to_png(draw: Callable[[Sequence[Run]], Figure], runs: Sequence[Run]) -> bytes:
    """One of ``FIGURES`` as PNG bytes, drawn in the shared style."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        draw(runs).savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def draw_accuracy(runs: Sequence[Run]) -> Figure:
    """Zero-shot top-1 and recall@1 against the training FLOPs spent so far."""
    if not any(run.stages for run in runs):
        return figure_of_words("No stage has finished.")
    key = _chosen_lines(runs)
    rows = len(ACCURACIES)
    heights = [2.0] * rows + [0.17 * max(1, len(key)) + 0.15]
    figure = new_figure(sum(heights) + 0.6)
    axes = figure.subplots(rows + 1, 1, gridspec_kw={"height_ratios": heights})
    for panel, (metric, words) in zip(axes, ACCURACIES.items(), strict=False):
        _draw_metric(panel, runs, metric)
        panel.set_ylabel(f"{words} (%)".replace(" top", "\ntop").replace(" recall", "\nrecall"))
        if panel is not axes[0]:
            panel.sharex(axes[0])
        panel.tick_params(labelbottom=panel is axes[rows - 1])
    flops_axis(axes[0], [stage.cumulative_flops for run in runs for stage in run.stages])
    axes[rows - 1].set_xlabel(
        "cumulative training FLOPs, search included (fvcore FLOPs: one multiply-add is one)"
    )
    axes[0].legend(
        handles=[*run_handles(runs), handle("chance", "#555555", "", "--", 0.8)],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
    )
    axes[rows].axis("off")
    axes[rows].text(0, 1, "\n".join(key), va="top", fontsize=8, linespacing=1.4)
    return figure


def draw_trajectory(runs: Sequence[Run]) -> Figure:
    """Sizes relative to the first stage's parent, and the model's FLOPs, by stage."""
    runs = [run for run in runs if run.stages]
    if not runs:
        return figure_of_words("No stage has finished.")
    changed = [d for d in DIMENSIONS if any(_changes(run, d) for run in runs)]
    columns = min(2, len(runs))
    starts = range(0, len(runs), columns)
    mosaic: list[list[Any]] = [
        [str(min(start + column, len(runs) - 1)) for column in range(columns)] for start in starts
    ]
    figure = new_figure(2.5 * len(mosaic) + 2.9)
    panels = figure.subplot_mosaic(
        [*mosaic, ["flops"] * columns],
        height_ratios=[1.0] * len(mosaic) + [0.8],
    )
    for index, run in enumerate(runs):
        _draw_sizes(panels[str(index)], run, changed)
        if len(runs) > 1:
            panels[str(index)].set_title(plain(run.name))
    _draw_model_flops(panels["flops"], runs)
    if changed:
        handles = [handle(d, *line_style(changed.index(d)), 1.4) for d in changed]
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


FIGURES: Mapping[str, Callable[[Sequence[Run]], Figure]] = {
    "accuracy_vs_flops": draw_accuracy,
    "candidates": draw_candidates,
    "trajectory": draw_trajectory,
}
"""Every figure of the report under its file name; a new one is one function and its line here."""


def _draw_metric(panel: Axes, runs: Sequence[Run], metric: str) -> None:
    for index, run in enumerate(runs):
        x = [stage.cumulative_flops for stage in run.stages]
        y = [_share(stage, metric) for stage in run.stages]
        color, marker, line = line_style(index)
        panel.plot(x, y, color=color, marker=marker, linestyle=line)
        below = index % 2 == 1
        for stage, at_x, at_y in zip(run.stages, x, y, strict=True):
            if math.isfinite(at_y):
                panel.annotate(
                    str(stage.stage),
                    (at_x, at_y),
                    xytext=(0, -6 if below else 6),
                    textcoords="offset points",
                    ha="center",
                    va="top" if below else "bottom",
                    fontsize=8,
                    color=color,
                    bbox={"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none"},
                )
    _draw_chance(panel, runs, metric)
    panel.margins(y=0.25)
    if any(math.isfinite(_share(stage, metric)) for run in runs for stage in run.stages):
        panel.set_ylim(bottom=-0.04 * panel.get_ylim()[1])  # room for a chance level near 0
    else:
        panel.set_yticks([])
        note(panel, "Not measured.")


def _draw_chance(panel: Axes, runs: Sequence[Run], metric: str) -> None:
    style: dict[str, Any] = {"color": "#555555", "linestyle": "--", "linewidth": 0.8, "zorder": 1}
    levels = {_chance_share(stage, metric) for run in runs for stage in run.stages}
    levels = {level for level in levels if math.isfinite(level)}
    if len(levels) == 1:
        panel.axhline(levels.pop(), **style)
        return
    for run in runs:
        x = [stage.cumulative_flops for stage in run.stages]
        panel.plot(x, [_chance_share(stage, metric) for stage in run.stages], **style)


def _draw_sizes(panel: Axes, run: Run, changed: Sequence[str]) -> None:
    archs = [run.stages[0].parent, *(stage.arch for stage in run.stages)]
    start = archs[0]
    for index, dimension in enumerate(changed):
        if not _changes(run, dimension):
            continue
        ratios = [arch.size(dimension) / max(start.size(dimension), 1) for arch in archs]
        shift = 0.05 * (index - (len(changed) - 1) / 2)
        color, marker, line = line_style(index)
        x = [stage + shift for stage in range(len(archs))]
        panel.plot(x, ratios, color=color, marker=marker, linestyle=line)
    if not any(_changes(run, dimension) for dimension in changed):
        panel.plot(range(len(archs)), [1.0] * len(archs), color="#555555", marker="o")
        panel.set_ylim(0, 2)
        note(panel, "No dimension grew in any stage:\nthe parent was trained on.")
    panel.set_ylabel("size relative to the start")
    panel.yaxis.set_major_formatter(FuncFormatter(times))
    stage_axis(panel, [stage.stage for stage in run.stages])


def _draw_model_flops(panel: Axes, runs: Sequence[Run]) -> None:
    longest = max(runs, key=lambda run: len(run.stages))
    for index, run in enumerate(runs):
        trials = [trial for trial in run.trials if trial.stage == run.stages[0].stage]
        start = next((float(t.flops) for t in trials if not t.candidate.grows), math.nan)
        flops = [start, *(float(stage.flops) for stage in run.stages)]
        color, marker, line = line_style(index)
        panel.plot(range(len(flops)), flops, color=color, marker=marker, linestyle=line)
    panel.set_ylim(bottom=0)
    panel.margins(y=0.15)
    panel.yaxis.set_major_formatter(EngFormatter())
    panel.set_ylabel("FLOPs a pair, forward")
    panel.set_xlabel(f"stage\n{FLOPS_NOTE}")
    stage_axis(panel, [stage.stage for stage in longest.stages])
    if len(runs) > 1:
        panel.legend(handles=run_handles(runs), loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def _chosen_lines(runs: Sequence[Run], wrap: int = 105) -> list[str]:
    """What each numbered marker stands for, wrapped to the figure's width."""
    lines = []
    for run in runs:
        line = f"{plain(run.name)}:"
        for stage in run.stages:
            words = f" {stage.stage}: {stage.chosen.label}"
            if len(line) + len(words) > wrap:
                lines.append(line)
                line = "    "
            line += words + (";" if stage is not run.stages[-1] else "")
        lines.append(line if run.stages else f"{line} no stage has finished")
    return lines


def _changes(run: Run, dimension: str) -> bool:
    start = run.stages[0].parent.size(dimension)
    return any(stage.arch.size(dimension) != start for stage in run.stages)


def _share(stage: StageResult, metric: str) -> float:
    return _percent(stage.metrics[metric].value) if metric in stage.metrics else math.nan


def _chance_share(stage: StageResult, metric: str) -> float:
    return _percent(stage.metrics[metric].chance) if metric in stage.metrics else math.nan


def _percent(value: float) -> float:
    return 100 * value if math.isfinite(value) else math.nan
