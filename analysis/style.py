"""One style for every figure of the notebooks: readable in grey and at a column's width."""

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from nas_growclip import plots
from nas_growclip.records.frames import Run, load_run

RUNS_VARIABLE = "GROWCLIP_RUNS"
"""Environment variable with the run folders to read, separated as in PATH."""


def use_style() -> None:
    """Draw everything in the report's style."""
    mpl.rcParams.update(plots.STYLE)


def line_style(place: int) -> dict[str, object]:
    """The report's style of the n-th series, as matplotlib's functions take it."""
    color, marker, line = plots.line_style(place)
    return {"color": color, "marker": marker, "linestyle": line}


def chosen_runs(defaults: Sequence[str]) -> list[Run]:
    """The runs to analyse: those of ``GROWCLIP_RUNS``, or else the folders given.

    Args:
        defaults: Folders, or glob patterns of them, relative to the repository's root.

    Raises:
        ValueError: If none of them holds a run.
    """
    named = os.environ.get(RUNS_VARIABLE)
    root = Path(__file__).resolve().parents[1]
    if named:
        paths = [Path(name) for name in named.split(os.pathsep)]
    else:
        paths = [path for pattern in defaults for path in sorted(root.glob(pattern))]
    runs = [load_run(path) for path in paths]
    if not any(run.stages for run in runs):
        raise ValueError(
            f"No finished stage in {named or ', '.join(defaults)}. Run the experiment first, or "
            f"name run folders in the environment variable {RUNS_VARIABLE}."
        )
    return runs
