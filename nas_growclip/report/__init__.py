"""Tables and figures of finished and interrupted runs, made from their records alone.

No model is needed and torch is not imported: a report can be drawn again from the run folders at
any time, and the same records give the same tables, byte for byte.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nas_growclip.io.files import make_folder, write_atomically
from nas_growclip.records.frames import Run
from nas_growclip.report.figures import FIGURES, to_png
from nas_growclip.report.page import render_page
from nas_growclip.report.terminal import print_rescored, print_summary

__all__ = ["print_rescored", "print_summary", "write_report"]


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


def _distinct(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs under names that tell them apart."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.path.resolve().parent.name}/{run.name}" for run in runs]
    if len(set(names)) < len(names):
        names = [f"{name} ({index})" for index, name in enumerate(names, start=1)]
    return tuple(dataclasses.replace(run, name=name) for run, name in zip(runs, names, strict=True))


def _csv(frames: Sequence[pd.DataFrame]) -> bytes:
    rows = [row for frame in frames for row in frame.to_dict("records")]
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["run", "stage"])
    return frame.to_csv(index=False, lineterminator="\n").encode()
