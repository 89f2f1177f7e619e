"""Figures of runs, for the report, for notebooks and for papers.

Each function takes runs, as ``load_run`` reads them, and returns a matplotlib ``Figure``, drawn
from the records alone; ``save_figure`` writes it as PNG, SVG or PDF. Nothing touches pyplot's
state, and markers and line styles tell lines apart without colour.
"""

from nas_growclip.plots.accuracy import accuracy_by_set, accuracy_vs_flops
from nas_growclip.plots.candidates import candidate_scores
from nas_growclip.plots.drawing import STYLE, line_style
from nas_growclip.plots.fronts import candidate_fronts
from nas_growclip.plots.over_time import accuracy_over_time
from nas_growclip.plots.saving import save_figure
from nas_growclip.plots.series import group_by_seed
from nas_growclip.plots.trajectory import trajectory

__all__ = [
    "STYLE",
    "accuracy_by_set",
    "accuracy_over_time",
    "accuracy_vs_flops",
    "candidate_fronts",
    "candidate_scores",
    "group_by_seed",
    "line_style",
    "save_figure",
    "trajectory",
]
