"""The contrastive loss that a model is trained with.

Both losses are open_clip's. Which one follows from the architecture, since SigLIP's has a
parameter of its own. Where a batch holds several captions of one image, the others are right for
that image too: taken as negatives they would punish a model for what it got right.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from open_clip.loss import ClipLoss, SigLipLoss, gather_features
from torch import Tensor, distributed, nn
from torch.nn import functional


class ContrastiveLoss(nn.Module):
    """SigLIP's loss for a model with a logit bias, else CLIP's, of a batch of pairs.

    Of several processes each takes the whole batch's loss for its own rows of it.

    Args:
        has_bias: Whether the model has a logit bias.
        rank: Which of the processes this is.
        size: How many processes share a batch.

    Reference: Zhai et al., 2023 (arXiv 2303.15343), algorithm 1; Radford et al., 2021, figure 3.
    """

    def __init__(self, has_bias: bool, rank: int = 0, size: int = 1) -> None:
        super().__init__()
        place, is_shared = {"rank": rank, "world_size": size}, size > 1
        self.rank, self.size = rank, size
        self.unmasked: nn.Module = (
            SigLipLoss(**place)
            if has_bias
            else ClipLoss(local_loss=is_shared, gather_with_grad=is_shared, **place)
        )

    def forward(
        self,
        images: Float[Tensor, "pairs embed_dim"],
        texts: Float[Tensor, "pairs embed_dim"],
        *scale_and_bias: Float[Tensor, ""],
        image_ids: Int[Tensor, " pairs"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, in nats.

        Args:
            images: Unit-length image embeddings.
            texts: Those of their captions.
            scale_and_bias: What makes logits of their similarities.
            image_ids: Equal for pairs of one image, which are then not each other's negatives;
                None: every pair is of an image of its own.
        """
        if image_ids is None or (self.size == 1 and not has_repeats(image_ids)):
            loss: Tensor = self.unmasked(images, texts, *scale_and_bias)
            return loss
        image_ids = image_ids.to(images.device, non_blocking=True)
        everyone = self._gather(images, texts, image_ids)
        repeated = same_image(image_ids, everyone[2], self.rank * len(images))
        masked = masked_siglip_loss if len(scale_and_bias) > 1 else masked_clip_loss
        return masked((images, texts), everyone[:2], repeated, scale_and_bias, self.rank)

    def _gather(
        self, images: Tensor, texts: Tensor, image_ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What all processes have, with gradients."""
        if self.size == 1:
            return images, texts, image_ids
        all_images, all_texts = gather_features(
            images,
            texts,
            local_loss=True,
            gather_with_grad=True,
            rank=self.rank,
            world_size=self.size,
        )
        all_ids = [torch.empty_like(image_ids) for _ in range(self.size)]
        distributed.all_gather(all_ids, image_ids)
        return all_images, all_texts, torch.cat(all_ids)


def has_repeats(image_ids: Int[Tensor, " pairs"]) -> bool:
    """Whether two pairs are of one image."""
    return len(torch.unique(image_ids)) < len(image_ids)


def same_image(
    own: Int[Tensor, " pairs"], everyone: Int[Tensor, " all_pairs"], start: int = 0
) -> Bool[Tensor, "pairs all_pairs"]:
    """Which pairs are of one image, each pair's own self left out.

    Args:
        own: Images of some pairs.
        everyone: Images of all pairs.
        start: Where the first of ``own`` stands among all.
    """
    same = own[:, None] == everyone[None, :]
    places = torch.arange(len(own), device=own.device)
    same[places, start + places] = False
    return same


Sides = tuple[Tensor, Tensor]
"""Embeddings of images and of texts."""


def masked_clip_loss(
    own: Sides, everyone: Sides, repeated: Tensor, scale_and_bias: tuple[Tensor, ...], rank: int
) -> Tensor:
    """CLIP's loss over the candidates that are not of the same image."""
    (images, texts), (all_images, all_texts) = own, everyone
    (scale,) = scale_and_bias
    labels = torch.arange(len(images), device=images.device) + rank * len(images)
    by_image = (scale * images @ all_texts.T).masked_fill(repeated, -torch.inf)
    by_text = (scale * texts @ all_images.T).masked_fill(repeated, -torch.inf)
    return (
        functional.cross_entropy(by_image, labels) + functional.cross_entropy(by_text, labels)
    ) / 2


def masked_siglip_loss(
    own: Sides, everyone: Sides, repeated: Tensor, scale_and_bias: tuple[Tensor, ...], rank: int
) -> Tensor:
    """SigLIP's loss over the decisions that are not about the same image."""
    images, all_texts = own[0], everyone[1]
    scale, bias = scale_and_bias
    logits = scale * images @ all_texts.T + bias
    signs = torch.full_like(logits, -1.0)
    places = torch.arange(len(images), device=images.device)
    signs[places, rank * len(images) + places] = 1.0
    decided = functional.logsigmoid(signs * logits).masked_fill(repeated, 0.0)
    return -decided.sum() / len(images)


def chance_loss(has_bias: bool, num_pairs: int) -> float:
    """Loss in nats of the best guess that knows nothing but the number of pairs in a batch.

    CLIP: log N. SigLIP, each pair's N decisions at probability 1 / N:
    log N + (N - 1) log(N / (N - 1)).
    """
    others = (num_pairs - 1) * math.log(num_pairs / (num_pairs - 1)) if num_pairs > 1 else 0.0
    return math.log(num_pairs) + (others if has_bias else 0.0)
