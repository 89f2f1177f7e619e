"""The table of metrics and the one function that measures them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from open_clip.loss import ClipLoss

from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.zero_shot import ZeroShotTask
from nas_growclip.evaluation.embeddings import EmbeddedPairs, embed_pairs
from nas_growclip.evaluation.retrieval import retrieval
from nas_growclip.evaluation.zero_shot import zero_shot
from nas_growclip.models.clip import Clip


class Measured(NamedTuple):
    """What a metric may look at."""

    model: Clip
    embedded: EmbeddedPairs
    tasks: Sequence[ZeroShotTask]
    batch_size: int


Metric = Callable[[Measured], Mapping[str, float]]


def contrastive_loss(embedded: EmbeddedPairs, batch_size: int) -> Mapping[str, float]:
    """Mean contrastive loss over batches of the training size, and that of a uniform guess.

    A last partial batch is left out, since fewer negatives make the task easier, unless it is
    the only one.
    """
    num_pairs = len(embedded.captions)
    size = min(batch_size, num_pairs)
    loss_fn, scale = ClipLoss(), torch.tensor(embedded.logit_scale)
    losses = [
        loss_fn(embedded.images[i : i + size], embedded.texts[i : i + size], scale).item()
        for i in range(0, num_pairs - size + 1, size)
    ]
    return {"loss": sum(losses) / len(losses), "chance.loss": math.log(size)}


METRICS: Mapping[str, Metric] = {
    "loss": lambda measured: contrastive_loss(measured.embedded, measured.batch_size),
    "retrieval": lambda measured: retrieval(measured.embedded),
    "zero_shot": lambda measured: zero_shot(measured.model, measured.tasks, measured.batch_size),
}
"""Metrics by name; one may give several numbers, each with its ``chance.`` level."""


def evaluate(
    model: Clip,
    pairs: ImageTextPairs,
    tasks: Sequence[ZeroShotTask],
    metrics: Sequence[str],
    batch_size: int,
) -> Mapping[str, float]:
    """Measure a model on pairs and zero-shot tasks; every number comes beside its chance level."""
    embedded = embed_pairs(model, pairs, batch_size, label="evaluate pairs")
    measured = Measured(model, embedded, tasks, batch_size)
    values: dict[str, float] = {}
    for name in metrics:
        values |= METRICS[name](measured)
    return values
