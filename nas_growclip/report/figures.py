"""The report's figures: their files, what draws them, and what is said below them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from nas_growclip.plots import (
    accuracy_by_set,
    accuracy_vs_flops,
    candidate_fronts,
    candidate_scores,
    trajectory,
)
from nas_growclip.plots.accuracy import set_metrics
from nas_growclip.plots.candidates import stages_with_choice
from nas_growclip.plots.series import series_of
from nas_growclip.records.frames import Run


class ReportFigure(NamedTuple):
    """A figure of the report."""

    draw: Callable[[Sequence[Run]], Figure]
    caption: str
    is_wanted: Callable[[Sequence[Run]], bool] = lambda runs: True
    """Whether it shows more than the others do."""


def has_choice(runs: Sequence[Run]) -> bool:
    """Whether some stage had more than one candidate."""
    return any(stages_with_choice(runs))


FIGURES: Mapping[str, ReportFigure] = {
    "accuracy_vs_flops": ReportFigure(
        accuracy_vs_flops,
        "Accuracy on the test pairs and on the zero-shot sets: on the left against the training "
        "FLOPs spent so far, the search's included, on the right against the FLOPs of the model. "
        "One marker a stage, with its number and the model's parameters; the thin dashed line is "
        "the level of a random model.",
    ),
    "accuracy_by_set": ReportFigure(
        accuracy_by_set,
        "The same for each zero-shot and each retrieval set, with its own level of a random model.",
        lambda runs: len(set_metrics(series_of(runs))) > 1,
    ),
    "candidates": ReportFigure(
        candidate_scores,
        "What each stage had to choose from. Left: the objective's score of every candidate, "
        "as a gain over the control. Right: the trials' learning curves on the validation pairs, "
        "in the colours and markers of the names on the left.",
        has_choice,
    ),
    "fronts": ReportFigure(
        candidate_fronts,
        "The candidates' loss at the end of their trials against the FLOPs of the model. The line "
        "is the front: no other candidate has both less loss and fewer FLOPs. All trials of a "
        "stage had the same training FLOPs.",
        has_choice,
    ),
    "trajectory": ReportFigure(
        trajectory,
        "How the architecture grew: sizes relative to the first stage's parent, of the dimensions "
        "that changed (as they are where they start at 0), and FLOPs of the model.",
    ),
}
"""Every figure of the report under its file name; a new one is one function and its line here."""
