"""Results as CLIP_benchmark writes them, so that its ``build`` and people's notebooks read them.

One record a data set: ``dataset``, ``model``, ``pretrained``, ``task``, ``metrics`` and
``language``. Metrics have CLIP_benchmark's names; ``chance_*`` are ours, beside them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.zero_shot import ZeroShotTask
from nas_growclip.evaluation.embeddings import embed_pairs
from nas_growclip.evaluation.named_sets import pairs_at, tasks_at
from nas_growclip.evaluation.retrieval import RECALL_AT, retrieval
from nas_growclip.evaluation.zero_shot import class_scores
from nas_growclip.models.clip import Clip

RETRIEVAL_NAMES: Mapping[str, str] = {"t2i": "image_retrieval", "i2t": "text_retrieval"}
"""What is retrieved, in CLIP_benchmark's words."""


def benchmark_records(
    model: Clip, named_sets: Sequence[str], names: tuple[str, str], batch_size: int
) -> list[dict[str, Any]]:
    """One record for each zero-shot set and each set of pairs.

    Args:
        model: The model.
        named_sets: As for ``evaluate_named_sets``.
        names: ``model`` and ``pretrained`` of the records.
        batch_size: Images or texts at once.

    Raises:
        ValueError: If a set is no data or holds nothing usable.
    """
    return [
        {
            "dataset": dataset,
            "model": names[0],
            "pretrained": names[1],
            "task": task,
            "metrics": metrics,
            "language": "en",
        }
        for named in named_sets
        for dataset, task, metrics in _measured(model, named, batch_size)
    ]


def _measured(
    model: Clip, named: str, batch_size: int
) -> Iterator[tuple[str, str, dict[str, float]]]:
    image_size = max(model.arch.image.image_shape)
    tasks = tasks_at(named, image_size)
    for task in tasks:
        metrics = classification_metrics(model, task, batch_size)
        yield task.name, "zeroshot_classification", metrics
    if not tasks or named == "scenes":
        pairs = pairs_at(named, image_size)
        yield Path(named).name, "zeroshot_retrieval", retrieval_metrics(model, pairs, batch_size)


def classification_metrics(model: Clip, task: ZeroShotTask, batch_size: int) -> dict[str, float]:
    """``acc1``, ``acc5`` and ``mean_per_class_recall``; NaN for ``acc5`` of fewer classes."""
    scores, labels = class_scores(model, task, batch_size), torch.tensor(task.labels)
    right = scores.argmax(dim=1) == labels
    recalls = [right[labels == label].double().mean() for label in sorted(set(task.labels))]
    in_five = (
        (scores.topk(5).indices == labels[:, None]).any(dim=1).double().mean().item()
        if scores.shape[1] >= 5
        else math.nan
    )
    return {
        "acc1": right.double().mean().item(),
        "acc5": in_five,
        "mean_per_class_recall": torch.stack(recalls).mean().item(),
        "chance_acc1": task.chance,
    }


def retrieval_metrics(model: Clip, pairs: ImageTextPairs, batch_size: int) -> dict[str, float]:
    """``image_retrieval_recall@k`` and ``text_retrieval_recall@k``.

    Items with an identical caption all count as right, unlike in CLIP_benchmark, which pairs texts
    and images by their place alone.
    """
    values = retrieval(embed_pairs(model, pairs, batch_size))
    metrics: dict[str, float] = {}
    for direction, name in RETRIEVAL_NAMES.items():
        for k in RECALL_AT:
            measure = values[f"{direction}_recall@{k}"]
            metrics[f"{name}_recall@{k}"] = measure.value
            metrics[f"chance_{name}_recall@{k}"] = measure.chance
    return metrics
