"""What a candidate is expected to gain by the end of its stage, before it is tried.

All candidates inherit one function, so a short trial shows what a candidate costs and hardly what
it is worth: depth is behind for the first fifth of a stage and ahead at its end. What a dimension
is worth is known from finished stages instead, of which every candidate was trained to the end
(``benchmarks.search_oracle``). In e-folds of the validation loss,

    gain = s (w sum over its steps of g_d (old / x_d)^-a |ln(new / old)| - ln(D'_control / D'))
    w = (D'_control / D'_0)^b

with D' the effective pairs seen by the end of the stage, and x_d the size that the dimension had
where most was measured. There the data size enters twice: the same FLOPs buy a larger model fewer
pairs, and where pairs repeat often the last passes teach little and cost little to leave; and what
a dimension is worth changes with D'. And the larger a dimension is, the less more of it is worth,
whatever the others are: a model that is deep and narrow lacks width. Both as far as was seen.

Reference: D' is that of Muennighoff et al., 2023 (arXiv 2305.16264), equation 5; a loss that falls
as D^-beta, and of which growth takes a share that falls with the size as a power, is that of
Hoffmann et al., 2022 (arXiv 2203.15556), equation 2, far above its floor, for each dimension.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep
from nas_growclip.search.coefficients import ObjectiveConfig

REFERENCE_PAIRS = 1.25e5
"""Effective pairs in the middle of the oracle: D'_0."""
PAIRS_RANGE = (4.0e4, 4.0e5)
"""About the effective pairs of the oracle's stages: beyond them the worth changes no more."""


class MeasuredSizes(NamedTuple):
    """From which sizes dimensions of a kind were seen to grow."""

    reference: int
    """x_d: that of the parents of ``benchmarks.search_oracle``."""
    smallest: int
    largest: int


_WIDTHS = MeasuredSizes(32, 12, 32)
_MLP_WIDTHS = MeasuredSizes(128, 48, 128)
_DEPTHS = MeasuredSizes(1, 1, 3)
MEASURED_SIZES: Mapping[str, MeasuredSizes] = {
    "image.depth": _DEPTHS,
    "image.width": _WIDTHS,
    "image.mlp_width": _MLP_WIDTHS,
    "text.depth": _DEPTHS,
    "text.width": _WIDTHS,
    "text.mlp_width": _MLP_WIDTHS,
    "shared.depth": _DEPTHS,
    "shared.mlp_width": _MLP_WIDTHS,
    "embed_dim": _WIDTHS,
}
"""Beyond them, and for dimensions that are not named, the worth does not change with the size."""


def effective_pairs(seen: float, num_pairs: int, repetition_constant: float) -> float:
    """Pairs of new data that ``seen`` pairs, drawn from ``num_pairs`` again and again, are worth.

    D' = U + U R* (1 - exp(-R / R*)), with U the unique pairs seen and R the repeats of each.

    Reference: Muennighoff et al., 2023 (arXiv 2305.16264), equation 5.
    """
    unique = min(seen, num_pairs)
    if unique == 0:
        return 0.0
    repeats = seen / unique - 1
    fade = -math.expm1(-repeats / repetition_constant)
    return unique * (1 + repetition_constant * fade)


def expected_gain(
    candidate: Candidate, control_seen: float, num_pairs: int, config: ObjectiveConfig
) -> float:
    """What a candidate's dimensions are expected to gain at equal effective pairs.

    Args:
        candidate: What grows.
        control_seen: Pairs that no growth sees by the stage's end, repeats included.
        num_pairs: Pairs in the stage.
        config: The coefficients.

    Returns:
        E-folds of the loss at the stage's end; 0 for no growth.
    """
    worth = sum(
        config.dimension_gains.get(step.dimension, 0.0) * step_weight(step, config)
        for step in candidate.steps
    )
    return config.curve_steepness * worth_factor(control_seen, num_pairs, config) * worth


def worth_factor(control_seen: float, num_pairs: int, config: ObjectiveConfig) -> float:
    """w: what dimensions are worth here, by what they are worth in the middle of the oracle."""
    pairs = effective_pairs(control_seen, num_pairs, config.repetition_constant)
    return float((_within(pairs, *PAIRS_RANGE) / REFERENCE_PAIRS) ** config.pairs_exponent)


