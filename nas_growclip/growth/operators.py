"""Growth operators: how one axis of every parameter is enlarged.

An operator is one function from an ``AxisStep`` to an ``AxisMap``, and the claim, dimension by
dimension, whether the child computes the parent's embeddings. To add one, write the function and
its line in ``OPERATORS``; the contract tests then hold it to its claims in both directions. Axes
that have one sensible way to grow (vocabulary, context, resolution, head_dim, the joint embedding)
grow that way under every operator.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import sqrt

import torch
from jaxtyping import Float, Int
from timm.layers import resample_abs_pos_embed
from torch import Tensor
from torch.nn import functional

from nas_growclip.growth.exactness import (
    _ALL_LOSSY,
    Claim,
    _integer_ratio,
    always,
    any_ratio,
    claims,
    is_turned,
    keeps_texts,
    never,
)
from nas_growclip.growth.maps import AxisMap, AxisStep, Expansion
from nas_growclip.io.choices import look_up
from nas_growclip.models.axes import STREAM_AXES

ONE_SIDED = 1e-3
"""Relative size of the image tower's new rows of a joint embedding without a shared encoder."""

AxisOperator = Callable[[AxisStep], AxisMap]


@dataclass(frozen=True)
class GrowthOperator:
    """One way to enlarge axes."""

    axis: AxisOperator
    claims: Mapping[str, Claim]
    """For every dimension but the depths, whose claims are the depth operator's."""
    is_noisy: bool = False
    """Whether copies get symmetric noise of ``config.snr_db``."""
    is_learned: bool = False
    """Whether the maps are trained before they are used."""
    forgets: bool = False
    """Whether nothing at all is inherited."""


def exact_axis(step: AxisStep) -> AxisMap:
    """Enlarge an axis by any ratio without changing the function.

    A residual stream is centred and scaled by c = sqrt(new / old), its new coordinates are zero,
    and each LayerNorm's gain is divided by c: mean and variance, and so the epsilon's weight,
    stay as they were. Other axes (heads, MLP units) get fresh units that nobody reads yet.

    Reference: the zero fill is LEMON's average expansion (Wang et al., 2024, arXiv 2310.07999)
    with one copy, after centring; the scaling keeps the epsilon, which LEMON changes.
    """
    if step.axis not in STREAM_AXES:
        return fresh_units(step)
    if has_norm_pre(step) and (step.is_integer_ratio or step.config.norm_pre == "refuse"):
        return copied(step, repeated(step.old, step.new), uneven=True)
    keep, is_new = _keep(step)
    scale = sqrt(step.new / step.old)
    return AxisMap(
        write=Expansion(scale * keep, is_new, is_centred=True),
        read=Expansion(keep, is_new, is_free=True),
        gain=Expansion(keep / scale, is_new, is_free=True),
        shift=Expansion(keep, is_new),
        stream_gain=Expansion(keep, is_new, is_free=True),
    )


def average_axis(step: AxisStep) -> AxisMap:
    """Whole copies, and the mean of the old coordinates for the rest.

    With r copies a stream is scaled by c = sqrt(new / (r old)), and gains on the copies are
    divided by c, which keeps the LayerNorm's epsilon; LEMON changes the epsilon instead.

    Reference: LEMON (Wang et al., 2024, arXiv 2310.07999), average expansion.
    """
    count = step.new // step.old
    sources = torch.cat(
        [repeated(step.old, count * step.old), torch.full((step.new % step.old,), -1)]
    )
    if step.axis not in STREAM_AXES:
        return copied(step, repeated(step.old, step.new), uneven=True)
    if has_norm_pre(step) and (step.is_integer_ratio or step.config.norm_pre == "refuse"):
        return copied(step, repeated(step.old, step.new), uneven=True)
    scale = sqrt(step.new / (count * step.old))
    is_fill = sources < 0
    copies = one_hot(sources, step.old)
    mean = torch.full_like(copies, 1 / step.old) * is_fill[:, None]
    return AxisMap(
        write=Expansion(scale * (copies + mean), is_fill),
        read=Expansion(shares(copies, step), is_fill, is_free=True, copies=sources),
        gain=Expansion(copies / scale, is_fill, is_free=True),
        shift=Expansion(copies, is_fill),
        stream_gain=Expansion(copies, is_fill),
    )


