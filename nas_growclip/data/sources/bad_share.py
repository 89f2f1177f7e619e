"""Whether enough of the data is usable: bad pairs are left out, but not without end."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nas_growclip.data.sources.dedup import HELD_OUT_PAIR, SEEN_PAIR
from nas_growclip.data.sources.split import SplitFiles

NOT_BAD = frozenset({SEEN_PAIR, HELD_OUT_PAIR})
"""Why pairs are left out that are as good as others."""

FILE_DAMAGE = frozenset({"unreadable shard", "truncated shard", "empty shard"})
"""What is counted once a file, however many pairs are lost with it."""

MEMBERS_APART = "members apart"
ADDRESS = "address, no file"
MALFORMED_ROW = "malformed row"
NOT_UTF8 = "unreadable caption"

MISSING_FILE = "missing file"

ADVICE: Mapping[str, str] = {
    MEMBERS_APART: "A key's members must follow one another: write the shard again, sorted by "
    "name, as `tar --sort=name -cf NEW.tar DIR` does.",
    ADDRESS: "Addresses are not fetched: download the images first, with img2dataset.",
    MALFORMED_ROW: "A quote that begins a field must be closed: write two for one that is meant.",
    MISSING_FILE: "Relative paths start at the folder of the table.",
    NOT_UTF8: "Captions must be UTF-8: convert the file, as with "
    "`iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`.",
}
"""What to do about a reason, where it is not plain from its name."""


@dataclass(frozen=True)
class SkipCounts:
    """How much was left out of some files."""

    skipped: Mapping[str, int]
    """How much, by reason."""
    num_files: int = 1
    examples: Mapping[str, str] = field(default_factory=dict)
    """Where a reason was met first."""
    other_member: str = ""
    """A member that is neither image nor text, if there is one."""

    def describe(self, reasons: Mapping[str, int]) -> str:
        """Reasons with their counts and first places, and what to do about them."""
        kinds = ", ".join(
            f"{count} x {reason}" + self._where(reason) for reason, count in sorted(reasons.items())
        )
        return kinds or "nothing"

    def advice(self, reasons: Mapping[str, int]) -> str:
        """What to do about the reasons, where their names do not say it."""
        return "".join(f" {ADVICE[reason]}" for reason in sorted(reasons) if reason in ADVICE)

    def _where(self, reason: str) -> str:
        return f" (first: {self.examples[reason]})" if reason in self.examples else ""


def require_pairs(wanted: SplitFiles, num_pairs: int, counts: SkipCounts) -> None:
    """Refuse a split without one usable pair, or of which too much is bad.

    Args:
        wanted: Names the files and says how much may be bad.
        num_pairs: Usable pairs.
        counts: What else there was.

    Raises:
        ValueError: If so; says what was found instead.
    """
    if num_pairs == 0:
        found = counts.describe(counts.skipped)
        other = f", and members such as {counts.other_member!r}" if counts.other_member else ""
        raise ValueError(
            f"{wanted.where} must hold one usable pair or more, but {wanted.shown} has none "
            f"(found: {found}{other}). Check the files and their format."
            + counts.advice(counts.skipped)
        )
    what = f"{wanted.where} ({wanted.shown})"
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
            raise ValueError(
                f"{what}: at most {most:.0%} may be bad (data.max_bad_share), but {number} of "
                f"{total} {unit} are ({counts.describe(bad)}). Mend or replace the files, or raise "
                f"data.max_bad_share to go on without them.{counts.advice(bad)}"
            )
