"""A stage's figures for optuna-dashboard, as Plotly's plain descriptions; no plotly in here.

Candidates are told apart by symbol and dash, not by colour alone. FLOPs are fvcore FLOPs: one
multiply-add is one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nas_growclip.records.entries import StageResult, Trial

Description = Mapping[str, Any]
"""What ``plotly.graph_objects.Figure`` takes: data and layout."""

Curve = Sequence[Sequence[float]]
"""Points of (pairs seen, loss), as in ``Trial.curve`` and in the study's attribute."""

FLOPS_NOTE = "fvcore FLOPs: one multiply-add is one"
MAX_CURVES = 6
"""Candidates with a learning curve beside the control's and the chosen one's, best ones first."""
MAX_NAME = 36
CHOSEN, CONTROL, OTHER = "#0072B2", "#000000", "#8a8a8a"
COLORS = ("#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8a8a8a")
CONTROL_NAME = "control (no growth)"


def loss_against_flops(trials: Sequence[Trial], best: Trial) -> Description:
    """Every candidate's loss at its trial's end against its FLOPs, the chosen one marked."""
    ended = [trial for trial in trials if math.isfinite(end_loss(trial))]
    grown = [trial for trial in ended if trial.candidate.grows]
    pruned = [trial for trial in grown if trial.state == "pruned"]
    data = [
        _points("candidate", OTHER, "circle", [t for t in grown if t not in pruned]),
        _points("pruned candidate", OTHER, "circle-open", pruned),
        _points(CONTROL_NAME, CONTROL, "diamond", [t for t in ended if not t.candidate.grows]),
        _points("chosen", CHOSEN, "star-open", [t for t in ended if t.number == best.number]),
    ]
    title = f"Stage {best.stage}: final loss against FLOPs"
    if len(ended) < len(trials):
        title += f" ({len(trials) - len(ended)} without a loss)"
    x = f"FLOPs a pair, forward ({FLOPS_NOTE})"
    return {
        "data": [points for points in data if points["x"]],
        "layout": layout(title, x, "validation loss (nats)"),
    }


def learning_curves(trials: Sequence[Trial], best: Trial) -> Description:
    """The trials' validation losses against the pairs that they saw."""
    grown = [trial for trial in trials if trial.candidate.grows and trial.number != best.number]
    grown.sort(key=lambda trial: -math.inf if trial.score is None else trial.score, reverse=True)
    marked = [trial for trial in trials if not trial.candidate.grows or trial.number == best.number]
    data = [
        _curve(trial, COLORS[place % len(COLORS)], "dot", 1.5)
        for place, trial in enumerate(grown[:MAX_CURVES])
    ]
    for trial in marked:
        is_best = trial.number == best.number
        color = CHOSEN if is_best else CONTROL
        curve = _curve(
            trial, color, "solid" if trial.candidate.grows else "dash", 4 if is_best else 2
        )
        data.append(curve | {"name": f"{curve['name']}, chosen"} if is_best else curve)
    title = f"Stage {best.stage}: learning curves"
    if len(grown) > MAX_CURVES:
        title += f" (best {MAX_CURVES} of {len(grown)} others)"
    return {
        "data": [curve for curve in data if curve["x"]],
        "layout": layout(title, "pairs seen in the trial", "validation loss (nats)"),
    }


def all_stages(stages: Sequence[StageResult]) -> Description:
    """Zero-shot top-1 and validation loss of the finished stages against FLOPs so far."""
    names = [f"stage {stage.stage}" for stage in stages]
    named: dict[str, Any] = {
        "mode": "lines+markers+text",
        "text": names,
        "textposition": "top center",
    }
    chance: dict[str, Any] = {
        "mode": "lines",
        "line": {"dash": "dash", "color": OTHER},
        "yaxis": "y2",
    }
    tops = [stage.metrics.get("zero_shot_top1") for stage in stages]
    data: list[tuple[str, list[float | None], dict[str, Any]]] = [
        ("validation loss", [s.validation["loss"].value for s in stages], named),
        (
            "zero-shot top-1",
            [100 * top.value if top else None for top in tops],
            named | {"yaxis": "y2"},
        ),
        ("chance", [100 * top.chance if top else None for top in tops], chance),
    ]
    x = f"training FLOPs so far, search included ({FLOPS_NOTE})"
    made = layout("Finished stages", x, "validation loss")
    top = {"title": {"text": "zero-shot top-1 (%)", "standoff": 8}, "rangemode": "tozero"}
    made["yaxis2"] = made["yaxis"] | top | {"domain": [0.56, 1], "anchor": "x"}
    made["yaxis"] |= {"domain": [0, 0.44]}
    made["xaxis"] |= {"rangemode": "tozero"}
    spent = [stage.cumulative_flops for stage in stages]
    return {
        "data": [
            {"type": "scatter", "name": name, "x": spent, "y": y, "cliponaxis": False, **style}
            for name, y, style in data
            if any(value is not None for value in y)
        ],
        "layout": made,
    }


def end_loss(trial: Trial) -> float:
    """The last point of a trial's learning curve; not a number where it has none."""
    return trial.curve[-1][1] if trial.curve else math.nan


def finite_points(curve: Curve) -> tuple[list[float], list[float]]:
    """Pairs and losses of the points whose loss is a number."""
    points = [(pairs, loss) for pairs, loss in curve if math.isfinite(loss)]
    return [pairs for pairs, _ in points], [loss for _, loss in points]


def shortened(name: str) -> str:
    """A name that fits into a legend."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."


def layout(title: str, x: str, y: str) -> dict[str, Any]:
    """The look that all figures share, on white whatever the dashboard's colours."""
    axis = {"gridcolor": "#e3e3e3", "linecolor": "#555555", "zeroline": False, "automargin": True}
    return {
        "title": {"text": title, "font": {"size": 15}, "x": 0.02, "xanchor": "left"},
        "template": "none",
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "font": {"color": "#222222"},
        "margin": {"t": 60, "l": 70, "r": 30},
        "legend": {
            "orientation": "h",
            **{"yref": "container", "yanchor": "bottom", "y": 0.01},
            **{"entrywidthmode": "fraction", "entrywidth": 0.5},
        },
        "xaxis": axis | {"title": {"text": x, "standoff": 8}, "exponentformat": "SI"},
        "yaxis": axis | {"title": {"text": y, "standoff": 8}},
    }


def _points(name: str, color: str, symbol: str, trials: Sequence[Trial]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [trial.flops for trial in trials],
        "y": [end_loss(trial) for trial in trials],
        "hovertext": [_hover(trial) for trial in trials],
        "hoverinfo": "text",
        "marker": {"color": color, "symbol": symbol, "size": 18 if name == "chosen" else 9},
    }


def _curve(trial: Trial, color: str, dash: str, width: float) -> dict[str, Any]:
    pairs, losses = finite_points(trial.curve)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": shortened(trial.label) if trial.candidate.grows else CONTROL_NAME,
        "x": pairs,
        "y": losses,
        "line": {"color": color, "dash": dash, "width": width},
    }


def _hover(trial: Trial) -> str:
    steps = [f"{step.dimension} {step.old} to {step.new}" for step in trial.candidate.steps]
    score = "no score" if trial.score is None else f"score {trial.score:+.4g}"
    return "<br>".join(
        [
            f"<b>trial {trial.number}</b>, {trial.state}",
            *(steps or [CONTROL_NAME]),
            f"{trial.flops:,} FLOPs a pair, {trial.params:,} parameters",
            f"loss {end_loss(trial):.4g}, {score}",
        ]
    )
