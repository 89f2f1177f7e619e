"""A run's tables for the terminal."""

import sys
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nas_growclip.io.formatting import number, percent, si
from nas_growclip.records.entries import Trial
from nas_growclip.records.frames import Run
from nas_growclip.records.words import ACCURACIES, CHANCE_NOTE, FLOPS_NOTE
from nas_growclip.report.reasons import choice_lines, objective_words, rollback_lines
from nas_growclip.report.rescoring import Rescoring, recorded_scores
from nas_growclip.report.tables import (
    accuracy,
    search_share,
)
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.plain_words import Choice, choice_words

TERMINAL_WIDTH = 100
"""Columns of the summary where stdout is no terminal."""


def print_summary(run: Run) -> None:
    """Print the stage table on stdout, and what other amounts of data would have led to."""
    console = _console()
    if not run.stages:
        console.print(f"No stage has finished; {len(run.trials)} trials recorded.", markup=False)
        return
    table = _table(run.name)
    for column in ("stage", "pairs"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("chosen growth", overflow="fold")
    for column in ("FLOPs\na pair", "search\n%", "total\nFLOPs", *ACCURACIES):
        header = column.replace("_recall", "\nrecall").replace("shot_", "shot\n").replace("_", "-")
        table.add_column(header, justify="right", no_wrap=True)
    for stage in run.stages:
        cells = (
            str(stage.stage),
            si(stage.num_pairs),
            stage.chosen.label.replace("+", "\n"),
            si(stage.flops),
            percent(search_share(stage)),
            si(stage.cumulative_flops),
            *(accuracy(stage.metrics, name) for name in ACCURACIES),
        )
        _add_row(table, cells)
    console.print(table)
    for stage in run.stages:
        for line in rollback_lines(stage):
            console.print(line, markup=False)
    console.print(
        f"Top-1 and recalls in percent. {CHANCE_NOTE}\n"
        "FLOPs a pair, forward; the search's part of the stage's training FLOPs; training FLOPs so "
        f"far.\n{FLOPS_NOTE}",
        markup=False,
    )
    if choices := choice_lines(run):
        heading = "With half and with twice the data the choice would have been:"
        console.print("\n  ".join((heading, *choices)), markup=False)


def print_rescored(run: Run, rescorings: Sequence[Rescoring], config: ObjectiveConfig) -> None:
    """Print each stage's candidates with their scores then and now, and the two choices.

    Args:
        run: The run.
        rescorings: Its stages, scored again.
        config: The settings they were scored with.
    """
    console = _console()
    for rescoring in rescorings:
        choice = Choice(rescoring.trials, rescoring.chosen)
        now = choice_words(choice) or f"{rescoring.chosen.candidate}."
        console.print(_rescored_table(run, rescoring))
        console.print(
            f"Then: {rescoring.result.reason}\nNow: {now}\nObjective {objective_words(config)}.\n",
            markup=False,
        )


def _rescored_table(run: Run, rescoring: Rescoring) -> RichTable:
    recorded = recorded_scores(run, rescoring.result.stage)
    table = _table(f"{run.name}, stage {rescoring.result.stage}")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("candidate", overflow="fold")
    for column in ("recorded score", "score now"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for trial in rescoring.trials:
        scores = (number(recorded[trial.number]), number(trial.score))
        _add_row(table, (str(trial.number), trial.label, *scores, _then_and_now(trial, rescoring)))
    return table


def _then_and_now(trial: Trial, rescoring: Rescoring) -> str:
    if trial.state != "complete":
        return trial.state
    then = "chosen then" if trial.number == rescoring.result.chosen_trial else ""
    now = "chosen now" if trial.number == rescoring.chosen.number else ""
    return ", ".join(filter(None, (then, now)))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else TERMINAL_WIDTH, highlight=False)


def _table(title: str) -> RichTable:
    return RichTable(title=Text(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _add_row(table: RichTable, cells: Iterable[str]) -> None:
    table.add_row(*(Text(cell) for cell in cells))
