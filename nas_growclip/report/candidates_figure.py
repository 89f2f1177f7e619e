"""The figure of the candidates: what each stage had to choose from, and their learning curves."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from nas_growclip.records.entries import Trial
from nas_growclip.records.frames import Run
from nas_growclip.report.drawing import (
    figure_of_words,
    handle,
    new_figure,
    note,
    plain,
)
from nas_growclip.report.tables import (
    Mark,
    chosen_trials,
    mark_of,
    trials_by_stage,
)

MAX_CANDIDATES = 20
"""Best candidates drawn for a stage; the chosen one and the control always are."""


MAX_STAGES = 24
"""Stages with a row in the candidates' figure; the last ones are kept."""


_MARK_STYLES: Mapping[Mark, tuple[str, str, str]] = {
    "chosen": ("#0072B2", "o", "chosen"),
    "control": ("#000000", "D", "control (no growth)"),
    "": ("#8a8a8a", "s", "other candidate"),
    "pruned": ("#CC79A7", "|", "pruned (stopped early)"),
    "failed": ("#D55E00", "x", "failed"),
}
"""Colour, marker and words for each kind of trial."""


def draw_candidates(runs: Sequence[Run]) -> Figure:
    """One row a stage: every candidate's score, and the trials' learning curves."""
    rows = [(run, stage, trials) for run in runs for stage, trials in trials_by_stage(run).items()]
    if not rows:
        return figure_of_words("No trial was recorded.")
    left_out = len(rows) - len(rows[-MAX_STAGES:])
    rows = rows[-MAX_STAGES:]
    heights = [0.75 + max(1.3, 0.19 * min(len(t), MAX_CANDIDATES + 2)) for _, _, t in rows]
    figure = new_figure(sum(heights) + 0.5)
    grid = figure.subplots(len(rows), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (scores, curves), (run, stage, trials) in zip(grid, rows, strict=True):
        chosen = chosen_trials(run).get(stage)
        marks = [mark_of(trial, chosen) for trial in trials]
        name = f"{plain(run.name)}, stage {stage}" if len(runs) > 1 else f"Stage {stage}"
        scores.set_title(name if chosen is not None else f"{name} (not finished)")
        _draw_scores(scores, trials, marks)
        _draw_curves(curves, trials, marks)
    grid[-1][0].set_xlabel("score: gain over the control (higher is better)")
    grid[-1][1].set_xlabel("pairs seen in the trial")
    handles = [handle(words, color, m, "-", 1.4) for color, m, words in _MARK_STYLES.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    if left_out:
        figure.supxlabel(f"The first {left_out} stages are not drawn.", fontsize=8)
    return figure


def _draw_scores(panel: Axes, trials: Sequence[Trial], marks: Sequence[Mark]) -> None:
    shown = _shown(marks)
    labels = []
    for row, index in enumerate(shown):
        trial, mark = trials[index], marks[index]
        color, marker, _ = _MARK_STYLES[mark]
        labels.append(plain(trial.label) if trial.candidate.grows else "none (control)")
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
        note(panel, "No learning curve.")
    panel.set_ylabel("validation loss (nats)")
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.xaxis.set_major_formatter(EngFormatter())


def _shown(marks: Sequence[Mark]) -> list[int]:
    return [
        p for p, mark in enumerate(marks) if p < MAX_CANDIDATES or mark in ("chosen", "control")
    ]
