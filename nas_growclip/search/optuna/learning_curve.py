"""The picture of a trial's learning curve, apart: a trial that draws none needs no matplotlib."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from nas_growclip.records.entries import Trial
from nas_growclip.search.optuna.dashboard_figures import (
    CHOSEN,
    CONTROL,
    CONTROL_NAME,
    Curve,
    finite_points,
    shortened,
)

FIGURE_SIZE = (4.8, 3.0)


def draw_curve(trial: Trial, control: Curve) -> Figure:
    """A trial's validation loss against pairs seen, the control's dashed where it is known."""
    figure = Figure(figsize=FIGURE_SIZE)
    figure.subplots_adjust(left=0.14, right=0.97, bottom=0.17, top=0.89)
    panel = figure.subplots()
    if trial.candidate.grows and control:
        style: dict[str, Any] = {"color": CONTROL, "linestyle": "--", "marker": "D"}
        panel.plot(*finite_points(control), label=CONTROL_NAME, markersize=3, **style)
    name = shortened(trial.label) if trial.candidate.grows else CONTROL_NAME
    panel.plot(*finite_points(trial.curve), label=name, color=CHOSEN, marker="o", markersize=4)
    panel.set_title(f"Stage {trial.stage}, trial {trial.number}", fontsize=10, loc="left")
    panel.set_xlabel("pairs seen in the trial", fontsize=9)
    panel.set_ylabel("validation loss (nats)", fontsize=9)
    panel.xaxis.set_major_formatter(EngFormatter())
    panel.tick_params(labelsize=8)
    panel.grid(color="#e3e3e3", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False)
    return figure
