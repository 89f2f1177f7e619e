"""The README's figure: loss of a grown child and of the same model trained from scratch.

Drawn from ``docs/results/recovery.csv``, which ``benchmarks/recovery.py`` measured.

Command: python -m analysis.recovery_figure [--out docs/images/recovery.png]    (seconds)
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from analysis.style import line_style, use_style

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "results" / "recovery.csv"
STEPS = (0, 16, 64, 256, 384)
PARENT_LOSS = {"scenes": 2.039, "fashion_pairs": 2.064}
"""Validation loss of the parents in nats, from ``docs/results/operators.md``."""
ARMS = {
    "scratch": "from scratch",
    "net2net": "grown by net2net",
    "exact": "grown by exact",
}


def draw(table: pd.DataFrame, out: Path) -> None:
    """Draw one panel for each data set, growing width and depth together."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for axis, data_set in zip(axes, PARENT_LOSS, strict=True):
        rows = table[(table["data_set"] == data_set) & (table["growth"] == "both")]
        draw_arms(axis, rows.set_index("arm"), data_set)
    axes[0].set_ylabel("validation loss (nats)")
    axes[0].legend(frameon=False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def draw_arms(axis: Axes, rows: pd.DataFrame, data_set: str) -> None:
    """Mean over five seeds with a standard deviation, and the parent's loss."""
    for place, (arm, label) in enumerate(ARMS.items()):
        losses = rows.loc[arm, [f"loss_step_{step}" for step in STEPS]].to_numpy(float)
        spread = rows.loc[arm, [f"loss_step_{step}_sd" for step in STEPS]].to_numpy(float)
        style: dict[str, Any] = line_style(place)
        axis.errorbar(STEPS, losses, spread, label=label, capsize=2, **style)
    parent = PARENT_LOSS[data_set]
    axis.axhline(parent, color="0.4", linewidth=0.8, linestyle=":")
    axis.text(STEPS[-1], parent + 0.05, "parent", ha="right", color="0.4")
    axis.set(title=data_set.replace("_", " "), xlabel="training steps of the larger model")


def main() -> None:
    """Read the table and draw it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "recovery.png")
    draw(pd.read_csv(TABLE), parser.parse_args().out)


if __name__ == "__main__":
    main()
