"""Zero-shot classification: class prompts become a classifier (Radford et al., 2021, sec. 3.1)."""

from collections.abc import Mapping, MutableMapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas_growclip.data.preprocess import preprocess
from nas_growclip.data.zero_shot import ZeroShotTask
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


def top1(model: Clip, task: ZeroShotTask, batch_size: int) -> NDArray[np.bool_]:
    """For each image, whether its nearest class is the right one."""
    right = class_scores(model, task, batch_size).argmax(dim=1) == torch.tensor(task.labels)
    return right.numpy()


@torch.no_grad()
def class_scores(
    model: Clip, task: ZeroShotTask, batch_size: int
) -> Float[Tensor, "images classes"]:
    """Cosine similarity of every image and every class."""
    was_training = model.training
    model.eval()
    device = model.logit_scale.device
    classes = class_embeddings(model, task.class_names, task.templates)
    scores: list[Tensor] = []
    for start in range(0, len(task.images), batch_size):
        chunk = task.images[start : start + batch_size]
        images = preprocess(chunk, model.arch.image).to(device)
        scores.append((model.encode_image(images) @ classes.T).float().cpu())
    model.train(was_training)
    return torch.cat(scores)


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
    items = {task.name: top1(model, task, batch_size) for task in shown}
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
