"""Tables and figures of finished and interrupted runs, made from their records alone.

No model is needed and torch is not imported: a report can be drawn again from the run folders at
any time, and the same records give the same tables, byte for byte.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nas_growclip.files import make_folder, write_atomically
from nas_growclip.growth.space import candidate_label
from nas_growclip.records import Run
from nas_growclip.report.figures import FIGURES, to_png
from nas_growclip.report.page import render_page
from nas_growclip.report.tables import (
    ACCURACIES,
    CHANCE_NOTE,
    FLOPS_NOTE,
    accuracy,
    percent,
    search_share,
    si,
)

TERMINAL_WIDTH = 100
"""Columns of the summary where stdout is no terminal."""


def write_report(runs: Sequence[Run], out: Path) -> Path:
    """Write the tables, the figures and one self-contained HTML page.

    Args:
        runs: One run, or several to compare.
        out: Folder to write into; it is made if it is missing.

    Returns:
        Path of the page, ``index.html``.

    Raises:
        ValueError: If there is no run, or the folder cannot be written.
    """
    if not runs:
        raise ValueError("A report needs at least one run, but got none. Give a run folder.")
    runs = _distinct(runs)
    make_folder(out)
    write_atomically(out / "stages.csv", _csv([run.stages_frame() for run in runs]))
    write_atomically(out / "trials.csv", _csv([run.trials_frame() for run in runs]))
    images = {name: to_png(draw, runs) for name, draw in FIGURES.items()}
    for name, image in images.items():
        write_atomically(out / f"{name}.png", image)
    page = out / "index.html"
    write_atomically(page, render_page(runs, images).encode())
    return page


def print_summary(run: Run) -> None:
    """Print the stage table on stdout."""
    console = Console(width=None if sys.stdout.isatty() else TERMINAL_WIDTH, highlight=False)
    if not run.stages:
        console.print(f"No stage has finished; {len(run.trials)} trials recorded.", markup=False)
        return
    table = RichTable(title=Text(run.name), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
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
            candidate_label(stage.chosen).replace("+", "\n"),
            si(stage.flops),
            percent(search_share(stage)),
            si(stage.cumulative_flops),
            *(accuracy(stage.metrics, name) for name in ACCURACIES),
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    console.print(
        f"Top-1 and recalls in percent. {CHANCE_NOTE}\n"
        "FLOPs a pair, forward; the search's part of the stage's training FLOPs; training FLOPs so "
        f"far.\n{FLOPS_NOTE}",
        markup=False,
    )


def _distinct(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs under names that tell them apart."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.path.resolve().parent.name}/{run.name}" for run in runs]
    if len(set(names)) < len(names):
        names = [f"{name} ({place})" for place, name in enumerate(names, start=1)]
    return tuple(dataclasses.replace(run, name=name) for run, name in zip(runs, names, strict=True))


def _csv(frames: Sequence[pd.DataFrame]) -> bytes:
    rows = [row for frame in frames for row in frame.to_dict("records")]
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["run", "stage"])
    return frame.to_csv(index=False, lineterminator="\n").encode()
