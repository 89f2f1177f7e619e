"""The contrastive loss that a model is trained with, and its gradient part by part.

Both losses are open_clip's. Which one follows from the architecture, since SigLIP's has a
parameter of its own.
"""

import math

from open_clip.loss import ClipLoss, SigLipLoss
from torch import nn


def make_loss(has_bias: bool, rank: int = 0, size: int = 1) -> nn.Module:
    """SigLIP's loss for a model with a logit bias, else CLIP's.

    Of several processes each takes the whole batch's loss for its own rows of it.

    Reference: Zhai et al., 2023 (arXiv 2303.15343), algorithm 1; Radford et al., 2021, figure 3.
    """
    place, is_shared = {"rank": rank, "world_size": size}, size > 1
    loss: nn.Module = (
        SigLipLoss(**place)
        if has_bias
        else ClipLoss(local_loss=is_shared, gather_with_grad=is_shared, **place)
    )
    return loss


def chance_loss(has_bias: bool, num_pairs: int) -> float:
    """Loss in nats of the best guess that knows nothing but the number of pairs in a batch.

    CLIP: log N. SigLIP, each pair's N decisions at probability 1 / N:
    log N + (N - 1) log(N / (N - 1)).
    """
    others = (num_pairs - 1) * math.log(num_pairs / (num_pairs - 1)) if num_pairs > 1 else 0.0
    return math.log(num_pairs) + (others if has_bias else 0.0)