def step_weight(step: GrowthStep, config: ObjectiveConfig) -> float:
    """E-folds between a step's sizes, each worth less the larger the dimension is already.

    A shared encoder of no blocks counts as half a block.
    """
    e_folds = abs(math.log(step.new / (step.old or 0.5)))
    if step.dimension not in MEASURED_SIZES:
        return e_folds
    reference, smallest, largest = MEASURED_SIZES[step.dimension]
    size = _within(step.old, smallest, largest)
    return float((size / reference) ** -config.size_exponent * e_folds)


def _within(value: float, least: float, most: float) -> float:
    return min(most, max(least, value))


def fewer_pairs(seen: float, control_seen: float, num_pairs: int, config: ObjectiveConfig) -> float:
    """What is lost by seeing fewer pairs than the control, in e-folds of the loss.

    Args:
        seen: Pairs that the candidate sees by the stage's end, repeats included.
        control_seen: Pairs that the control sees.
        num_pairs: Pairs in the stage.
        config: The coefficients.
    """
    left_out = pairs_left_out(seen, control_seen, num_pairs, config.repetition_constant)
    return config.curve_steepness * left_out


def pairs_left_out(
    seen: float, control_seen: float, num_pairs: int, repetition_constant: float
) -> float:
    """E-folds by which a candidate's effective pairs are fewer than the control's."""
    own, control = (
        effective_pairs(pairs, num_pairs, repetition_constant) for pairs in (seen, control_seen)
    )
    return math.log(control / own)


def net_gain(
    candidate: Candidate, seen: float, control_seen: float, num_pairs: int, config: ObjectiveConfig
) -> float:
    """What a candidate that sees so many pairs is expected to gain over no growth, in e-folds."""
    cost = fewer_pairs(seen, control_seen, num_pairs, config)
    return expected_gain(candidate, control_seen, num_pairs, config) - cost


class Expectation(NamedTuple):
    """What is expected of a candidate before it is tried."""

    candidate: Candidate
    flops: int
    """FLOPs of one image-text pair, forward: fvcore FLOPs, one multiply-add is one."""
    gain: float
    """Over no growth by the stage's end, in e-folds of the loss."""


class StageAhead(NamedTuple):
    """A stage that is to be searched."""

    num_pairs: int
    seen_pairs: int
    """Pairs that no growth sees by the stage's end, repeats included."""
    flops_of: Callable[[Candidate], int]
    """FLOPs of one image-text pair, forward."""


def expectations(
    candidates: Sequence[Candidate], stage: StageAhead, config: ObjectiveConfig
) -> tuple[Expectation, ...]:
    """What is expected of every candidate, the highest gain first; ties go to fewer FLOPs.

    Momentum is not told apart: nothing is known of it before a trial.
    """
    control_flops = stage.flops_of(NO_GROWTH)

    def expect(candidate: Candidate) -> Expectation:
        flops = stage.flops_of(candidate)
        seen = stage.seen_pairs * control_flops / flops
        gain = net_gain(candidate, seen, stage.seen_pairs, stage.num_pairs, config)
        return Expectation(candidate, flops, gain)

    return by_gain(map(expect, candidates))


def by_gain(expected: Iterable[Expectation]) -> tuple[Expectation, ...]:
    """The highest gain first; ties go to fewer FLOPs."""
    return tuple(sorted(expected, key=lambda e: (-e.gain, e.flops)))


def shortlist(expected: Sequence[Expectation], size: int) -> tuple[Candidate, ...]:
    """No growth and the growths of which most is expected, each with all its momenta.

    Args:
        expected: By falling gain, as ``by_gain`` gives them.
        size: How many growths.

    Returns:
        No growth first, then by falling gain.
    """
    growths = dict.fromkeys(e.candidate.steps for e in expected if e.candidate.grows)
    listed = set(list(growths)[:size])
    return (NO_GROWTH, *(e.candidate for e in expected if e.candidate.steps in listed))
