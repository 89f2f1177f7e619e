"""Pairs from a CSV file as OpenCLIP reads it: a column of image paths, a column of captions.

Rows are checked once, in stored order and only as far as they are used; an epoch is a permutation
of the usable ones. Captions and paths are in memory, images are not.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from nas_growclip.data.config import DataConfig
from nas_growclip.data.decoding import (
    Split,
    data_folder,
    decode_pair,
    file_name,
    pair_limit,
    require_pairs,
    split_setting,
)
from nas_growclip.data.pairs import IsWanted, ManifestEntry, Pair, every_pair
from nas_growclip.progress import track


@dataclass(frozen=True)
class _Table:
    path: Path
    sha256: str
    num_malformed: int
    """Rows with more fields than there are columns."""
    images: tuple[str, ...]
    captions: tuple[str, ...]
    reasons: list[str] = field(default_factory=list)
    """Why each row is unusable, empty if it is not; grows as rows are checked."""

    def pair(self, row: int) -> Pair | str:
        """One decoded row, or why it is unusable."""
        name = self.images[row].strip()
        if not name:
            return "missing image"
        try:
            image = (self.path.parent / name).read_bytes()
        except FileNotFoundError:
            return "missing image"
        except (OSError, ValueError):
            return "unreadable image"
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


def csv_pairs(config: DataConfig, folder: Path | None, split: Split, size: int | None) -> CsvPairs:
    """Open a split's CSV file.

    Args:
        config: Names the file, its separator and its columns.
        folder: What the file's path is relative to.
        split: Which split.
        size: Rows to use, the first so many; None means all.

    Raises:
        ValueError: If the file is no such table, has fewer rows, or no usable pair.
    """
    folder = data_folder(folder, config.source)
    setting = split_setting(config, split)
    path = folder / setting
    if not path.is_file():
        raise ValueError(f"data.{split} must be a CSV file, but {str(path)!r} is not. Check it.")
    stat = path.stat()
    columns = (config.csv_image_key, config.csv_caption_key)
    table = _read_table(path, config.csv_separator, columns, (stat.st_size, stat.st_mtime_ns))
    num_rows = len(table.images)
    if size is not None and size > num_rows:
        raise ValueError(
            f"data.stages must ask for at most the rows there are, but got {size} and "
            f"{str(path)!r} has {num_rows}. Use smaller stages or add rows."
        )
    stop = num_rows if size is None else size
    rows, skipped = _usable_rows(table, stop, pair_limit(config, split), f"checking {split} rows")
    require_pairs(len(rows), split, setting, skipped)
    return CsvPairs(table, rows, file_name(path, folder), skipped)


@functools.lru_cache(maxsize=8)
def _read_table(
    path: Path, separator: str, columns: tuple[str, str], version: tuple[int, int]
) -> _Table:
    """Size and time of the file, its version, are part of the key of the cache."""
    malformed: list[list[str]] = []
    try:
        frame = pd.read_csv(
            path,
            sep=separator,
            dtype=object,
            keep_default_na=False,  # "null" and "NA" are words in a caption
            index_col=False,
            encoding_errors="surrogateescape",
            engine="python",  # the only one that hands over malformed rows
            on_bad_lines=lambda fields: malformed.append(fields),
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise ValueError(
            f"{path} must be a table with the separator {separator!r}, but: {error}. "
            "Set data.csv_separator or mend the file."
        ) from None
    for column in columns:
        if column not in frame.columns:
            raise ValueError(
                f"{path} must have a column {column!r}, but has {list(frame.columns)}. Set "
                "data.csv_image_key, data.csv_caption_key or data.csv_separator."
            )
    images, captions = (tuple(frame[column].fillna("").astype(str)) for column in columns)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return _Table(path, sha256, len(malformed), images, captions)


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
