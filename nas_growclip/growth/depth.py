"""Depth operators: which block of the parent each block of the child comes from.

An inserted block may be *silent* (what it writes to the residual stream is zero), *cancelled* (its
units come in pairs that cancel) or *gated* (its branches pass through a gate that opens while
training); those three leave the function as it was. An *active* one does not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from nas_growclip.io.choices import look_up

Mode = Literal["active", "silent", "cancelled", "gated"]


class DepthStep(NamedTuple):
    """A list of blocks that grows."""

    old: int
    new: int
    placement: Literal["spread", "end"] = "spread"


class BlockSource(NamedTuple):
    """Where one block of the child comes from."""

    parents: tuple[tuple[int, float | Tensor], ...]
    """The parent's blocks with their weights; none for a fresh block."""
    mode: Mode = "active"
    is_inserted: bool = False


DepthFunction = Callable[[DepthStep], tuple[BlockSource, ...]]


@dataclass(frozen=True)
class DepthOperator:
    """One way to insert blocks."""

    sources: DepthFunction
    is_exact: bool
    """Whether the child computes the parent's embeddings."""


def placed(step: DepthStep) -> tuple[tuple[int, bool], ...]:
    """For each block of the child, the parent's block it is or copies, and whether it is inserted.

    Spread, each inserted block stands behind the one it copies; at the end, the topmost blocks are
    copied in their order.
    """
    count = step.new - step.old
    if step.placement == "end":
        copied = [((step.old - count + i) % step.old, True) for i in range(count)]
        return (*((index, False) for index in range(step.old)), *copied)
    sources = [position * step.old // step.new for position in range(step.new)]
    return tuple(
        (source, position > 0 and sources[position - 1] == source)
        for position, source in enumerate(sources)
    )


def _inserted(step: DepthStep, mode: Mode) -> tuple[BlockSource, ...]:
    if step.old == 0:
        return tuple(BlockSource((), mode, is_inserted=True) for _ in range(step.new))
    return tuple(
        BlockSource(((source, 1.0),), mode if is_inserted else "active", is_inserted)
        for source, is_inserted in placed(step)
    )


def identity_insert(step: DepthStep) -> tuple[BlockSource, ...]:
    """Insert copies whose output projections are zero.

    Reference: Net2DeeperNet (Chen et al., 2016) for residual blocks; staged training (Shen et
    al., 2022, arXiv 2203.06211) zeroes the norms instead, which biases of values would betray.
    """
    return _inserted(step, "silent")


def cancel_insert(step: DepthStep) -> tuple[BlockSource, ...]:
    """Insert copies whose value channels and MLP units come in pairs with opposite fan-out.

    Unlike behind a zero, gradients of values and MLP units are not zero at the first step; those of
    queries and keys are, since both halves of a pair share a head. LEMON pairs whole heads.

    Reference: LEMON (Wang et al., 2024, arXiv 2310.07999), depth expansion of type 2.
    """
    return _inserted(step, "cancelled")


def gated_insert(step: DepthStep) -> tuple[BlockSource, ...]:
    """Insert copies behind gates that open linearly over ``config.gate_steps`` optimizer steps.

    Reference: masked structural growth (Yao et al., 2024, arXiv 2305.02869).
    """
    return _inserted(step, "gated")


def interleave(step: DepthStep) -> tuple[BlockSource, ...]:
    """Repeat each block in its place, fully active: b1 b1 b2 b2 ..."""
    return _inserted(step._replace(placement="spread"), "active")


def stack(step: DepthStep) -> tuple[BlockSource, ...]:
    """Repeat the whole list, fully active: b1 ... bL b1 ... bL.

    Reference: G_stack (Du et al., 2024, arXiv 2405.15319).
    """
    if step.old == 0:
        return _inserted(step, "active")
    return tuple(
        BlockSource(((i % step.old, 1.0),), is_inserted=i >= step.old) for i in range(step.new)
    )


def interpolate(step: DepthStep) -> tuple[BlockSource, ...]:
    """Put the parent's blocks at even distances and mix the two neighbours in between.

    Reference: LiGO's depth mixing (Wang et al., 2023, arXiv 2303.00980) with fixed weights.
    """
    if step.old <= 1:
        return _inserted(step, "active")
    sources = []
    for position in range(step.new):
        below, rest = divmod(position * (step.old - 1), step.new - 1)
        share = rest / (step.new - 1)
        mixture = ((below, 1 - share), (below + 1, share)) if rest else ((below, 1.0),)
        sources.append(BlockSource(mixture, is_inserted=bool(rest)))
    return tuple(sources)


def random_insert(step: DepthStep) -> tuple[BlockSource, ...]:
    """Insert fresh blocks, fully active."""
    return tuple(
        source._replace(parents=()) if source.is_inserted else source
        for source in _inserted(step, "active")
    )


DEPTH_OPERATORS: Mapping[str, DepthOperator] = {
    "identity": DepthOperator(identity_insert, is_exact=True),
    "cancel": DepthOperator(cancel_insert, is_exact=True),
    "gated": DepthOperator(gated_insert, is_exact=True),
    "interleave": DepthOperator(interleave, is_exact=False),
    "stack": DepthOperator(stack, is_exact=False),
    "interpolate": DepthOperator(interpolate, is_exact=False),
    "random": DepthOperator(random_insert, is_exact=False),
}
"""Depth operators by name."""


def find_depth_operator(name: str) -> DepthOperator:
    """The depth operator of that name.

    Raises:
        ValueError: If there is none.
    """
    return look_up(DEPTH_OPERATORS, name, "depth_operator")
