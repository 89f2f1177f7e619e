"""Figures drawn from records: accuracy against FLOPs, candidates, the architecture's trajectory.

Each function takes the runs and returns a matplotlib ``Figure``; nothing touches pyplot's global
state. Markers and line styles tell lines apart without colour.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from nas_growclip.models.arch import DIMENSIONS
from nas_growclip.records.entries import StageResult, Trial
from nas_growclip.records.frames import Run
from nas_growclip.report.tables import (
    ACCURACIES,
    FLOPS_NOTE,
    Mark,
    chosen_trials,
    mark_of,
    trials_by_stage,
)

WIDTH = 7.0
"""Inches: a page's text column."""

DPI = 150

MAX_CANDIDATES = 20
"""Best candidates drawn for a stage; the chosen one and the control always are."""

MAX_STAGES = 24
"""Stages with a row in the candidates' figure; the last ones are kept."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)), (0, (1, 2)))

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.parse_math": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}

_MARK_STYLES: Mapping[Mark, tuple[str, str, str]] = {
    "chosen": ("#0072B2", "o", "chosen"),
    "control": ("#000000", "D", "control (no growth)"),
    "": ("#8a8a8a", "s", "other candidate"),
    "pruned": ("#CC79A7", "|", "pruned (stopped early)"),
    "failed": ("#D55E00", "x", "failed"),
}
"""Colour, marker and words for each kind of trial."""


def to_png(draw: Callable[[Sequence[Run]], Figure], runs: Sequence[Run]) -> bytes:
    """One of ``FIGURES`` as PNG bytes, drawn in the shared style."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        draw(runs).savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def draw_accuracy(runs: Sequence[Run]) -> Figure:
    """Zero-shot top-1 and recall@1 against the training FLOPs spent so far."""
    if not any(run.stages for run in runs):
        return _words("No stage has finished.")
    key = _chosen_lines(runs)
    rows = len(ACCURACIES)
    heights = [2.0] * rows + [0.17 * max(1, len(key)) + 0.15]
    figure = _figure(sum(heights) + 0.6)
    axes = figure.subplots(rows + 1, 1, gridspec_kw={"height_ratios": heights})
    for panel, (metric, words) in zip(axes, ACCURACIES.items(), strict=False):
        _draw_metric(panel, runs, metric)
        panel.set_ylabel(f"{words} (%)".replace(" top", "\ntop").replace(" recall", "\nrecall"))
        if panel is not axes[0]:
            panel.sharex(axes[0])
        panel.tick_params(labelbottom=panel is axes[rows - 1])
    _flops_axis(axes[0], [stage.cumulative_flops for run in runs for stage in run.stages])
    axes[rows - 1].set_xlabel(
        "cumulative training FLOPs, search included (fvcore FLOPs: one multiply-add is one)"
    )
    axes[0].legend(
        handles=[*_run_handles(runs), _handle("chance", "#555555", "", "--", 0.8)],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
    )
    axes[rows].axis("off")
    axes[rows].text(0, 1, "\n".join(key), va="top", fontsize=8, linespacing=1.4)
    return figure


