"""Pairs from a CSV file as OpenCLIP reads it: a column of image paths, a column of captions.

Rows are checked once, in stored order and only as far as they are used; an epoch is a permutation
of the usable ones. Captions and paths are in memory, images are not.
"""

import csv
import functools
import hashlib
import io
import reprlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

import numpy as np

from nas_growclip.data.config import CsvConfig
from nas_growclip.data.pairs import IsWanted, ManifestEntry, Pair, every_pair
from nas_growclip.data.sources.bad_share import SkipCounts, require_pairs
from nas_growclip.data.sources.decoding import decode_pair
from nas_growclip.data.sources.split import Split, SplitFiles, file_name, split_files
from nas_growclip.data.sources.tar import MAX_FILE_BYTES
from nas_growclip.io.progress import track


@dataclass(frozen=True)
class _Table:
    path: Path
    sha256: str
    num_malformed: int
    """Rows with more fields than there are columns, or that are none."""
    images: tuple[str, ...]
    captions: tuple[str, ...]
    reasons: list[str] = field(default_factory=list)
    """Why each row is unusable, empty if it is not; grows as rows are checked."""

    def pair(self, row: int) -> Pair | str:
        """One decoded row, or why it is unusable."""
        name = self.images[row].strip()
        if not name:
            return "missing image"
        image = _file_bytes(self.path.parent / name)
        if isinstance(image, str):
            return image
        return decode_pair(image, self.captions[row].encode("utf-8", "surrogateescape"))


@dataclass(frozen=True)
class CsvPairs:
    """Pairs of one CSV file."""

    table: _Table
    rows: tuple[int, ...]
    """Usable ones."""
    name: str
    skipped: dict[str, int]

    @property
    def num_pairs(self) -> int:
        """Usable pairs; ``epoch`` yields exactly as many."""
        return len(self.rows)

    @property
    def manifest(self) -> tuple[ManifestEntry, ...]:
        """One entry, for the CSV file; its images are not hashed."""
        return (ManifestEntry(self.name, self.num_pairs, self.table.sha256, self.skipped),)

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """Every wanted pair once; in stored order for None, else shuffled by the seed."""
        order = range(self.num_pairs)
        shuffled = order if seed is None else np.random.default_rng(seed).permutation(order)
        for index in (index for place, index in enumerate(shuffled) if wanted(place)):
            pair = self.table.pair(self.rows[index])
            if isinstance(pair, str):
                raise ValueError(
                    f"{self.table.path}: row {self.rows[index] + 1} must stay usable, but got "
                    f"{pair!r}: the image changed since it was checked. Start again."
                )
            yield pair


def csv_pairs(
    config: CsvConfig, folder: Path | None, split: Split, size: int | None = None
) -> CsvPairs:
    """Open a split's CSV file.

    Args:
        config: Names the file, its separator and its columns.
        folder: What the file's path is relative to.
        split: Which split.
        size: Rows to use, the first so many; None means all.

    Raises:
        ValueError: If the file is no such table, has fewer rows, or too few usable pairs.
    """
    wanted = split_files(config, folder, split, size)
    return open_table(wanted, config.csv_separator, (config.csv_image_key, config.csv_caption_key))


def open_table(wanted: SplitFiles, separator: str, columns: tuple[str, str]) -> CsvPairs:
    """Open a CSV file.

    Args:
        wanted: The file, and how many of its rows.
        separator: One character.
        columns: Names of the columns of images and captions.

    Raises:
        ValueError: If the file is no such table, has fewer rows, or too few usable pairs.
    """
    path, size = wanted.folder / wanted.files, wanted.size
    if not path.is_file():
        raise ValueError(f"{wanted.where} must be a CSV file, but {str(path)!r} is not. Check it.")
    stat = path.stat()
    table = _read_table(path, separator, columns, (stat.st_size, stat.st_mtime_ns))
    num_rows = len(table.images)
    if size is not None and size > num_rows:
        raise ValueError(
            f"data.stages must ask for at most the rows there are, but got {size} and "
            f"{str(path)!r} has {num_rows}. Use smaller stages or add rows."
        )
    stop = num_rows if size is None else size
    rows, skipped = _usable_rows(table, stop, wanted.limit, f"checking rows of {wanted.where}")
    require_pairs(wanted, len(rows), SkipCounts(skipped))
    return CsvPairs(table, rows, file_name(path, wanted.folder), skipped)


def _file_bytes(path: Path) -> bytes | str:
    """A file's content; the reason, as text, if it has none that is worth reading."""
    try:
        stat = path.stat()
        if not S_ISREG(stat.st_mode):
            return "link or device" if not path.is_dir() else "unreadable image"
        return path.read_bytes() if stat.st_size <= MAX_FILE_BYTES else "oversized file"
    except FileNotFoundError:
        return "missing image"
    except (OSError, ValueError):
        return "unreadable image"


@functools.lru_cache(maxsize=8)
def _read_table(
    path: Path, separator: str, columns: tuple[str, str], version: tuple[int, int]
) -> _Table:
    """Size and time of the file, its version, are part of the key of the cache."""
    if len(separator) != 1 or separator in '\r\n"':
        raise ValueError(f"data.csv_separator must be one character, but got {separator!r}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: must be readable, but: {error}. Check the disk.") from None
    text = data.decode("utf-8-sig", "surrogateescape")
    records = _records(io.StringIO(text, newline="").readlines(), separator)
    header = next(records, None) or []
    for column in columns:
        if column not in header:
            raise ValueError(
                f"{path} must be a table with the separator {separator!r} and have a column "
                f"{column!r}, but has {reprlib.repr(header)}. Set data.csv_image_key, "
                "data.csv_caption_key or data.csv_separator."
            )
    places = [header.index(column) for column in columns]
    rows, num_malformed = [], 0
    for record in records:
        if record is None or len(record) > len(header):
            num_malformed += 1
        else:
            rows.append([record[place] if place < len(record) else "" for place in places])
    images, captions = zip(*rows, strict=True) if rows else ((), ())
    return _Table(path, hashlib.sha256(data).hexdigest(), num_malformed, images, captions)


def _records(lines: Sequence[str], separator: str) -> Iterator[list[str] | None]:
    """Fields of every row; None for a line that begins none.

    A quote that is never closed takes its own line with it, not all those that follow.
    """
    start = 0
    while start < len(lines):
        record, num_lines = _record(lines, start, separator, strict=False)
        if num_lines > 1:
            record, num_lines = _record(lines, start, separator, strict=True)
        if record != []:
            yield record
        start += num_lines


def _record(
    lines: Sequence[str], start: int, separator: str, *, strict: bool
) -> tuple[list[str] | None, int]:
    """The row that begins at a line, and of how many lines it is; None where it is malformed."""
    following = (lines[number] for number in range(start, len(lines)))
    reader = csv.reader(following, delimiter=separator, strict=strict)
    try:
        return next(reader), reader.line_num
    except csv.Error:  # also of a field of more than csv.field_size_limit()
        return None, 1


def _usable_rows(
    table: _Table, stop: int, limit: int | None, label: str
) -> tuple[tuple[int, ...], dict[str, int]]:
    rows: list[int] = []
    skipped = Counter({"malformed row": table.num_malformed})
    for row in track(range(stop), total=stop, label=label):
        if row == len(table.reasons):
            pair = table.pair(row)
            table.reasons.append(pair if isinstance(pair, str) else "")
        if reason := table.reasons[row]:
            skipped[reason] += 1
        else:
            rows.append(row)
        if len(rows) == limit:
            break
    return tuple(rows), dict(+skipped)
