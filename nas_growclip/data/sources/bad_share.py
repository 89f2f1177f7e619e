"""Whether enough of the data is usable: bad pairs are left out, but not without end."""

from collections.abc import Mapping
from typing import NamedTuple

from nas_growclip.data.sources.dedup import HELD_OUT_PAIR, SEEN_KEY, SEEN_PAIR
from nas_growclip.data.sources.split import SplitFiles

NOT_BAD = frozenset({SEEN_KEY, SEEN_PAIR, HELD_OUT_PAIR})
"""Why pairs are left out that are as good as others."""

FILE_DAMAGE = frozenset({"unreadable shard", "truncated shard", "empty shard"})
"""What is counted once a file, however many pairs are lost with it."""


class SkipCounts(NamedTuple):
    """How much was left out of some files."""

    skipped: Mapping[str, int]
    """How much, by reason."""
    num_files: int = 1


def require_pairs(wanted: SplitFiles, num_pairs: int, counts: SkipCounts) -> None:
    """Refuse a split without one usable pair, or of which too much is bad.

    Args:
        wanted: Names the files and says how much may be bad.
        num_pairs: Usable pairs.
        counts: What else there was.

    Raises:
        ValueError: If so; says what was found instead.
    """
    kinds = ", ".join(f"{count} x {reason}" for reason, count in sorted(counts.skipped.items()))
    if num_pairs == 0:
        raise ValueError(
            f"{wanted.where} must hold one usable pair or more, but {wanted.files!r} has none "
            f"(found: {kinds or 'nothing'}). Check the files and their format."
        )
    what = f"{wanted.where} ({wanted.files!r})"
    check_bad_share(what, num_pairs, counts, wanted.max_bad_share)


def check_bad_share(what: str, num_usable: int, counts: SkipCounts, most: float) -> None:
    """Refuse data of which more than a share is bad, by its files or by what is in them.

    What a run holds already or measures on is not bad, only left out.

    Raises:
        ValueError: If so; says how many of what kind.
    """
    bad = {reason: n for reason, n in counts.skipped.items() if reason not in NOT_BAD}
    num_bad = sum(n for reason, n in bad.items() if reason not in FILE_DAMAGE)
    num_damaged = sum(n for reason, n in bad.items() if reason in FILE_DAMAGE)
    counted = {"pairs": (num_bad, num_bad + num_usable), "files": (num_damaged, counts.num_files)}
    for unit, (number, total) in counted.items():
        if number > most * total:
            kinds = ", ".join(f"{count} x {reason}" for reason, count in sorted(bad.items()))
            raise ValueError(
                f"{what}: at most {most:.0%} may be bad (data.max_bad_share), but {number} of "
                f"{total} {unit} are ({kinds}). Mend or replace the files, or raise "
                "data.max_bad_share to go on without them."
            )
