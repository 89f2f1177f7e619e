"""Embed texts, each with no more tokens than its embedding depends on.

A causal text tower that pools at the end of a text never looks behind that token, nor does a shared
encoder behind it. So texts of like lengths go together, cut behind the longest of them: the same
embeddings to rounding, for a fraction of the work. Other towers get every token.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nas_growclip.models.arch import TextArch
from nas_growclip.models.clip import Clip


def used_tokens(arch: TextArch, tokens: Int[Tensor, "texts context"]) -> Int[Tensor, " texts"]:
    """How many tokens of each text, from the first one on, its embedding depends on."""
    if arch.is_causal and arch.pooling == "end":
        return tokens.eq(arch.end_token).int().argmax(dim=1) + 1
    return torch.full((len(tokens),), tokens.shape[1])


@torch.no_grad()
def embedded_batches(
    model: Clip, tokens: Int[Tensor, "texts context"], batch_size: int
) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch embed_dim"]]]:
    """Places of texts and their unit-length embeddings, batch after batch, the shortest first.

    Args:
        model: The model.
        tokens: On the CPU.
        batch_size: Texts at once.
    """
    used = used_tokens(model.arch.text, tokens)
    order = used.argsort(stable=True)
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        cut = tokens[places, : int(used[places].max())]
        yield places, model.encode_text(cut.to(model.logit_scale.device, torch.long))


def embed_texts(
    model: Clip, tokens: Int[Tensor, "texts context"], batch_size: int
) -> Float[Tensor, "texts embed_dim"]:
    """Unit-length embeddings of texts in their order, on the CPU in fp32.

    Arguments are those of ``embedded_batches``.
    """
    embedded: Tensor | None = None
    for places, texts in embedded_batches(model, tokens, batch_size):
        if embedded is None:
            embedded = torch.empty(len(tokens), texts.shape[1])
        embedded[places] = texts.float().cpu()
    assert embedded is not None
    return embedded
