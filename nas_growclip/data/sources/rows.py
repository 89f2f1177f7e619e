"""Pairs that are files of their own, listed in a fixed order: a table's rows, a folder's pairs.

Rows are checked once, in stored order and only as far as they are used; an epoch is a permutation
of the usable ones. Names and captions are in memory, images are not.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from nas_growclip.data.pairs import IsWanted, ManifestEntry, Pair, every_pair
from nas_growclip.data.sources.bad_share import MISSING_FILE, SkipCounts
from nas_growclip.data.sources.dedup import pair_identity
from nas_growclip.data.sources.tar import MAX_FILE_BYTES
from nas_growclip.io.progress import track


@dataclass
class Checks:
    """What became of the rows that were checked, in order; grows as more are."""

    reasons: list[str] = field(default_factory=list)
    """Why each row is unusable, empty if it is not."""
    identities: list[bytes] = field(default_factory=list)
    """What each row is known by; empty of those that are unusable."""


@runtime_checkable
class Rows(Protocol):
    """Pairs by number."""

    @property
    def checks(self) -> Checks:
        """What is known of the first rows."""
        ...

    def pair(self, row: int) -> Pair | str:
        """One decoded row, or why it is unusable."""
        ...

    def place(self, row: int, reason: str = "") -> str:
        """Where a row is, and what it has to do with why it is unusable."""
        ...


class RowPart(NamedTuple):
    """The usable rows of one table or folder."""

    table: Rows
    rows: tuple[int, ...]
    entry: ManifestEntry
    counts: SkipCounts


@dataclass(frozen=True)
class RowPairs:
    """Pairs of tables or folders."""

    parts: tuple[RowPart, ...]

    @property
    def num_pairs(self) -> int:
        """Usable pairs; ``epoch`` yields exactly as many."""
        return sum(len(part.rows) for part in self.parts)

    @property
    def manifest(self) -> tuple[ManifestEntry, ...]:
        """One entry for each table or folder."""
        return tuple(part.entry for part in self.parts)

    def identities(self) -> Iterator[bytes]:
        """What each pair is known by, as ``pair_identity`` gives it."""
        return (part.table.checks.identities[row] for part in self.parts for row in part.rows)

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """Every wanted pair once; in stored order for None, else shuffled by the seed."""
        ends = list(itertools.accumulate(len(part.rows) for part in self.parts))
        order = range(self.num_pairs)
        shuffled = order if seed is None else np.random.default_rng(seed).permutation(order)
        for index in (index for place, index in enumerate(shuffled) if wanted(place)):
            number = int(np.searchsorted(ends, index, side="right"))
            part = self.parts[number]
            yield _usable(part.table, part.rows[index - ends[number] + len(part.rows)])


def _usable(table: Rows, row: int) -> Pair:
    pair = table.pair(row)
    if isinstance(pair, str):
        raise ValueError(
            f"{table.place(row)} must stay usable, but got {pair!r}: the image changed since it "
            "was checked. Start again."
        )
    return pair


def check_rows(
    table: Rows, rows: range, limit: int | None, label: str
) -> tuple[tuple[int, ...], SkipCounts]:
    """The usable ones of a table's rows.

    Args:
        table: The table.
        rows: Rows to check.
        limit: Usable rows at most; None means all.
        label: What progress is called.
    """
    usable: list[int] = []
    skipped, examples = Counter[str](), dict[str, str]()
    for row in track(rows, total=len(rows), label=label):
        while row >= len(table.checks.reasons):
            _check(table, len(table.checks.reasons))
        if reason := table.checks.reasons[row]:
            skipped[reason] += 1
            examples.setdefault(reason, table.place(row, reason))
        else:
            usable.append(row)
        if len(usable) == limit:
            break
    return tuple(usable), SkipCounts(dict(skipped), examples=examples)


def _check(table: Rows, row: int) -> None:
    pair = table.pair(row)
    table.checks.reasons.append("" if isinstance(pair, Pair) else pair)
    table.checks.identities.append(
        pair_identity(pair.image_id, pair.caption) if isinstance(pair, Pair) else b""
    )


def file_bytes(path: Path) -> bytes | str:
    """A file's content; the reason, as text, if it has none that is worth reading."""
    try:
        stat = path.stat()
        if not S_ISREG(stat.st_mode):
            return "link or device" if not path.is_dir() else "unreadable image"
        return path.read_bytes() if stat.st_size <= MAX_FILE_BYTES else "oversized file"
    except FileNotFoundError:
        return MISSING_FILE
    except (OSError, ValueError):
        return "unreadable image"
