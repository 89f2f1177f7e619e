"""Embed a set of pairs once; the metrics share the result."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nas_growclip.data.batches import PairEncoder, fixed_batches
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.io.progress import track
from nas_growclip.models.clip import Clip


class EmbeddedPairs(NamedTuple):
    """Unit-length embeddings of pairs, with their captions and what makes logits of them."""

    images: Float[Tensor, "pairs embed_dim"]
    texts: Float[Tensor, "pairs embed_dim"]
    captions: tuple[str, ...]
    scale_and_bias: tuple[float, ...]
    """The scale of the model's logits, and their bias where it has one."""


@torch.no_grad()
def embed_pairs(
    model: Clip, pairs: ImageTextPairs, batch_size: int, label: str | None = None
) -> EmbeddedPairs:
    """Embed every pair, in stored order; with a label, show progress under it."""
    was_training = model.training
    model.eval()
    encoder = PairEncoder(model.arch.image, model.tokenize)
    device = model.logit_scale.device
    images: list[Tensor] = []
    texts: list[Tensor] = []
    captions: list[str] = []
    batches = fixed_batches(pairs, encoder, batch_size)
    if label is not None:
        batches = track(batches, total=-(-pairs.num_pairs // batch_size), label=label)
    for batch in batches:
        images.append(model.encode_image(batch.images.to(device)).float().cpu())
        texts.append(model.encode_text(batch.tokens.to(device)).float().cpu())
        captions.extend(batch.captions)
    model.train(was_training)
    scale_and_bias = tuple(value.item() for value in model.scale_and_bias())
    return EmbeddedPairs(torch.cat(images), torch.cat(texts), tuple(captions), scale_and_bias)
