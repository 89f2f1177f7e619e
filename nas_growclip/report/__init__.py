"""Tables and figures of finished and interrupted runs, made from their records alone.

No model is needed and torch is not imported: a report can be drawn again from the run folders at
any time, and the same records give the same tables, byte for byte. Only wall times differ.
"""

import dataclasses
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nas_growclip.io.files import make_folder, write_atomically
from nas_growclip.plots.saving import to_bytes
from nas_growclip.plots.series import distinct_names
from nas_growclip.records.frames import Run
from nas_growclip.records.held_out import set_differences
from nas_growclip.report.figures import FIGURES
from nas_growclip.report.page import render_page
from nas_growclip.report.terminal import print_rescored, print_summary

__all__ = ["print_rescored", "print_summary", "write_report"]

SEED_ALONE = re.compile(r"(lr_[^_]+_)?seed_\d+")
"""Names of runs in a comparison's folders, which stand in a folder of their arm."""

_log = logging.getLogger(__name__)


def write_report(runs: Sequence[Run], out: Path, other_formats: Sequence[str] = ()) -> Path:
    """Write the tables, the figures and one self-contained HTML page.

    Runs that were not measured on the same sets are said to be, on stderr too.

    Args:
        runs: One run, or several to compare.
        out: Folder to write into; it is made if it is missing.
        other_formats: Of the figures' files beside PNG: ``svg``, ``pdf``.

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
    for difference in set_differences(runs):
        _log.warning(f"The runs were measured on different sets: {difference}.")
    images = _write_figures(runs, out, other_formats)
    page = out / "index.html"
    write_atomically(page, render_page(runs, images, ("png", *other_formats)).encode())
    return page


def _write_figures(
    runs: Sequence[Run], out: Path, other_formats: Sequence[str]
) -> dict[str, bytes]:
    """Write the figures; gives them as PNG."""
    images: dict[str, bytes] = {}
    for name, wanted in FIGURES.items():
        if wanted.is_wanted(runs):
            figure = wanted.draw(runs)
            files = {suffix: to_bytes(figure, suffix) for suffix in ("png", *other_formats)}
            for suffix, content in files.items():
                write_atomically(out / f"{name}.{suffix}", content)
            images[name] = files["png"]
    return images


def _distinct(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs under names that tell them apart; a seed alone is no name."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names) or any(map(SEED_ALONE.fullmatch, names)):
        names = [f"{run.path.resolve().parent.name}/{run.name}" for run in runs]
    pairs = zip(runs, distinct_names(names), strict=True)
    return tuple(dataclasses.replace(run, name=name) for run, name in pairs)


def _csv(frames: Sequence[pd.DataFrame]) -> bytes:
    rows = [row for frame in frames for row in frame.to_dict("records")]
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["run", "stage"])
    return frame.to_csv(index=False, lineterminator="\n").encode()