def net2net_axis(step: AxisStep) -> AxisMap:
    """New units copy old ones, drawn without replacement; readers share them unevenly.

    At integer ratios every unit is copied equally often, so LayerNorm statistics are kept.

    Reference: Net2Net (Chen et al., 2016, arXiv 1511.05641), equation 5; bert2BERT's
    function-preserving initialisation (Chen et al., 2022, arXiv 2110.07143). The uneven shares
    are ours: with even ones copies get equal gradients and never part. With uneven ones gradients
    are proportional, which AdamW all but levels, so copies part slowly; ``hypercloning``'s noise
    and the ``null_space`` PIM variant part them at once.
    """
    return copied(step, drawn_sources(step), uneven=True)


def hypercloning_axis(step: AxisStep) -> AxisMap:
    """Whole copies that readers share evenly; symmetric noise of a given ratio parts them.

    Reference: HyperCloning (Samragh et al., 2024, arXiv 2409.12903).

    Raises:
        ValueError: If the new size is no multiple of the old one.
    """
    if not step.is_integer_ratio:
        raise ValueError(
            f"hypercloning copies an axis as a whole: the new size of {step.axis} must be a "
            f"multiple of the old one, but got {step.old} -> {step.new}. "
            "Use another operator, or another size."
        )
    return copied(step, repeated(step.old, step.new), uneven=False)


def aki_axis(step: AxisStep) -> AxisMap:
    """As ``net2net``, but what new units write is taken from the block above.

    Reference: bert2BERT's advanced knowledge initialisation (Chen et al., 2022, arXiv 2110.07143).
    """
    grown = copied(step, drawn_sources(step), uneven=True)
    return replace(grown, write=replace(grown.write, is_upper=torch.arange(step.new) >= step.old))


def random_axis(step: AxisStep) -> AxisMap:
    """Forget the axis: every entry is fresh, as when training starts from scratch."""
    forget = Expansion(
        torch.zeros(step.new, step.old, dtype=torch.float64),
        torch.ones(step.new, dtype=torch.bool),
        is_free=True,
    )
    return AxisMap(forget, forget, forget, forget)


def fresh_units(step: AxisStep) -> AxisMap:
    """Fresh units behind zero fan-out: heads and MLP units that nobody reads yet."""
    keep, is_new = _keep(step)
    fresh, unread = Expansion(keep, is_new, is_free=True), Expansion(keep, is_new)
    return AxisMap(write=fresh, read=unread, gain=fresh, shift=fresh)


def fresh_rows(step: AxisStep) -> AxisMap:
    """Append fresh entries that old inputs never select: positions and tokens."""
    kept = torch.arange(step.old)
    ones = torch.ones(step.old, dtype=torch.float64)
    keep = torch.sparse_coo_tensor(
        torch.stack([kept, kept]), ones, (step.new, step.old), check_invariants=True
    )
    fresh = Expansion(keep, torch.arange(step.new) >= step.old, is_free=True)
    return AxisMap(fresh, fresh, fresh, fresh)


def head_dim_axis(step: AxisStep) -> AxisMap:
    """Widen every head: queries scaled by sqrt(new / old), new query rows 0, new values unread.

    The factor undoes the change of attention's 1 / sqrt(head_dim).
    """
    units = fresh_units(step)
    keep, is_new = _keep(step)
    return replace(units, query=Expansion(keep * sqrt(step.new / step.old), is_new))


