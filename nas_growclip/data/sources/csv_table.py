"""A CSV file's rows: images' paths and captions, as pandas reads them, and their lines.

Pandas takes some words for missing values, and so do we: a caption ``nan`` is none. What pandas
would lose without a word is told: a quote that is never closed, a text that is not UTF-8.
"""

import csv
import functools
import hashlib
import io
import re
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas_growclip.data.pairs import Pair
from nas_growclip.data.sources.bad_share import ADDRESS, NOT_UTF8
from nas_growclip.data.sources.decoding import decode_pair
from nas_growclip.data.sources.rows import Checks, file_bytes

MISSING_VALUES = frozenset(
    {
        *("", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "-NaN", "-nan"),
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"),
    }
)
"""Words that ``pandas.read_csv`` takes for a missing value, by default."""

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


@dataclass(frozen=True)
class CsvTable:
    """The rows of one CSV file; what checks find out is kept."""

    path: Path
    sha256: str
    malformed: tuple[int, ...]
    """Lines that are no rows: with too many fields, or with a quote that is never closed."""
    lines: tuple[int, ...]
    """Where each row begins, counted from 1."""
    images: tuple[str, ...]
    captions: tuple[str, ...]
    checks: Checks = field(default_factory=Checks)

    def pair(self, row: int) -> Pair | str:
        """One decoded row, or why it is unusable."""
        name = self.images[row].strip()
        if name in MISSING_VALUES:
            return "missing image"
        if self.captions[row] in MISSING_VALUES:
            return "empty caption"
        if _ADDRESS.match(name):
            return ADDRESS
        image = file_bytes(self._path(name))
        if isinstance(image, str):
            return image
        return decode_pair(image, _encoded(self.captions[row]))

    def place(self, row: int, reason: str = "") -> str:
        """Where a row is, and what it has to do with why it is unusable."""
        line = f"{self.path}, line {self.lines[row]}"
        if reason == NOT_UTF8:
            return f"{reprlib.repr(_encoded(self.captions[row]))} in {line}"
        if reason == ADDRESS:
            return f"{self.images[row].strip()!r} in {line}"
        return f"{str(self._path(self.images[row].strip()))!r} in {line}" if reason else line

    def _path(self, name: str) -> Path:
        """Relative to the table's folder; backslashes are slashes where there is no such file."""
        path = self.path.parent / name
        is_windows = "\\" in name and not path.exists()
        return self.path.parent / name.replace("\\", "/") if is_windows else path


def read_table(path: Path, separator: str, columns: tuple[str, str]) -> CsvTable:
    """Read a CSV file, once until it changes.

    Args:
        path: The file.
        separator: One character.
        columns: Names of the columns of images and captions.

    Raises:
        ValueError: If it cannot be read, is not UTF-8, or has no such columns.
    """
    stat = path.stat()
    return _read(path, separator, columns, (stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=16)
def _read(
    path: Path, separator: str, columns: tuple[str, str], version: tuple[int, int]
) -> CsvTable:
    """Size and time of the file, its version, are part of the key of the cache."""
    if len(separator) != 1 or separator in '\r\n"':
        raise ValueError(f"data.csv_separator must be one character, but got {separator!r}.")
    data = _bytes(path)
    text = data.decode("utf-8-sig", "surrogateescape")
    records = _records(io.StringIO(text, newline="").readlines(), separator)
    _, header = next(records, (1, None))
    places = _places(header or [], columns, separator, path)
    malformed: list[int] = []
    rows: list[tuple[int, str, str]] = []
    for line, record in records:
        if record is None or len(record) > len(header or ()):
            malformed.append(line)
        else:
            image, caption = (record[p] if p < len(record) else "" for p in places)
            rows.append((line, image, caption))
    lines, images, captions = zip(*rows, strict=True) if rows else ((), (), ())
    sha256 = hashlib.sha256(data).hexdigest()
    return CsvTable(path, sha256, tuple(malformed), lines, images, captions)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: must be readable, but: {error}. Check the disk.") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:1000]:
        raise ValueError(
            f"{path}: must be UTF-8, but begins with {data[:8]!r}, as UTF-16 does. Save it as "
            "UTF-8 ('CSV UTF-8' in Excel), or convert it: `iconv -f UTF-16 -t UTF-8 OLD > NEW`."
        )
    return data


def _places(
    header: Sequence[str], columns: tuple[str, str], separator: str, path: Path
) -> list[int]:
    for column in columns:
        if column not in header:
            raise ValueError(
                f"{path} must be a table with the separator {separator!r} and have a column "
                f"{column!r}, but has {reprlib.repr(list(header))}. Set data.csv_image_key, "
                "data.csv_caption_key or data.csv_separator."
            )
    return [header.index(column) for column in columns]


def _records(lines: Sequence[str], separator: str) -> Iterator[tuple[int, list[str] | None]]:
    """The line, from 1, and the fields of every row; None for a line that begins none.

    A quote that is never closed takes its own line with it, not all those that follow.
    """
    start = 0
    while start < len(lines):
        record, num_lines = _record(lines, start, separator, strict=False)
        if num_lines > 1:
            record, num_lines = _record(lines, start, separator, strict=True)
        if record != []:
            yield start + 1, record
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


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
