"""The figure of a comparison: every arm's accuracy against its training FLOPs."""

import pandas as pd
from matplotlib.figure import Figure

from nas_growclip.report.drawing import (
    figure_of_words,
    flops_axis,
    handle,
    line_style,
    new_figure,
)
from nas_growclip.report.tables import (
    ACCURACIES,
)


def draw_comparison(runs: pd.DataFrame) -> Figure:
    """Accuracy of each arm against its training FLOPs, stage by stage: means and deviations.

    Args:
        runs: One row a run and stage, with ``arm`` and ``seed``, as ``compare/results.py`` has it.
    """
    metrics = {m: words for m, words in ACCURACIES.items() if f"metric.{m}" in runs}
    if not metrics:
        return figure_of_words("No accuracy was measured.")
    arms = list(dict.fromkeys(runs["arm"]))
    rows = len(metrics)
    figure = new_figure(2.2 * rows + 0.2 * -(-len(arms) // 3) + 0.6)
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for panel, (metric, words) in zip(panels, metrics.items(), strict=True):
        for index, arm in enumerate(arms):
            stages = runs[runs["arm"] == arm].groupby("stage")
            x = stages["cumulative_flops"].mean()
            y, spread = (
                100 * f
                for f in (
                    stages[f"metric.{metric}"].mean(),
                    stages[f"metric.{metric}"].std().fillna(0),
                )
            )
            color, marker, line = line_style(index)
            panel.errorbar(
                x, y, yerr=spread, color=color, marker=marker, linestyle=line, elinewidth=0.7
            )
        panel.axhline(
            100 * runs[f"metric.{metric}.chance"].iloc[0],
            color="#555555",
            linestyle="--",
            linewidth=0.8,
            zorder=1,
        )
        panel.set_ylabel(f"{words} (%)".replace(" top", "\ntop").replace(" recall", "\nrecall"))
    flops_axis(panels[0], [int(flops) for flops in runs["cumulative_flops"]])
    panels[-1].set_xlabel(
        "cumulative training FLOPs, search included (fvcore FLOPs: one multiply-add is one)"
    )
    handles = [handle(arm, *line_style(index), 1.4) for index, arm in enumerate(arms)]
    handles.append(handle("chance", "#555555", "", "--", 0.8))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure
