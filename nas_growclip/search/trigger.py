"""When a stage is searched at all: because the data grew, or because the model is too small.

Where it is not, the stage trains its parent on: no growth is always a candidate, then the only
one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from nas_growclip.io.ranges import above, check_ranges


@dataclass(frozen=True, kw_only=True)
class TriggerConfig:
    """When to search for growth.

    Raises:
        ValueError: If a number is out of range.
    """

    name: str = "data_grew"
    """A name in ``TRIGGERS``."""
    min_ratio: float = 1.01
    """``data_grew``: pairs now by pairs of the stage before, at least."""
    first_stage: bool = True
    """``data_grew``: search when the first data arrives too. A model that is not trained yet has
    shown nothing, and what growth is worth was measured on trained ones."""
    max_gap: float = 0.5
    """``gap``: the parent's validation loss less its training loss, in nats, at most."""

    def __post_init__(self) -> None:
        check_ranges(self, min_ratio=above(0), max_gap=above(0))


@dataclass(frozen=True, kw_only=True)
class TriggerInput:
    """What a stage begins with."""

    num_pairs: int
    earlier_pairs: int | None
    """Pairs of the stage before; None in the first."""
    measure_losses: Callable[[], tuple[float, float]]
    """The parent's loss on ``validation``, and on as many training pairs that it has seen."""


class Decision(NamedTuple):
    """Whether to search, and why."""

    should_search: bool
    reason: str


def always(given: TriggerInput, config: TriggerConfig) -> Decision:
    """In every stage."""
    return Decision(True, "every stage is searched")


def data_grew(given: TriggerInput, config: TriggerConfig) -> Decision:
    """Where there are enough more pairs than in the stage before."""
    if given.earlier_pairs is None:
        return Decision(config.first_stage, "the first data arrived")
    ratio = given.num_pairs / given.earlier_pairs
    words = "grew" if ratio >= config.min_ratio else "did not grow enough:"
    return Decision(
        ratio >= config.min_ratio,
        f"the data {words} {ratio:.3g} times, at least {config.min_ratio:g} asked",
    )


def gap(given: TriggerInput, config: TriggerConfig) -> Decision:
    """Where the parent does about as well on new pairs as on those that it was trained on.

    A model that fits its training pairs much better than others lacks data, not capacity.
    """
    validation, training = given.measure_losses()
    found = validation - training
    compared = "within" if found <= config.max_gap else "above"
    return Decision(
        found <= config.max_gap,
        f"the parent's validation loss {validation:.3f} less its training loss {training:.3f} is "
        f"{compared} {config.max_gap:g}",
    )


TRIGGERS: Mapping[str, Callable[[TriggerInput, TriggerConfig], Decision]] = {
    "data_grew": data_grew,
    "gap": gap,
    "always": always,
}
"""Triggers by name."""
