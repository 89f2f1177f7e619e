"""What all figures share: style, colours, axes, legends."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from nas_growclip.records.frames import Run

WIDTH = 7.0
"""Inches: a page's text column."""


DPI = 150


COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#777777")


WARNING = "#a33000"


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)), (0, (1, 2)))


STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.parse_math": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that draws in the shared style, whatever matplotlib's settings are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def settle(figure: Figure) -> None:
    """Fix the layout: it is computed once, and then is the same in every format."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def line_style(index: int) -> tuple[str, str, Any]:
    """Colour, marker and line of the n-th series; marker and line tell it apart without colour."""
    cycle, index = divmod(index, len(COLORS))
    return COLORS[index], MARKERS[(index + 3 * cycle) % 8], LINES[(index + cycle) % 8]


def run_handles(runs: Sequence[Run]) -> list[Line2D]:
    """Legend entries of runs, in their order."""
    return [handle(run.name, *line_style(index), 1.4) for index, run in enumerate(runs)]


def handle(label: str, color: str, marker: str, line: Any, width: float) -> Line2D:
    """A legend entry."""
    handle = Line2D([], [], color=color, marker=marker, linewidth=width)
    handle.set_linestyle(line)
    handle.set_label(plain(label))
    return handle


def plain(text: str) -> str:
    """Text on one line, and not hidden from a legend by an underscore at its start."""
    text = " ".join(text.split())
    return f" {text}" if text.startswith("_") else text


def times(value: float, _: object) -> str:
    """A ratio as an axis shows it, with the multiplication sign behind it."""
    return f"{value:g}×"  # noqa: RUF001 # the multiplication sign is what is shown


def note(panel: Axes, words: str) -> None:
    """Words in the middle of a panel that has nothing else to show."""
    panel.text(
        0.5, 0.75, words, transform=panel.transAxes, ha="center", va="center", color="#444444"
    )


def figure_of_words(words: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = new_figure(1.2)
    figure.text(0.5, 0.5, words, ha="center", va="center")
    return figure


def new_figure(height: float) -> Figure:
    """A figure as wide as the page's text; its height is in inches."""
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def stage_axis(panel: Axes, stages: Sequence[int]) -> None:
    """Stages from left to right, the start first; of many only some have their number."""
    names = ["start", *(str(stage) for stage in stages)]
    every = math.ceil(len(names) / 16)
    panel.set_xticks(range(0, len(names), every), names[::every])
    panel.set_xlim(-0.4, len(names) - 0.6)


def flops_axis(panel: Axes, flops: Sequence[float]) -> None:
    """FLOPs from left to right, logarithmic where they span more than a decade."""
    positive = [value for value in flops if value > 0]
    # Where no stage has been measured there is no point to take the limits from.
    panel.update_datalim([(value, 0.0) for value in positive], updatey=False)
    if positive and max(positive) > 10 * min(positive):
        panel.set_xscale("log")
        is_wide = max(positive) > 1000 * min(positive)
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0,) if is_wide else (1.0, 2.0, 5.0)))
        panel.xaxis.set_minor_formatter(NullFormatter())
    elif positive:
        panel.xaxis.set_major_locator(MaxNLocator(6))
    if positive:
        panel.xaxis.set_major_formatter(EngFormatter())
    else:
        panel.xaxis.set_major_locator(NullLocator())
    panel.margins(x=0.08)
