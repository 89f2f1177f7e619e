"""The architecture's trajectory: what grew, and what the model costs, stage by stage."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from nas_growclip.models.arch import DIMENSIONS
from nas_growclip.plots.drawing import (
    figure_of_words,
    handle,
    line_style,
    new_figure,
    note,
    plain,
    run_handles,
    settle,
    stage_axis,
    styled,
    times,
)
from nas_growclip.records.frames import Run
from nas_growclip.records.words import FLOPS_NOTE


@styled
def trajectory(runs: Sequence[Run]) -> Figure:
    """Sizes relative to the first stage's parent, and the model's FLOPs, by stage.

    A size that starts at 0, such as that of the shared encoder's depth, is drawn as it is.

    Args:
        runs: Any runs; each that has finished a stage has a panel of its own.
    """
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
    settle(figure)
    return figure


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
    panel.set_ylim(0, 1.15 * panel.dataLim.y1)
    panel.yaxis.set_major_formatter(EngFormatter())
    panel.set_ylabel("FLOPs a pair, forward")
    panel.set_xlabel(f"stage\n{FLOPS_NOTE}")
    stage_axis(panel, [stage.stage for stage in longest.stages])
    if len(runs) > 1:
        panel.legend(handles=run_handles(runs), loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def _changes(run: Run, dimension: str) -> bool:
    start = run.stages[0].parent.size(dimension)
    return any(stage.arch.size(dimension) != start for stage in run.stages)