def embed_dim_axis(step: AxisStep) -> AxisMap:
    """Enlarge the joint embedding: by an isometry where a LayerNorm reads it, else one-sided.

    The isometry Q maps the vector of ones onto a multiple of the longer vector of ones, so that a
    LayerNorm sees the same mean and (scaled by c = sqrt(new / old)) the same variance; gains and
    shifts are folded into readers, since Q mixes coordinates. Cosines do not change.

    A shared encoder's blocks read it so, and the MLP of pooling by attention. Without them no exact
    growth by less than a factor of 2 lets the new directions learn (docs/reference/operators.md);
    the image tower's new rows are small and fresh, the text tower's 0.
    """
    keep, is_new = _keep(step)
    if not is_turned(step.parent_arch, step.child_arch):
        side = Expansion(keep, is_new, is_free=True, free_scale=ONE_SIDED)
        return AxisMap(side, side, side, side, text_side=Expansion(keep, is_new))
    scale = sqrt(step.new / step.old)
    isometry = ones_keeping_isometry(step.old, step.new)
    every = torch.ones(step.new, dtype=torch.bool)
    none = torch.zeros_like(keep)
    return AxisMap(
        write=Expansion(scale * isometry, is_new, is_rotated=True),
        read=Expansion(isometry / scale, is_new, is_free=True, is_rotated=True),
        gain=Expansion(none, every, is_free=True),
        shift=Expansion(none, every),
        folds_norms=True,
    )


def patch_size_axis(step: AxisStep) -> AxisMap:
    """FlexiViT's PI-resize along one side of a patch; the two sides make the whole of it.

    With B the bilinear resize from old to new pixels, weights become (B^T)^+ w. B is separable,
    and so is its pseudo-inverse. For a larger patch <B x, w'> = <x, w> for every patch x.

    Reference: FlexiViT (Beyer et al., 2023, arXiv 2212.08013), equation 4.
    """
    basis = torch.eye(step.old, dtype=torch.float64)[:, None]
    resize = functional.interpolate(basis, size=step.new, mode="linear", align_corners=False)
    return _resampled(step, torch.linalg.pinv(resize[:, 0]))


def tokens_axis(step: AxisStep) -> AxisMap:
    """Resample positions on the patch grid (bicubic, antialiased), the class token's aside."""
    basis = torch.eye(step.old)[None]
    (old_rows, old_columns), (rows, columns) = (
        step.parent_arch.image.grid,
        step.child_arch.image.grid,
    )
    prefix = int(step.parent_arch.image.class_token)
    matrix = resample_abs_pos_embed(basis, [rows, columns], [old_rows, old_columns], prefix)
    return _resampled(step, matrix[0].double())


def context_axis(step: AxisStep) -> AxisMap:
    """Append positions where nothing that fits the old ones can see the new; else resample.

    A text that all tokens see whole, or that is pooled at its last position, is another one in a
    longer context: then positions are resampled linearly, the first and the last one staying.
    """
    if keeps_texts(step.parent_arch.text):
        return fresh_rows(step)
    basis = torch.eye(step.old, dtype=torch.float64)[:, None]
    resample = functional.interpolate(basis, size=step.new, mode="linear", align_corners=True)
    return _resampled(step, resample[:, 0].T.contiguous())


def copied(step: AxisStep, sources: Int[Tensor, " new"], *, uneven: bool) -> AxisMap:
    """Entries that copy others; what readers get from copies adds up to the original.

    Raises:
        ValueError: If a LayerNorm before the blocks makes this inexact and no mode was named.
    """
    if has_norm_pre(step) and not step.is_integer_ratio and step.config.norm_pre == "refuse":
        raise ValueError(
            f"image.width must grow by an integer ratio, since the parent has norm_pre, a "
            f"LayerNorm that writes the residual stream, but got {step.old} -> {step.new}. Choose "
            f"{2 * step.old}, or growth.norm_pre: approximate."
        )
    copies = one_hot(sources, step.old)
    is_new = torch.zeros(step.new, dtype=torch.bool)
    parts = shares(copies, step) if uneven else copies / copies.sum(dim=0)
    write = Expansion(copies, is_new)
    return AxisMap(write, Expansion(parts, is_new, copies=sources), write, write)


