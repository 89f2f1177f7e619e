"""The table of metrics and the one function that measures them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.zero_shot import ZeroShotTask
from nas_growclip.evaluation.embeddings import EmbeddedPairs, embed_pairs
from nas_growclip.evaluation.retrieval import retrieval
from nas_growclip.evaluation.zero_shot import zero_shot
from nas_growclip.models.clip import Clip
from nas_growclip.models.losses import chance_loss, make_loss
from nas_growclip.records.entries import Measure

Outcomes = dict[str, NDArray[np.bool_]]
"""Which items a model got right, by metric: what a paired comparison of models resamples."""


class Measured(NamedTuple):
    """What a metric may look at, and where it may note item by item what was right."""

    model: Clip
    embedded: EmbeddedPairs
    tasks: Sequence[ZeroShotTask]
    batch_size: int
    outcomes: Outcomes


Metric = Callable[[Measured], Mapping[str, Measure]]


def contrastive_loss(embedded: EmbeddedPairs, batch_size: int) -> Measure:
    """Mean contrastive loss over batches of the training size, beside that of a guess.

    A last partial batch is left out, since fewer negatives make the task easier, unless it is
    the only one.
    """
    num_pairs = len(embedded.captions)
    size = min(batch_size, num_pairs)
    has_bias = len(embedded.scale_and_bias) > 1
    loss_fn, scale_and_bias = make_loss(has_bias), torch.tensor(embedded.scale_and_bias)
    losses = [
        loss_fn(embedded.images[i : i + size], embedded.texts[i : i + size], *scale_and_bias).item()
        for i in range(0, num_pairs - size + 1, size)
    ]
    return Measure(sum(losses) / len(losses), chance_loss(has_bias, size))


METRICS: Mapping[str, Metric] = {
    "loss": lambda measured: {"loss": contrastive_loss(measured.embedded, measured.batch_size)},
    "retrieval": lambda measured: retrieval(measured.embedded, measured.outcomes),
    "zero_shot": lambda measured: zero_shot(
        measured.model, measured.tasks, measured.batch_size, measured.outcomes
    ),
}
"""Metrics by name; one may give several numbers, each with its chance level."""


def evaluate(
    model: Clip,
    pairs: ImageTextPairs,
    tasks: Sequence[ZeroShotTask],
    metrics: Sequence[str],
    batch_size: int,
    outcomes: Outcomes | None = None,
) -> Mapping[str, Measure]:
    """Measure a model on pairs and zero-shot tasks; every number comes beside its chance level.

    Args:
        model: The model.
        pairs: What loss and retrieval are measured on.
        tasks: Zero-shot tasks.
        metrics: Names in ``METRICS``.
        batch_size: Images or texts at once; also the loss's number of candidates.
        outcomes: Filled with what was right, item by item: ``i2t_recall@1``, ``t2i_recall@1`` and
            ``zero_shot_top1/TASK``.
    """
    embedded = embed_pairs(model, pairs, batch_size, label="evaluate pairs")
    outcomes = {} if outcomes is None else outcomes
    measured = Measured(model, embedded, tasks, batch_size, outcomes)
    values: dict[str, Measure] = {}
    for name in metrics:
        values |= METRICS[name](measured)
    return values