def draw_candidates(runs: Sequence[Run]) -> Figure:
    """One row a stage: every candidate's score, and the trials' learning curves."""
    rows = [(run, stage, trials) for run in runs for stage, trials in trials_by_stage(run).items()]
    if not rows:
        return _words("No trial was recorded.")
    left_out = len(rows) - len(rows[-MAX_STAGES:])
    rows = rows[-MAX_STAGES:]
    heights = [0.75 + max(1.3, 0.19 * min(len(t), MAX_CANDIDATES + 2)) for _, _, t in rows]
    figure = _figure(sum(heights) + 0.5)
    grid = figure.subplots(len(rows), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (scores, curves), (run, stage, trials) in zip(grid, rows, strict=True):
        chosen = chosen_trials(run).get(stage)
        marks = [mark_of(trial, chosen) for trial in trials]
        name = f"{_plain(run.name)}, stage {stage}" if len(runs) > 1 else f"Stage {stage}"
        scores.set_title(name if chosen is not None else f"{name} (not finished)")
        _draw_scores(scores, trials, marks)
        _draw_curves(curves, trials, marks)
    grid[-1][0].set_xlabel("score: gain over the control (higher is better)")
    grid[-1][1].set_xlabel("pairs seen in the trial")
    handles = [_handle(words, color, m, "-", 1.4) for color, m, words in _MARK_STYLES.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    if left_out:
        figure.supxlabel(f"The first {left_out} stages are not drawn.", fontsize=8)
    return figure


def draw_trajectory(runs: Sequence[Run]) -> Figure:
    """Sizes relative to the first stage's parent, and the model's FLOPs, by stage."""
    runs = [run for run in runs if run.stages]
    if not runs:
        return _words("No stage has finished.")
    changed = [d for d in DIMENSIONS if any(_changes(run, d) for run in runs)]
    columns = min(2, len(runs))
    starts = range(0, len(runs), columns)
    mosaic: list[list[Any]] = [
        [str(min(start + column, len(runs) - 1)) for column in range(columns)] for start in starts
    ]
    figure = _figure(2.5 * len(mosaic) + 2.9)
    panels = figure.subplot_mosaic(
        [*mosaic, ["flops"] * columns],
        height_ratios=[1.0] * len(mosaic) + [0.8],
    )
    for index, run in enumerate(runs):
        _draw_sizes(panels[str(index)], run, changed)
        if len(runs) > 1:
            panels[str(index)].set_title(_plain(run.name))
    _draw_model_flops(panels["flops"], runs)
    if changed:
        handles = [_handle(d, *line_style(changed.index(d)), 1.4) for d in changed]
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def draw_comparison(runs: pd.DataFrame) -> Figure:
    """Accuracy of each arm against its training FLOPs, stage by stage: means and deviations.

    Args:
        runs: One row a run and stage, with ``arm`` and ``seed``, as ``compare/results.py`` has it.
    """
    metrics = {m: words for m, words in ACCURACIES.items() if f"metric.{m}" in runs}
    if not metrics:
        return _words("No accuracy was measured.")
    arms = list(dict.fromkeys(runs["arm"]))
    rows = len(metrics)
    figure = _figure(2.2 * rows + 0.2 * -(-len(arms) // 3) + 0.6)
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for panel, (metric, words) in zip(panels, metrics.items(), strict=True):
        for index, arm in enumerate(arms):
            stages = runs[runs["arm"] == arm].groupby("stage")
            x = stages["cumulative_flops"].mean()
            y, spread = (
                100 * f
                for f in (
                    stages[f"metric.{metric}"].mean(),
                    stages[f"metric.{metric}"].std().fillna(0),
                )
            )
            color, marker, line = line_style(index)
            panel.errorbar(
                x, y, yerr=spread, color=color, marker=marker, linestyle=line, elinewidth=0.7
            )
        panel.axhline(
            100 * runs[f"metric.{metric}.chance"].iloc[0],
            color="#555555",
            linestyle="--",
            linewidth=0.8,
            zorder=1,
        )
        panel.set_ylabel(f"{words} (%)".replace(" top", "\ntop").replace(" recall", "\nrecall"))
    _flops_axis(panels[0], [int(flops) for flops in runs["cumulative_flops"]])
    panels[-1].set_xlabel(
        "cumulative training FLOPs, search included (fvcore FLOPs: one multiply-add is one)"
    )
    handles = [_handle(arm, *line_style(index), 1.4) for index, arm in enumerate(arms)]
    handles.append(_handle("chance", "#555555", "", "--", 0.8))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
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
        _note(panel, "Not measured.")


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


def _draw_scores(panel: Axes, trials: Sequence[Trial], marks: Sequence[Mark]) -> None:
    shown = _shown(marks)
    labels = []
    for row, index in enumerate(shown):
        trial, mark = trials[index], marks[index]
        color, marker, _ = _MARK_STYLES[mark]
        labels.append(_plain(trial.label) if trial.candidate.grows else "none (control)")
        if trial.state == "complete" and trial.score is not None and math.isfinite(trial.score):
            panel.plot([0, trial.score], [row, row], color=color, linewidth=1.0)
            panel.plot(trial.score, row, color=color, marker=marker, linestyle="")
        else:
            words = "no score" if trial.state == "complete" else trial.state
            panel.text(
                *(0.02, row),
                f"× {words}",  # noqa: RUF001 # the multiplication sign is what is shown
                transform=panel.get_yaxis_transform(),
                va="center",
                fontsize=8,
                color=_MARK_STYLES[mark if mark in ("pruned", "failed") else "failed"][0],
            )
    panel.set_yticks(range(len(shown)), labels)
    for text, index in zip(panel.get_yticklabels(), shown, strict=True):
        text.set_fontweight("bold" if marks[index] == "chosen" else "normal")
    panel.set_ylim(len(shown) - 0.4, -0.6)
    panel.margins(x=0.08)
    panel.axvline(0, color="#555555", linewidth=0.8, zorder=1)
    panel.grid(visible=False, axis="y")
    panel.xaxis.set_major_locator(MaxNLocator(4))
    if len(shown) < len(trials):
        panel.set_ylabel(f"{len(shown)} of {len(trials)} candidates")


def _draw_curves(panel: Axes, trials: Sequence[Trial], marks: Sequence[Mark]) -> None:
    for trial, mark in zip(trials, marks, strict=True):
        curve = [(pairs, loss) for pairs, loss in trial.curve if math.isfinite(loss)]
        color, marker, _ = _MARK_STYLES[mark]
        panel.plot(
            [pairs for pairs, _ in curve],
            [loss for _, loss in curve],
            color=color,
            marker=marker if mark or len(curve) == 1 else "",
            markersize=3.5,
            linewidth=2.0 if mark == "chosen" else 1.0,
            linestyle={"control": "--", "pruned": "-.", "failed": ":"}.get(mark, "-"),
            zorder=3 if mark == "chosen" else 2,
        )
    if not any(trial.curve for trial in trials):
        _note(panel, "No learning curve.")
    panel.set_ylabel("validation loss (nats)")
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.xaxis.set_major_formatter(EngFormatter())


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
        _note(panel, "No dimension grew in any stage:\nthe parent was trained on.")
    panel.set_ylabel("size relative to the start")
    panel.yaxis.set_major_formatter(FuncFormatter(_times))
    _stage_axis(panel, [stage.stage for stage in run.stages])


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
    _stage_axis(panel, [stage.stage for stage in longest.stages])
    if len(runs) > 1:
        panel.legend(handles=_run_handles(runs), loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def _stage_axis(panel: Axes, stages: Sequence[int]) -> None:
    names = ["start", *(str(stage) for stage in stages)]
    every = math.ceil(len(names) / 16)
    panel.set_xticks(range(0, len(names), every), names[::every])
    panel.set_xlim(-0.4, len(names) - 0.6)


def _flops_axis(panel: Axes, flops: Sequence[int]) -> None:
    positive = [value for value in flops if value > 0]
    # Where no stage has been measured there is no point to take the limits from.
    panel.update_datalim([(value, 0.0) for value in positive], updatey=False)
    if positive and max(positive) > 30 * min(positive):
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(NullFormatter())
    if positive:
        panel.xaxis.set_major_formatter(EngFormatter())
    else:
        panel.xaxis.set_major_locator(NullLocator())
    panel.margins(x=0.06)


def _chosen_lines(runs: Sequence[Run], wrap: int = 105) -> list[str]:
    """What each numbered marker stands for, wrapped to the figure's width."""
    lines = []
    for run in runs:
        line = f"{_plain(run.name)}:"
        for stage in run.stages:
            words = f" {stage.stage}: {stage.chosen.label}"
            if len(line) + len(words) > wrap:
                lines.append(line)
                line = "    "
            line += words + (";" if stage is not run.stages[-1] else "")
        lines.append(line if run.stages else f"{line} no stage has finished")
    return lines


def _shown(marks: Sequence[Mark]) -> list[int]:
    return [
        p for p, mark in enumerate(marks) if p < MAX_CANDIDATES or mark in ("chosen", "control")
    ]


def _changes(run: Run, dimension: str) -> bool:
    start = run.stages[0].parent.size(dimension)
    return any(stage.arch.size(dimension) != start for stage in run.stages)


def _share(stage: StageResult, metric: str) -> float:
    return _percent(stage.metrics[metric].value) if metric in stage.metrics else math.nan


def _chance_share(stage: StageResult, metric: str) -> float:
    return _percent(stage.metrics[metric].chance) if metric in stage.metrics else math.nan


def _percent(value: float) -> float:
    return 100 * value if math.isfinite(value) else math.nan


def line_style(index: int) -> tuple[str, str, Any]:
    """Colour, marker and line of the n-th series; marker and line tell it apart without colour."""
    cycle, index = divmod(index, len(COLORS))
    return COLORS[index], MARKERS[(index + 3 * cycle) % 8], LINES[(index + cycle) % 8]


def _run_handles(runs: Sequence[Run]) -> list[Line2D]:
    return [_handle(run.name, *line_style(index), 1.4) for index, run in enumerate(runs)]


def _handle(label: str, color: str, marker: str, line: Any, width: float) -> Line2D:
    handle = Line2D([], [], color=color, marker=marker, linewidth=width)
    handle.set_linestyle(line)
    handle.set_label(_plain(label))
    return handle


def _plain(text: str) -> str:
    """Text on one line, and not hidden from a legend by an underscore at its start."""
    text = " ".join(text.split())
    return f" {text}" if text.startswith("_") else text


def _times(value: float, _: object) -> str:
    return f"{value:g}×"  # noqa: RUF001 # the multiplication sign is what is shown


def _note(panel: Axes, words: str) -> None:
    panel.text(
        0.5, 0.75, words, transform=panel.transAxes, ha="center", va="center", color="#444444"
    )


def _words(words: str) -> Figure:
    figure = _figure(1.2)
    figure.text(0.5, 0.5, words, ha="center", va="center")
    return figure


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained")