def repeated(old: int, new: int) -> Int[Tensor, " new"]:
    """Sources of whole copies: 0 1 2 0 1 2 0 ..."""
    return torch.arange(new) % old


def drawn_sources(step: AxisStep) -> Int[Tensor, " new"]:
    """Each old entry, then old entries drawn without replacement, round after round."""
    rounds = [torch.arange(step.old)]
    while len(rounds) * step.old < step.new:
        rounds.append(torch.randperm(step.old, generator=step.rng))
    return torch.cat(rounds)[: step.new]


def one_hot(sources: Int[Tensor, " new"], old: int) -> Float[Tensor, "new old"]:
    """A row for each source; a source of -1 gives a row of zeros."""
    hot = functional.one_hot(sources.clamp(min=0), old).double()
    return hot * (sources >= 0)[:, None]


def shares(copies: Float[Tensor, "new old"], step: AxisStep) -> Float[Tensor, "new old"]:
    """Uneven positive shares of each original's copies, which sum to one."""
    drawn = torch.empty(step.new, 1, dtype=torch.float64).uniform_(0.2, 1.0, generator=step.rng)
    return copies * drawn / (copies * drawn).sum(dim=0)


def ones_keeping_isometry(old: int, new: int) -> Float[Tensor, "new old"]:
    """Orthonormal columns that map ones / sqrt(old) to ones / sqrt(new): a Householder mirror."""
    difference = torch.zeros(new, dtype=torch.float64)
    difference[:old] = old**-0.5
    difference -= new**-0.5
    mirror = torch.eye(new, dtype=torch.float64)
    mirror -= 2 * torch.outer(difference, difference) / difference.dot(difference)
    return mirror[:, :old]


def has_norm_pre(step: AxisStep) -> bool:
    """Whether the axis is a stream that a LayerNorm writes."""
    return step.axis == "image.width" and step.parent_arch.image.norm_pre


def _keep(step: AxisStep) -> tuple[Tensor, Tensor]:
    is_new = torch.arange(step.new) >= step.old
    return torch.eye(step.new, step.old, dtype=torch.float64), is_new


def _resampled(step: AxisStep, matrix: Float[Tensor, "new old"]) -> AxisMap:
    resample = Expansion(matrix, torch.zeros(step.new, dtype=torch.bool))
    return AxisMap(resample, resample, resample, resample)


SPECIAL_AXES: Mapping[str, AxisOperator] = {
    "image.head_dim": head_dim_axis,
    "text.head_dim": head_dim_axis,
    "shared.head_dim": head_dim_axis,
    "image.patch_size": patch_size_axis,
    "image.tokens": tokens_axis,
    "text.context_length": context_axis,
    "text.vocab_size": fresh_rows,
    "embed_dim": embed_dim_axis,
}
"""Axes that grow in one way under every operator."""


OPERATORS: dict[str, GrowthOperator] = {
    "exact": GrowthOperator(exact_axis, claims(any_ratio, always)),
    "average": GrowthOperator(average_axis, claims(any_ratio, always)),
    "net2net": GrowthOperator(net2net_axis, claims(_integer_ratio, always)),
    "hypercloning": GrowthOperator(
        hypercloning_axis, claims(_integer_ratio, _integer_ratio), is_noisy=True
    ),
    "aki": GrowthOperator(aki_axis, claims(never, never)),
    "ligo": GrowthOperator(net2net_axis, claims(never, never), is_learned=True),
    "random": GrowthOperator(random_axis, _ALL_LOSSY, forgets=True),
}
"""Growth operators by name; one of your own may be added."""


def find_operator(name: str) -> GrowthOperator:
    """The growth operator of that name.

    Raises:
        ValueError: If there is none.
    """
    return look_up(OPERATORS, name, "operator")
