"""What is recorded, in words: names of metrics, notes under tables, candidates."""

from collections.abc import Mapping

from nas_growclip.growth.candidates import Candidate

FLOPS_NOTE = "FLOPs are fvcore FLOPs: one multiply-add is one."
CHANCE_NOTE = "In brackets: the level of a random model."

ACCURACIES: Mapping[str, str] = {
    "zero_shot_top1": "zero-shot top-1",
    "i2t_recall@1": "image-to-text recall@1",
    "t2i_recall@1": "text-to-image recall@1",
}
"""The metrics of the stage table and of the first figure, with their names in words."""


def growth_words(candidate: Candidate) -> str:
    """A candidate in words, as in ``image.width 64 → 96``; a step is not broken over lines."""
    steps = (
        f"{step.dimension}\N{NO-BREAK SPACE}{step.old}\N{NO-BREAK SPACE}→"
        f"\N{NO-BREAK SPACE}{step.new}"
        for step in candidate.steps
    )
    return ", ".join(steps) or "no growth"
