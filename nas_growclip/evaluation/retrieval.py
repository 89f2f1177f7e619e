"""Recall at k, from images to texts and back, in two readings.

An image may have several captions: an image finds its texts if any of them is among the best k, a
text finds its image. The readings differ where different images have an identical caption, and in
ties:

- ``recalls`` takes every item with an identical caption for right, and ties against the model: a
  model that embeds everything alike scores zero, not one.
- ``benchmark_recalls`` is CLIP_benchmark's: only an image's own captions are right, and of items
  that score alike those count that ``torch.topk`` gives.

Scores are computed for a few queries at a time, so that memory grows with the number of items, not
with its square.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nas_growclip.evaluation.embeddings import EmbeddedPairs, require_finite
from nas_growclip.records.entries import Measure

RECALL_AT = (1, 5)
BENCHMARK_RECALL_AT = (1, 5, 10)
"""What papers report."""

BENCHMARK_NAMES: Mapping[str, str] = {"t2i": "image_retrieval", "i2t": "text_retrieval"}
"""What is retrieved, in CLIP_benchmark's words."""

CHUNK_SCORES = 2**23
"""Scores held at a time: 32 MiB of them, and a few times that to rank them."""


class Ranking(NamedTuple):
    """Where queries of one direction find what is right for them."""

    name: str
    """``i2t`` or ``t2i``."""
    num_items: int
    ranks: Int[Tensor, " queries"]
    """How many wrong items score at least as high as the best right one."""
    num_right: Int[Tensor, " queries"]
    """Right items, those with an identical caption included."""
    is_own: Bool[Tensor, "queries best"]
    """Which of the best items, in their order, are the query's own."""
    num_own: Int[Tensor, " queries"]


def recalls(rankings: Sequence[Ranking]) -> Mapping[str, Measure]:
    """``i2t_recall@k`` and ``t2i_recall@k``: identical captions are all right, ties are wrong."""
    return {
        f"{ranking.name}_recall@{k}": Measure(
            (ranking.ranks < k).double().mean().item(),
            chance_recall(ranking.num_right, ranking.num_items, k),
        )
        for ranking in rankings
        for k in RECALL_AT
    }


def benchmark_recalls(rankings: Sequence[Ranking]) -> Mapping[str, Measure]:
    """``text_retrieval_recall@k`` and ``image_retrieval_recall@k`` as CLIP_benchmark has them.

    Reference: LAION-AI/CLIP_benchmark, ``clip_benchmark/metrics/zeroshot_retrieval.py``.
    """
    return {
        f"{BENCHMARK_NAMES[ranking.name]}_recall@{k}": Measure(
            ranking.is_own[:, :k].any(dim=1).double().mean().item(),
            chance_recall(ranking.num_own, ranking.num_items, k),
        )
        for ranking in rankings
        for k in BENCHMARK_RECALL_AT
    }


def rank(embedded: EmbeddedPairs) -> tuple[Ranking, Ranking]:
    """Rank all texts for every image, and all images for every text.

    Raises:
        ValueError: If an embedding is not finite.
    """
    images, texts, of_text = embedded.images, embedded.texts, embedded.image_of_text
    require_finite(images, "Image embeddings")
    require_finite(texts, "Text embeddings")
    rows, captions = torch.arange(len(images)), _caption_numbers(embedded.captions)
    links = torch.tensor(sorted(set(zip(of_text.tolist(), captions.tolist(), strict=True)))).T
    i2t = Labels(rows, captions, links, own_query=rows, own_item=of_text)
    t2i = Labels(captions, rows, links.flip(0), own_query=of_text, own_item=rows)
    return _ranking("i2t", images, texts, i2t), _ranking("t2i", texts, images, t2i)


class Labels(NamedTuple):
    """What says which items are right for which queries."""

    queries: Int[Tensor, " queries"]
    items: Int[Tensor, " items"]
    links: Int[Tensor, "2 links"]
    """A query's label and an item's that is right for it."""
    own_query: Int[Tensor, " queries"]
    own_item: Int[Tensor, " items"]
    """An item with the same number as the query is the query's own."""


