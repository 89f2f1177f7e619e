"""What the notebooks share: one style for every figure, and the runs to look at."""

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from nas_growclip import plots
from nas_growclip.compare.config import load_comparison
from nas_growclip.compare.folder import COMPARISON_FILE, CompareFolder
from nas_growclip.records.frames import Run, load_run

RUNS_VARIABLE = "GROWCLIP_RUNS"
"""Environment variable with the run folders to read, or patterns of them, separated as in PATH."""

COMPARISON_VARIABLE = "GROWCLIP_COMPARISON"
"""Environment variable with the folder of a comparison to read."""
ROOT = Path(__file__).resolve().parents[1]


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
    patterns = named.split(os.pathsep) if named else defaults
    runs = [load_run(path) for pattern in patterns for path in _matching(ROOT, pattern, named)]
    if not any(run.stages for run in runs):
        raise ValueError(
            f"No finished stage in {', '.join(patterns)}. Make the runs as the notebook says, or "
            f"name run folders in the environment variable {RUNS_VARIABLE}."
        )
    return runs


def chosen_comparison(default: str) -> CompareFolder:
    """The comparison to analyse: that of ``GROWCLIP_COMPARISON``, or else the one given.

    Args:
        default: Its folder, relative to the repository's root.

    Raises:
        ValueError: If it is not there.
    """
    folder = ROOT / os.environ.get(COMPARISON_VARIABLE, default)
    return CompareFolder(load_comparison(folder / COMPARISON_FILE), folder)


def _matching(root: Path, pattern: str, named: str | None) -> list[Path]:
    """The folders of a pattern; what was named and is not there is kept, to be refused."""
    path = root / pattern
    found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    return found or ([path] if named else [])
