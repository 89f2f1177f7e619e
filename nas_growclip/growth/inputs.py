"""What some growth operators and PIM variants look at besides the parent's weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from nas_growclip.models.clip import Clip

ImagesAndTokens = tuple[
    Float[Tensor, "pairs 3 height width"],
    Int[Tensor, "pairs context"],
]
"""A training batch: normalised images, and the tokens of their captions."""


@dataclass(frozen=True, kw_only=True)
class GrowthInputs:
    """Data for the operators and variants that look at some; most need none."""

    validation_loss: Callable[[Clip], float] | None = None
    """For the ``budgeted`` variant: a model's validation loss, in nats."""
    batches: Callable[[Clip], Iterator[ImagesAndTokens]] | None = None
    """For the ``ligo`` operator: batches to train its maps on, as the given child takes them."""
    ema: Mapping[str, Tensor] | None = None
    """For the ``ema`` variant: the parent's moving average by parameter name."""


NO_INPUTS = GrowthInputs()
