"""The table of metrics and the one function that measures them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from nas_growclip.data.named_sets import NamedSet
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.retrieval_set import RetrievalSet
from nas_growclip.evaluation.embeddings import EmbeddedPairs, embed_pairs, require_finite
from nas_growclip.evaluation.retrieval import Ranking, benchmark_recalls, rank, recalls
from nas_growclip.evaluation.zero_shot import zero_shot
from nas_growclip.models.clip import Clip
from nas_growclip.models.losses import ContrastiveLoss, chance_loss
from nas_growclip.records.entries import Measure

Outcomes = dict[str, NDArray[np.bool_]]
"""Which items a model got right, by metric: what a paired comparison of models resamples."""


@dataclass(frozen=True)
class Measured:
    """What a metric may look at, and where it may note item by item what was right."""

    model: Clip
    embedded: EmbeddedPairs
    tasks: Sequence[NamedSet]
    batch_size: int
    outcomes: Outcomes

    @cached_property
    def rankings(self) -> tuple[Ranking, Ranking]:
        """Where images find their texts and texts their images."""
        return rank(self.embedded)


Metric = Callable[[Measured], Mapping[str, Measure]]


def contrastive_loss(embedded: EmbeddedPairs, batch_size: int) -> Measure:
    """Mean contrastive loss over batches of the training size, beside that of a guess.

    Captions of one image are not each other's negatives. A last partial batch is left out, since
    fewer negatives make the task easier, unless it is the only one.
    """
    num_pairs = len(embedded.texts)
    size = min(batch_size, num_pairs)
    has_bias = len(embedded.scale_and_bias) > 1
    loss_fn, scale_and_bias = ContrastiveLoss(has_bias), torch.tensor(embedded.scale_and_bias)
    losses, num_candidates = list[float](), list[int]()
    for start in range(0, num_pairs - size + 1, size):
        batch = slice(start, start + size)
        of_text = embedded.image_of_text[batch]
        images = embedded.images[of_text] if embedded.has_repeats else embedded.images[batch]
        loss = loss_fn(images, embedded.texts[batch], *scale_and_bias, image_ids=of_text)
        losses.append(loss.item())
        times = Counter(of_text.tolist())
        num_candidates += [size - (times[image] - 1) for image in of_text.tolist()]
    return Measure(sum(losses) / len(losses), _mean_chance(has_bias, num_candidates))


def _mean_chance(has_bias: bool, num_candidates: Sequence[int]) -> float:
    """The loss of a guess, the mean over pairs that each have their own number of candidates."""
    times = Counter(num_candidates)
    guesses = {number: chance_loss(has_bias, number) for number in times}
    if len(guesses) == 1:
        return guesses.popitem()[1]  # not its mean, which need not be it to the last bit
    return sum(guesses[number] * count for number, count in times.items()) / times.total()


def _loss(measured: Measured) -> Mapping[str, Measure]:
    require_finite(measured.embedded.images, "Image embeddings")
    require_finite(measured.embedded.texts, "Text embeddings")
    return {"loss": contrastive_loss(measured.embedded, measured.batch_size)}


def measure_sets(
    model: Clip, sets: Sequence[NamedSet], batch_size: int, outcomes: Outcomes
) -> Mapping[str, Measure]:
    """Zero-shot top-1 of tasks, and under ``retrieval/NAME/...`` the recalls of retrieval sets.

    Args:
        model: The model.
        sets: What to measure on.
        batch_size: Images or texts at once.
        outcomes: Filled with what was right, item by item.

    Raises:
        ValueError: If an embedding is not finite.
    """
    tasks = [named for named in sets if not isinstance(named, RetrievalSet)]
    measures = dict(zero_shot(model, tasks, batch_size, outcomes))
    for named in sets:
        if isinstance(named, RetrievalSet):
            embedded = embed_pairs(model, named.pairs, batch_size, label=f"evaluate {named.name}")
            found: Outcomes = {}
            measured = Measured(model, embedded, (), batch_size, found)
            values = {**_retrieval(measured), **benchmark_recalls(measured.rankings)}
            measures |= _below(f"retrieval/{named.name}", values)
            outcomes |= _below(f"retrieval/{named.name}", found)
    return measures


T = TypeVar("T")


def _below(prefix: str, values: Mapping[str, T]) -> dict[str, T]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _retrieval(measured: Measured) -> Mapping[str, Measure]:
    for ranking in measured.rankings:
        measured.outcomes[f"{ranking.name}_recall@1"] = (ranking.ranks < 1).numpy()
    return recalls(measured.rankings)


METRICS: Mapping[str, Metric] = {
    "loss": _loss,
    "retrieval": _retrieval,
    "benchmark_retrieval": lambda measured: benchmark_recalls(measured.rankings),
    "zero_shot": lambda measured: measure_sets(
        measured.model, measured.tasks, measured.batch_size, measured.outcomes
    ),
}
"""Metrics by name; one may give several numbers, each with its chance level."""

PAIR_METRICS = ("loss", "retrieval", "benchmark_retrieval")
"""What is measured of a set of pairs that is evaluated by itself."""


def evaluate(
    model: Clip,
    pairs: ImageTextPairs,
    tasks: Sequence[NamedSet],
    metrics: Sequence[str],
    batch_size: int,
    outcomes: Outcomes | None = None,
) -> Mapping[str, Measure]:
    """Measure a model on pairs and zero-shot tasks; every number comes beside its chance level.

    Args:
        model: The model.
        pairs: What loss and retrieval are measured on.
        tasks: Zero-shot tasks and retrieval sets.
        metrics: Names in ``METRICS``.
        batch_size: Images or texts at once; also the loss's number of candidates.
        outcomes: Filled with what was right, item by item: ``i2t_recall@1``, ``t2i_recall@1``,
            ``zero_shot_top1/TASK`` and ``retrieval/SET/i2t_recall@1``.

    Raises:
        ValueError: If an embedding is not finite.
    """
    embedded = embed_pairs(model, pairs, batch_size, label="evaluate pairs")
    outcomes = {} if outcomes is None else outcomes
    measured = Measured(model, embedded, tasks, batch_size, outcomes)
    values: dict[str, Measure] = {}
    for name in metrics:
        values |= METRICS[name](measured)
    return values
