"""Zero-shot classification: class prompts become a classifier (Radford et al., 2021, sec. 3.1)."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas_growclip.data.batches import in_batches
from nas_growclip.data.held import HeldImages
from nas_growclip.data.preprocess import normalise, preprocess
from nas_growclip.data.zero_shot import ImageSource, ZeroShotTask
from nas_growclip.evaluation.embeddings import evaluation_mode, require_finite
from nas_growclip.evaluation.texts import embedded_batches
from nas_growclip.io.progress import track
from nas_growclip.models.arch import ImageArch
from nas_growclip.models.clip import Clip
from nas_growclip.records.entries import Measure


@torch.no_grad()
def class_embeddings(
    model: Clip, class_names: Sequence[str], templates: Sequence[str], batch_size: int
) -> Float[Tensor, "classes embed_dim"]:
    """One unit-length embedding a class: the mean over its prompts' embeddings.

    Prompts are embedded ``batch_size`` at once, whatever classes they are of.
    """
    prompts = [template.replace("{c}", name) for name in class_names for template in templates]
    classes = torch.arange(len(class_names)).repeat_interleave(len(templates))
    sums: Tensor | None = None
    for places, texts in embedded_batches(model, model.tokenize(prompts), batch_size):
        sums = texts.new_zeros(len(class_names), texts.shape[1]) if sums is None else sums
        sums.index_add_(0, classes[places].to(sums.device), texts)
    assert sums is not None
    return functional.normalize(sums, dim=-1)


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
        classes = class_embeddings(model, task.class_names, task.templates, batch_size)
        require_finite(classes, f"Class embeddings of {task.name!r}")
        for images in image_batches(task.images, arch, batch_size):
            with torch.no_grad():
                scores = (model.encode_image(images.to(device)) @ classes.T).float().cpu()
            require_finite(scores, f"Image embeddings of {task.name!r}")
            yield scores


def image_batches(
    images: ImageSource, arch: ImageArch, batch_size: int
) -> Iterator[Float[Tensor, "batch 3 height width"]]:
    """Images as a model takes them; those that are held in memory are scaled only once."""
    if isinstance(images, HeldImages):
        scaled = images.scaled(arch.image_shape, arch.preprocessing)
        for first in range(0, len(scaled), batch_size):
            yield normalise(scaled[first : first + batch_size], arch.preprocessing)
        return
    for batch in in_batches(iter(images), batch_size):
        yield preprocess(batch, arch)


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
