"""Results as CLIP_benchmark writes them, so that its ``build`` and people's notebooks read them.

One record a data set: ``dataset``, ``model``, ``pretrained``, ``task``, ``metrics`` and
``language``. Metrics have CLIP_benchmark's names; ``chance_*`` are ours, beside them.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.retrieval_set import RetrievalSet
from nas_growclip.data.zero_shot import ZeroShotTask
from nas_growclip.evaluation.embeddings import embed_pairs
from nas_growclip.evaluation.named_sets import pairs_at, tasks_at
from nas_growclip.evaluation.retrieval import benchmark_recalls, rank, recalls
from nas_growclip.evaluation.zero_shot import predict
from nas_growclip.models.clip import Clip


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
        if isinstance(task, RetrievalSet):
            yield task.name, "zeroshot_retrieval", retrieval_metrics(model, task.pairs, batch_size)
        else:
            metrics = classification_metrics(model, task, batch_size)
            yield task.name, "zeroshot_classification", metrics
    if not tasks or named == "scenes":
        pairs = pairs_at(named, image_size)
        yield Path(named).name, "zeroshot_retrieval", retrieval_metrics(model, pairs, batch_size)


def classification_metrics(model: Clip, task: ZeroShotTask, batch_size: int) -> dict[str, float]:
    """``acc1``, ``acc5`` and ``mean_per_class_recall``; NaN for ``acc5`` of fewer classes."""
    found = predict(model, task, batch_size)
    by_class = [found.right[found.labels == label].mean() for label in np.unique(found.labels)]
    return {
        "acc1": float(found.right.mean()),
        "acc5": math.nan if found.in_five is None else float(found.in_five.mean()),
        "mean_per_class_recall": float(np.mean(by_class)),
        "chance_acc1": task.chance,
    }


def retrieval_metrics(model: Clip, pairs: ImageTextPairs, batch_size: int) -> dict[str, float]:
    """CLIP_benchmark's recalls under its names, and ours, ``i2t_recall@k`` and ``t2i_recall@k``."""
    rankings = rank(embed_pairs(model, pairs, batch_size))
    metrics: dict[str, float] = {}
    for name, measure in {**benchmark_recalls(rankings), **recalls(rankings)}.items():
        metrics[name] = measure.value
        metrics[f"chance_{name}"] = measure.chance
    return metrics
