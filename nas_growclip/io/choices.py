"""Names that must be in a table: looked up in one way, refused with the nearest name there is."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from nas_growclip.io.formatting import brief

T = TypeVar("T")

MOST_LISTED = 30
"""Names that a message lists; of a larger table it gives the nearest ones only."""


def look_up(table: Mapping[str, T], name: str, key: str) -> T:
    """What a table holds under a name.

    Args:
        table: Objects by name.
        name: The name, as it was given.
        key: What it is the name of, as in ``growth.operator``; for the message.

    Raises:
        ValueError: If the table has no such name.
    """
    require_choice(name, table, key)
    return table[name]


def require_choice(name: str, choices: Iterable[str], key: str) -> None:
    """Check that a name is one of some.

    Raises:
        ValueError: If it is not; the message lists them and gives the nearest one.
    """
    known = list(choices)
    if name not in known:
        listed = ", ".join(known) if len(known) <= MOST_LISTED else f"{len(known)} names"
        hint = did_you_mean(name, known)
        raise ValueError(
            f"{key}: must be one of {listed}, but got {brief(name)!r}.{f' {hint}' if hint else ''}"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question for the nearest name, or nothing where none is near."""
    close = difflib.get_close_matches(brief(name), list(known), n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else ""
