"""The candidates' fronts: what each stage could have had for how many FLOPs."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_growclip.plots.candidates import MAX_STAGES, NO_CHOICE, stages_with_choice
from nas_growclip.plots.drawing import (
    figure_of_words,
    flops_axis,
    handle,
    new_figure,
    note,
    plain,
    settle,
    styled,
)
from nas_growclip.plots.labels import Label, write_labels
from nas_growclip.records.entries import Trial
from nas_growclip.records.frames import Run
from nas_growclip.records.ranking import chosen_trials, mark_of
from nas_growclip.records.words import FLOPS_NOTE

COLUMNS = 2

_FRONT = "#009E73"
_STYLES = {
    "": ("#8a8a8a", "s", "candidate"),
    "control": ("#000000", "D", "control (no growth)"),
    "chosen": ("#0072B2", "o", "chosen"),
}
"""Colour, marker and words for each kind of trial that has a loss to compare."""


@styled
def candidate_fronts(runs: Sequence[Run]) -> Figure:
    """Each stage's candidates: loss at the end of the trial against the model's FLOPs.

    The line joins the front: those that no other candidate beats in both. All trials of a stage
    had the same training FLOPs; those that were stopped early or failed are left out.

    Args:
        runs: Any runs; each stage with a choice has a panel, the last ``MAX_STAGES`` of them.
    """
    rows = stages_with_choice(runs)
    if not rows:
        return figure_of_words(NO_CHOICE)
    shown = rows[-MAX_STAGES:]
    columns = min(COLUMNS, len(shown))
    figure = new_figure(2.3 * -(-len(shown) // columns) + 0.8)
    grid = figure.subplots(-(-len(shown) // columns), columns, squeeze=False).ravel()
    for panel, (run, stage, trials) in zip(grid, shown, strict=False):
        name = f"{plain(run.name)}, stage {stage}" if len(runs) > 1 else f"Stage {stage}"
        complete = [trial for trial in trials if math.isfinite(_loss(trial))]
        panel.set_title(f"{name}: {len(complete)} of {len(trials)} candidates")
        _draw_front(panel, complete, chosen_trials(run).get(stage))
    for panel in grid[len(shown) :]:
        panel.set_visible(False)
    _write_frame(figure, shown, left_out=len(rows) - len(shown))
    settle(figure)
    for panel, (run, stage, trials) in zip(grid, shown, strict=False):
        points = [(t.flops, _loss(t)) for t in trials if math.isfinite(_loss(t))]
        write_labels(panel, _labels(trials, chosen_trials(run).get(stage)), points)
    return figure


def front_of(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The complete trials that no other one beats in both loss and FLOPs, by rising FLOPs."""
    front: list[Trial] = []
    complete = [trial for trial in trials if math.isfinite(_loss(trial))]
    for trial in sorted(complete, key=lambda trial: (trial.flops, _loss(trial))):
        if not front or _loss(trial) < _loss(front[-1]):
            front.append(trial)
    return tuple(front)


def _draw_front(panel: Axes, trials: Sequence[Trial], chosen: int | None) -> None:
    if not trials:
        note(panel, "No candidate was tried to the end.")
    front = front_of(trials)
    panel.plot(
        [trial.flops for trial in front],
        [_loss(trial) for trial in front],
        color=_FRONT,
        linewidth=1.2,
        drawstyle="steps-post",
        zorder=1,
    )
    for trial in trials:
        color, marker, _ = _STYLES[_mark(trial, chosen)]
        panel.plot(trial.flops, _loss(trial), color=color, marker=marker, linestyle="")
    flops_axis(panel, [trial.flops for trial in trials])
    panel.margins(x=0.12, y=0.18)


def _write_frame(
    figure: Figure, shown: Sequence[tuple[Run, int, list[Trial]]], *, left_out: int
) -> None:
    there = {
        _mark(trial, chosen_trials(run).get(stage))
        for run, stage, trials in shown
        for trial in trials
        if math.isfinite(_loss(trial))
    }
    handles = [
        handle(words, color, marker, "", 0)
        for key, (color, marker, words) in _STYLES.items()
        if key in there
    ]
    handles.append(handle("front", _FRONT, "", "-", 1.2))
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    figure.supylabel("loss at the end of the trial (nats)", fontsize=9)
    dropped = f"The first {left_out} stages are not drawn. " if left_out else ""
    figure.supxlabel(f"FLOPs of the model for a pair, forward\n{dropped}{FLOPS_NOTE}", fontsize=8)


def _labels(trials: Sequence[Trial], chosen: int | None) -> list[Label]:
    """Names of the front's candidates and of the chosen one."""
    named = {trial.number: trial for trial in front_of(trials)}
    named |= {trial.number: trial for trial in trials if trial.number == chosen}
    return [
        Label(trial.flops, _loss(trial), (_name(trial),), _STYLES[_mark(trial, chosen)][0])
        for trial in named.values()
        if math.isfinite(_loss(trial))
    ]


def _name(trial: Trial) -> str:
    return plain(trial.label).replace("+", "\n+") if trial.candidate.grows else "no growth"


def _mark(trial: Trial, chosen: int | None) -> str:
    mark = mark_of(trial, chosen)
    return mark if mark in _STYLES else ""


def _loss(trial: Trial) -> float:
    """The loss at the end of a trial; not a number where that was not reached."""
    return trial.metrics.get("loss", math.nan) if trial.state == "complete" else math.nan
