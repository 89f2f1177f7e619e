"""The figure of the candidates: what each stage had to choose from, and their learning curves."""

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from nas_growclip.plots.drawing import (
    figure_of_words,
    handle,
    new_figure,
    note,
    plain,
    settle,
    styled,
)
from nas_growclip.records.entries import Trial
from nas_growclip.records.frames import Run
from nas_growclip.records.ranking import Mark, chosen_trials, mark_of, trials_by_stage

MAX_CANDIDATES = 20
"""Best candidates drawn for a stage; the chosen one and the control always are."""


MAX_STAGES = 24
"""Stages with a row in the candidates' figure; the last ones are kept."""


NO_CHOICE = "No stage had more than one candidate."


NAME_WIDTH = 32
"""Characters of a candidate's name on one line."""


class TrialStyle(NamedTuple):
    """How a trial is drawn in both panels of its stage."""

    color: str
    marker: str
    dashes: Any
    width: float


COLORS = ("#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#777777")
MARKERS = ("s", "^", "v", "P", "X", "*", "p")

CHOSEN = TrialStyle("#0072B2", "o", "-", 2.2)
CONTROL = TrialStyle("#000000", "D", "--", 1.2)

ENDS: Mapping[Mark, tuple[str, Any, str]] = {
    "pruned": ("|", "-.", "pruned (stopped early)"),
    "failed": ("x", ":", "failed"),
}
"""Marker at the end, line and words for trials that did not come to their end."""


@styled
def candidate_scores(runs: Sequence[Run]) -> Figure:
    """One row a stage: every candidate's score, and the trials' learning curves.

    A candidate has the same colour, marker and line in both panels of its stage, so that the
    names on the left tell the curves apart.

    Args:
        runs: Any runs; each stage with a choice has a row, the last ``MAX_STAGES`` of them.
    """
    rows = stages_with_choice(runs)
    if not rows:
        return figure_of_words(NO_CHOICE)
    left_out = max(0, len(rows) - MAX_STAGES)
    rows = rows[-MAX_STAGES:]
    heights = [0.75 + max(1.3, 0.2 * min(len(t), MAX_CANDIDATES + 2)) for _, _, t in rows]
    figure = new_figure(sum(heights) + 0.5)
    grid = figure.subplots(len(rows), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    there: set[Mark] = set()
    for (scores, curves), (run, stage, trials) in zip(grid, rows, strict=True):
        chosen = chosen_trials(run).get(stage)
        marks = [mark_of(trial, chosen) for trial in trials]
        shown = _shown(marks)
        there |= {marks[place] for place in shown}
        name = f"{plain(run.name)}, stage {stage}" if len(runs) > 1 else f"Stage {stage}"
        scores.set_title(name if chosen is not None else f"{name} (not finished)")
        drawn = [(trials[place], marks[place]) for place in shown]
        _draw_scores(scores, drawn, len(trials))
        _draw_curves(curves, drawn)
    grid[-1][0].set_xlabel("score: gain over the control (higher is better)")
    grid[-1][1].set_xlabel("pairs seen in the trial")
    figure.legend(handles=_handles(there), loc="outside upper left", ncols=3)
    if left_out:
        figure.supxlabel(f"The first {left_out} stages are not drawn.", fontsize=8)
    settle(figure)
    return figure


def stages_with_choice(runs: Sequence[Run]) -> list[tuple[Run, int, list[Trial]]]:
    """Stages in which more than one candidate was tried, with their trials, the best first."""
    return [
        (run, stage, trials)
        for run in runs
        for stage, trials in trials_by_stage(run).items()
        if len(trials) > 1
    ]


def _handles(there: set[Mark]) -> list[Any]:
    """Legend entries of the kinds of trials that there are."""
    handles = []
    if "chosen" in there:
        handles.append(handle("chosen", CHOSEN.color, CHOSEN.marker, CHOSEN.dashes, CHOSEN.width))
    if "control" in there:
        handles.append(handle("control (no growth)", CONTROL.color, CONTROL.marker, "--", 1.2))
    for mark, (marker, dashes, words) in ENDS.items():
        if mark in there:
            handles.append(handle(words, "#555555", marker, dashes, 1.0))
    if there - {"chosen", "control"}:
        handles.append(handle("others: as beside their names", "#555555", "", "", 0))
    return handles


def style_of(place: int, mark: Mark) -> TrialStyle:
    """How a stage's n-th trial is drawn."""
    if mark == "chosen":
        return CHOSEN
    if mark == "control":
        return CONTROL
    dashes = ENDS[mark][1] if mark in ENDS else "-"
    return TrialStyle(COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)], dashes, 1.0)


def _draw_scores(panel: Axes, drawn: Sequence[tuple[Trial, Mark]], num_trials: int) -> None:
    for row, (trial, mark) in enumerate(drawn):
        style = style_of(row, mark)
        points: dict[str, Any] = {"color": style.color, "marker": style.marker, "linestyle": ""}
        if trial.state == "complete" and trial.score is not None and math.isfinite(trial.score):
            panel.plot([0, trial.score], [row, row], color=style.color, linewidth=1.0)
            panel.plot(trial.score, row, **points)
            continue
        words = "no score" if trial.state == "complete" else trial.state
        aside = panel.get_yaxis_transform()
        panel.plot(0.03, row, transform=aside, **points)
        panel.text(0.07, row, words, transform=aside, va="center", fontsize=8, color=style.color)
    panel.set_yticks(range(len(drawn)), [_name(trial) for trial, _ in drawn])
    for text, (_, mark) in zip(panel.get_yticklabels(), drawn, strict=True):
        text.set_fontweight("bold" if mark == "chosen" else "normal")
    panel.set_ylim(len(drawn) - 0.4, -0.6)
    panel.margins(x=0.1)
    panel.axvline(0, color="#555555", linewidth=0.8, zorder=1)
    panel.grid(visible=False, axis="y")
    panel.xaxis.set_major_locator(MaxNLocator(4))
    if len(drawn) < num_trials:
        panel.set_ylabel(f"{len(drawn)} of {num_trials} candidates")


def _draw_curves(panel: Axes, drawn: Sequence[tuple[Trial, Mark]]) -> None:
    for row, (trial, mark) in enumerate(drawn):
        curve = [(pairs, loss) for pairs, loss in trial.curve if math.isfinite(loss)]
        style = style_of(row, mark)
        panel.plot(
            [pairs for pairs, _ in curve],
            [loss for _, loss in curve],
            color=style.color,
            marker=style.marker,
            markersize=3.5,
            linewidth=style.width,
            linestyle=style.dashes,
            zorder=3 if mark == "chosen" else 2,
        )
        if mark in ENDS and curve:
            panel.plot(*curve[-1], color=style.color, marker=ENDS[mark][0], markersize=9)
    if not any(trial.curve for trial, _ in drawn):
        note(panel, "No learning curve.")
    panel.set_ylabel("validation loss (nats)")
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.xaxis.set_major_formatter(EngFormatter())


def _name(trial: Trial) -> str:
    """A trial's name, on two lines where it is long."""
    if not trial.candidate.grows:
        return "none (control)"
    return "\n".join(wrap(plain(trial.label).replace("+", " +"), NAME_WIDTH))


def _shown(marks: Sequence[Mark]) -> list[int]:
    return [
        p for p, mark in enumerate(marks) if p < MAX_CANDIDATES or mark in ("chosen", "control")
    ]
