"""Zero-shot classification: class prompts become a classifier (Radford et al., 2021, sec. 3.1)."""

import itertools
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas_growclip.data.preprocess import preprocess
from nas_growclip.data.zero_shot import ZeroShotTask
from nas_growclip.evaluation.embeddings import evaluation_mode, require_finite
from nas_growclip.io.progress import track
from nas_growclip.models.clip import Clip
from nas_growclip.records.entries import Measure


@torch.no_grad()
def class_embeddings(
    model: Clip, class_names: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "classes embed_dim"]:
    """One unit-length embedding a class: the mean over its prompts' embeddings."""
    device = model.logit_scale.device
    rows = []
    for class_name in class_names:
        prompts = [template.replace("{c}", class_name) for template in templates]
        texts = model.encode_text(model.tokenize(prompts).to(device))
        rows.append(functional.normalize(texts.mean(dim=0), dim=-1))
    return torch.stack(rows)


class Predictions(NamedTuple):
    """What a model says of each image of a task, and what is so."""

    first: NDArray[np.int64]
    """The nearest class."""
    in_five: NDArray[np.bool_] | None
    """Whether the right class is among the nearest five; None of fewer than five classes."""
    labels: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the nearest class is the right one."""
        right: NDArray[np.bool_] = self.first == self.labels
        return right


def predict(model: Clip, task: ZeroShotTask, batch_size: int) -> Predictions:
    """Classify every image of a task; of the scores, memory holds those of one batch.

    Raises:
        ValueError: If an embedding is not finite.
    """
    labels = torch.tensor(task.labels)
    first, in_five = list[Tensor](), list[Tensor]()
    for scores in class_scores(model, task, batch_size):
        start = sum(map(len, first))
        first.append(scores.argmax(dim=1))
        if scores.shape[1] >= 5:
            right = labels[start : start + len(scores), None]
            in_five.append((scores.topk(5).indices == right).any(dim=1))
    five = torch.cat(in_five).numpy() if in_five else None
    return Predictions(torch.cat(first).numpy(), five, labels.numpy())


def class_scores(
    model: Clip, task: ZeroShotTask, batch_size: int
) -> Iterator[Float[Tensor, "images classes"]]:
    """Cosine similarity of every image and every class, batch after batch.

    Raises:
        ValueError: If an embedding is not finite.
    """
    device, arch = model.logit_scale.device, model.arch.image
    with evaluation_mode(model):
        classes = class_embeddings(model, task.class_names, task.templates)
        require_finite(classes, f"Class embeddings of {task.name!r}")
        stream = iter(task.images)
        for first in stream:
            batch = itertools.chain((first,), itertools.islice(stream, batch_size - 1))
            images = preprocess(batch, arch).to(device)
            with torch.no_grad():
                scores = (model.encode_image(images) @ classes.T).float().cpu()
            require_finite(scores, f"Image embeddings of {task.name!r}")
            yield scores


def zero_shot(
    model: Clip,
    tasks: Sequence[ZeroShotTask],
    batch_size: int,
    outcomes: MutableMapping[str, NDArray[np.bool_]] | None = None,
) -> Mapping[str, Measure]:
    """``zero_shot_top1`` (mean over tasks) and each task's own.

    ``outcomes`` is filled with which images were classified rightly, task by task.
    """
    if not tasks:
        return {}
    shown = track(tasks, total=len(tasks), label="evaluate zero-shot tasks")
    items = {task.name: predict(model, task, batch_size).right for task in shown}
    if outcomes is not None:
        outcomes.update({f"zero_shot_top1/{name}": right for name, right in items.items()})
    measures = {
        f"zero_shot_top1/{task.name}": Measure(float(items[task.name].mean()), task.chance)
        for task in tasks
    }
    return {"zero_shot_top1": _mean(list(measures.values())), **measures}


def _mean(measures: Sequence[Measure]) -> Measure:
    return Measure(
        sum(measure.value for measure in measures) / len(measures),
        sum(measure.chance for measure in measures) / len(measures),
    )
