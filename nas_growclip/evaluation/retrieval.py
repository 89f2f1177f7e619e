"""Recall at k, from images to texts and back.

Captions repeat in real data, so every item with an identical caption counts as right. Ties count
against the model: a model that embeds everything alike scores zero, not one.
"""

from collections.abc import Mapping, MutableMapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from nas_growclip.evaluation.embeddings import EmbeddedPairs
from nas_growclip.records.entries import Measure

RECALL_AT = (1, 5)


def retrieval(
    embedded: EmbeddedPairs, outcomes: MutableMapping[str, NDArray[np.bool_]] | None = None
) -> Mapping[str, Measure]:
    """``i2t_recall@k`` and ``t2i_recall@k``.

    ``outcomes`` is filled with which queries recall@1 counts as right.
    """
    is_right = same_caption(embedded.captions)
    similarity = embedded.images @ embedded.texts.T
    metrics: dict[str, Measure] = {}
    for direction, scores in (("i2t", similarity), ("t2i", similarity.T)):
        ranks = best_right_rank(scores, is_right)
        if outcomes is not None:
            outcomes[f"{direction}_recall@1"] = (ranks < 1).numpy()
        for k in RECALL_AT:
            recall = (ranks < k).double().mean().item()
            metrics[f"{direction}_recall@{k}"] = Measure(
                recall, chance_recall(is_right.sum(dim=1), k)
            )
    return metrics


def same_caption(captions: Sequence[str]) -> Bool[Tensor, "pairs pairs"]:
    """Which items have identical captions."""
    number = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    labels = torch.tensor([number[caption] for caption in captions])
    return labels[:, None] == labels[None, :]


def best_right_rank(
    scores: Float[Tensor, "queries items"], is_right: Bool[Tensor, "queries items"]
) -> Int[Tensor, " queries"]:
    """How many wrong items score at least as high as the best right one."""
    best = scores.masked_fill(~is_right, -torch.inf).amax(dim=1, keepdim=True)
    return ((scores >= best) & ~is_right).sum(dim=1)


def chance_recall(num_right: Int[Tensor, " queries"], k: int) -> float:
    """Expected recall at k of a random order: 1 - C(n - right, k) / C(n, k), averaged."""
    n = len(num_right)
    missed = torch.ones(n, dtype=torch.float64)
    for drawn in range(min(k, n)):
        missed *= (n - num_right.double() - drawn).clamp(min=0) / (n - drawn)
    return (1 - missed).mean().item()
