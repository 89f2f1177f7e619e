"""The contrastive loss that a model is trained with, and its gradient part by part.

Both losses are open_clip's. Which one follows from the architecture, since SigLIP's has a
parameter of its own.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float, Int
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn

from nas_growclip.models.clip import Clip


def make_loss(has_bias: bool) -> nn.Module:
    """SigLIP's loss for a model with a logit bias, else CLIP's.

    Reference: Zhai et al., 2023 (arXiv 2303.15343), algorithm 1; Radford et al., 2021, figure 3.
    """
    loss: nn.Module = SigLipLoss() if has_bias else ClipLoss()
    return loss


def guess_loss(has_bias: bool, num_pairs: int) -> float:
    """Loss in nats of the best guess that knows nothing but the number of pairs in a batch.

    CLIP: log N. SigLIP, each pair's N decisions at probability 1 / N:
    log N + (N - 1) log(N / (N - 1)).
    """
    others = (num_pairs - 1) * math.log(num_pairs / (num_pairs - 1)) if num_pairs > 1 else 0.0
    return math.log(num_pairs) + (others if has_bias else 0.0)


def backpropagate(
    model: Clip,
    images: Float[Tensor, "batch 3 height width"],
    tokens: Int[Tensor, "batch context"],
    *,
    part: int = 0,
    loss_fn: nn.Module | None = None,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tensor:
    """Add the gradient of a batch's loss to the model's parameters.

    In parts, the whole batch is embedded without a graph, the loss's gradient is taken for the
    embeddings, and each part is embedded again to send its share on. The gradient is the whole
    batch's; memory is one part's; the towers run forward twice.

    Reference: GradCache, Gao et al., 2021 (arXiv 2101.06983), section 3.

    Args:
        model: Its parameters' ``grad`` is added to.
        images: The batch's images.
        tokens: The batch's texts.
        part: Pairs embedded with a graph at a time; 0, or the batch or more: all at once.
        loss_fn: As ``make_loss`` gives it, or one like it.
        autocast: What the towers run under.

    Returns:
        The loss, in nats, detached.
    """
    loss_fn = loss_fn or make_loss(model.logit_bias is not None)
    if not 0 < part < len(images):
        with autocast():
            loss: Tensor = loss_fn(*model(images, tokens))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
    parts = [slice(start, start + part) for start in range(0, len(images), part)]
    with torch.no_grad(), autocast():
        embedded = [model(images[p], tokens[p])[:2] for p in parts]
    whole = [torch.cat(side).requires_grad_() for side in zip(*embedded, strict=True)]
    with autocast():
        loss = loss_fn(*whole, *model.scale_and_bias())
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [side.grad if side.grad is not None else torch.zeros_like(side) for side in whole]
    for p in parts:
        with autocast():
            again = model(images[p], tokens[p])[:2]
        torch.autograd.backward(again, [gradient[p] for gradient in gradients])
    return loss.detach()