def _ranking(
    name: str,
    queries: Float[Tensor, "queries embed_dim"],
    items: Float[Tensor, "items embed_dim"],
    labels: Labels,
) -> Ranking:
    most, size = min(max(BENCHMARK_RECALL_AT), len(items)), max(1, CHUNK_SCORES // len(items))
    items_of_label, labels_of_query = Groups.of(labels.items), Groups.of(*labels.links)
    num_own = labels.own_item.bincount(minlength=int(labels.own_query.max()) + 1)
    # Everything that outlives a chunk has its place before the first one: small results between
    # large scores would leave the heap full of holes, gigabytes of them.
    all_scores = torch.empty(size, len(items), dtype=queries.dtype)
    ranks, num_right = (torch.empty(len(queries), dtype=torch.long) for _ in range(2))
    is_own = torch.empty(len(queries), most, dtype=torch.bool)
    for start in range(0, len(queries), size):
        chunk = slice(start, start + size)
        own_query = labels.own_query[chunk]
        scores = torch.matmul(queries[chunk], items.T, out=all_scores[: len(own_query)])
        rows, right_labels = labels_of_query.members(labels.queries[chunk])
        places, right = items_of_label.members(right_labels)
        ranks[chunk], num_right[chunk] = _best_right_rank(scores, rows[places], right)
        is_own[chunk] = labels.own_item[scores.topk(most).indices] == own_query[:, None]
    return Ranking(name, len(items), ranks, num_right, is_own, num_own[labels.own_query])


class Groups(NamedTuple):
    """Members of labels, one label after the other."""

    starts: Int[Tensor, " labels"]
    """Where a label's members begin; one more for the end of the last."""
    values: Int[Tensor, " members"]

    @classmethod
    def of(cls, labels: Int[Tensor, " members"], values: Tensor | None = None) -> "Groups":
        """Group values, by default the places of the labels, by their labels."""
        order = labels.argsort(stable=True)
        counts = labels.bincount(minlength=int(labels.max()) + 1)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        return cls(starts, order if values is None else values[order])

    def members(self, asked: Int[Tensor, " asked"]) -> tuple[Tensor, Tensor]:
        """All members of the labels asked for: for each, which question it answers, and itself."""
        starts = self.starts[asked]
        counts = self.starts[asked + 1] - starts
        rows = torch.arange(len(asked)).repeat_interleave(counts)
        within = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        return rows, self.values[starts[rows] + within]


def _best_right_rank(
    scores: Float[Tensor, "queries items"],
    rows: Int[Tensor, " right"],
    right: Int[Tensor, " right"],
) -> tuple[Int[Tensor, " queries"], Int[Tensor, " queries"]]:
    """How many wrong items score at least as high as the best right one, and how many are right.

    Args:
        scores: Of some queries.
        rows: Queries that have a right item, link by link.
        right: That item.
    """
    right_scores = scores[rows, right]
    best = torch.full((len(scores),), -torch.inf, dtype=scores.dtype)
    best = best.scatter_reduce(0, rows, right_scores, "amax")
    # NumPy counts booleans four times as fast on a CPU.
    as_high = torch.from_numpy(np.count_nonzero((scores >= best[:, None]).numpy(), axis=1))
    right_as_high = rows[right_scores >= best[rows]].bincount(minlength=len(scores))
    return as_high - right_as_high, rows.bincount(minlength=len(scores))


def _caption_numbers(captions: Sequence[str]) -> Int[Tensor, " texts"]:
    """One number for each text; equal for identical captions."""
    number = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    return torch.tensor([number[caption] for caption in captions])


def chance_recall(num_right: Int[Tensor, " queries"], num_items: int, k: int) -> float:
    """Expected recall at k of a random order: 1 - C(n - right, k) / C(n, k), averaged."""
    missed = torch.ones(len(num_right), dtype=torch.float64)
    for drawn in range(min(k, num_items)):
        missed *= (num_items - num_right.double() - drawn).clamp(min=0) / (num_items - drawn)
    return (1 - missed).mean().item()
