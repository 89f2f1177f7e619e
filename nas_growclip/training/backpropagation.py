"""A batch's loss and its gradients, in parts where a batch does not fit memory."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nas_growclip.models.clip import Clip


@dataclass(frozen=True)
class Backpropagation:
    """How a batch adds the gradient of its loss to a model's parameters.

    In parts, the whole batch is embedded without a graph, the loss's gradient is taken for the
    embeddings, and each part is embedded again to send its share on. The gradient is the whole
    batch's; memory is one part's; the towers run forward twice.

    Reference: GradCache, Gao et al., 2021 (arXiv 2101.06983), section 3.
    """

    model: Clip
    loss_fn: nn.Module
    """A ``ContrastiveLoss``, or one like it."""
    part: int = 0
    """Pairs embedded with a graph at a time; 0, or the batch or more: all at once."""
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    """What the towers run under."""
    replica: nn.Module | None = None
    """The model as wrapped by what sums gradients over processes, if anything does."""
    before_last: Callable[[], AbstractContextManager[Any]] = nullcontext
    """What keeps it from summing before the last part."""
    after_last: Callable[[], None] = lambda: None
    """What ends the whole batch's gradient."""

    def __call__(
        self,
        images: Float[Tensor, "batch 3 height width"],
        tokens: Int[Tensor, "batch context"],
        image_ids: Int[Tensor, " batch"] | None = None,
    ) -> Tensor:
        """Add the gradient.

        Args:
            images: A batch's images.
            tokens: Their captions.
            image_ids: As the loss takes them.

        Returns:
            The loss, in nats, detached.
        """
        is_parted = 0 < self.part < len(images)
        loss = (self._in_parts if is_parted else self._at_once)(images, tokens, image_ids)
        self.after_last()
        return loss

    def _at_once(self, images: Tensor, tokens: Tensor, image_ids: Tensor | None) -> Tensor:
        with self.autocast():
            loss: Tensor = self.loss_fn(*self._forward(images, tokens), image_ids=image_ids)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _in_parts(self, images: Tensor, tokens: Tensor, image_ids: Tensor | None) -> Tensor:
        parts = [slice(at, at + self.part) for at in range(0, len(images), self.part)]
        with torch.no_grad(), self.autocast():
            embedded = [self.model(images[p], tokens[p])[:2] for p in parts]
        sides = [torch.cat(side).requires_grad_() for side in zip(*embedded, strict=True)]
        with self.autocast():
            scale_and_bias = self.model.scale_and_bias()
            loss: Tensor = self.loss_fn(*sides, *scale_and_bias, image_ids=image_ids)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [torch.zeros_like(s) if s.grad is None else s.grad for s in sides]
        for p in parts:
            with nullcontext() if p is parts[-1] else self.before_last():
                with self.autocast():
                    outputs = self._forward(images[p], tokens[p])
                # Scale and bias have their gradient already; zeros let them take part.
                shares = [g[p] for g in gradients] + [torch.zeros_like(o) for o in outputs[2:]]
                torch.autograd.backward(outputs, shares)
        return loss.detach()

    def _forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = (self.replica or self.model)(images, tokens)
        return outputs
