"""Learning rates of single parameters, as multiples of the configured one.

``width`` is the rule of maximal update parametrisation for Adam (Yang et al., 2022, arXiv
2203.03466, table 8; read-outs as in table 3): the rate of a matrix that reads a width falls as 1 /
fan-in, that of everything else (patch and token embeddings, positions, norms, biases, temperature)
stays. Then activations move by as much in a step at every width, and a rate that was found at the
base size fits the others. Fresh weights have the variances of the table already; behind a read-out
embeddings are scaled to unit length, which makes its initial scale and multiplier moot. Attention
keeps CLIP's 1 / sqrt(head_dim), so the rule speaks of more heads rather than of wider ones.
"""

from collections.abc import Mapping

from nas_growclip.io.choices import require_choice
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.axes import param_axes

WIDTHS = (
    "image.width",
    "image.mlp_width",
    "image.heads",
    "image.head_dim",
    "text.width",
    "text.mlp_width",
    "text.heads",
    "text.head_dim",
    "shared.mlp_width",
    "shared.heads",
    "shared.head_dim",
    "embed_dim",
)
"""Dimensions that a fan-in grows with. Pixels of a patch, tokens and positions are inputs."""


def rate_multiplier(name: str, arch: ClipArch, base: Mapping[str, int]) -> float:
    """Base fan-in divided by fan-in, of a parameter that reads widths; 1 of any other.

    Args:
        name: The parameter's name.
        arch: The model's architecture.
        base: Sizes at which the multiplier is 1, of all ``WIDTHS``.
    """
    multiplier = 1.0
    for axis in param_axes(name).axes:
        if axis.role == "read" and axis.name in WIDTHS:
            multiplier *= base[axis.name] / arch.size(axis.name)
    return multiplier


def base_sizes(arch: ClipArch, given: Mapping[str, int]) -> dict[str, int]:
    """Sizes at which multipliers are 1: an architecture's, but for those that are given.

    Sizes that are tied to a given one (heads to a width) follow it.

    Raises:
        ValueError: If what is given are no widths, or sizes that no architecture has.
    """
    for dimension in given:
        require_choice(dimension, WIDTHS, "train.rate_base")
    if set(given) == set(WIDTHS):
        return dict(given)
    try:
        base = arch.with_sizes(given)
    except ValueError as error:
        raise ValueError(f"train.rate_base: {error}") from None
    return {dimension: base.size(dimension) for dimension in WIDTHS}
