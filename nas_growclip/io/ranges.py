"""Ranges of numbers, and the one check of settings against them.

A dataclass of settings states its ranges in ``__post_init__``:

    check_ranges(self, batch_size=at_least(1), learning_rate=above(0), beta1=within(0, 1, "[)"))
"""

import math
from dataclasses import dataclass
from typing import Literal

from nas_growclip.io.formatting import brief

Brackets = Literal["[]", "[)", "(]", "()"]
"""Whether each end belongs to the range: square if it does, round if not."""


@dataclass(frozen=True)
class Range:
    """The numbers between two ends; NaN is in no range."""

    low: float
    high: float
    ends: Brackets = "[]"

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{self.low} or more" if self.ends[0] == "[" else f"above {self.low}"
        return f"in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"


def at_least(low: float) -> Range:
    """``low`` and all finite numbers above it."""
    return Range(low, math.inf, "[)")


def above(low: float) -> Range:
    """All finite numbers above ``low``."""
    return Range(low, math.inf, "()")


def within(low: float, high: float, ends: Brackets = "[]") -> Range:
    """The numbers between two ends, both of them included unless the brackets say otherwise."""
    return Range(low, high, ends)


def check_ranges(settings: object, **ranges: Range) -> None:
    """Check attributes of an object, each against its range.

    Args:
        settings: A dataclass. Of a tuple each item is checked; None stands for no number.
        ranges: Ranges by the attributes' names.

    Raises:
        ValueError: At the first number out of range; the message names the attribute.
    """
    for name, allowed in ranges.items():
        value = getattr(settings, name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is not None:
                require_in_range(name, item, allowed)


def require_in_range(name: str, value: float, allowed: Range) -> None:
    """Check one number.

    Raises:
        ValueError: If it is out of range.
    """
    if value not in allowed:
        raise ValueError(f"{name}: must be {allowed}, but got {brief(value)}.")
