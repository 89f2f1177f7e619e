"""JSON lines on disk: appended whole and forced to the disk; a torn last line is dropped."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from nas_growclip.io.files import writing
from nas_growclip.io.mappings import read_text

MAX_RECORDS_BYTES = 2**30
"""Largest file of records that is read."""


def append_line(path: Path, line: str) -> None:
    """Append one line and force it to the disk; several processes may append to one file.

    A last line without its newline (a process killed while writing) is dropped first.

    Raises:
        ValueError: If it cannot be written; what is there of it is a line without its newline.
    """
    with writing(path), path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _drop_torn_line(file)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def drop_torn_line(path: Path) -> None:
    """Cut an unfinished last line off a JSON-lines file.

    Raises:
        ValueError: If it cannot be written.
    """
    if path.exists():
        with writing(path), path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _drop_torn_line(file)


def _drop_torn_line(file: IO[bytes]) -> None:
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read() != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def whole_lines(path: Path) -> list[str]:
    """A file's finished lines; none where there is no file."""
    if not path.exists():
        return []
    text = read_text(path, MAX_RECORDS_BYTES)
    return text.split("\n")[:-1]  # a line without its end was never finished


def read_lines(path: Path) -> Iterator[tuple[Any, str]]:
    """What a file's lines hold, each with where it stands, for messages.

    Raises:
        ValueError: If a line is not JSON.
    """
    for number, line in enumerate(whole_lines(path), start=1):
        where = f"{path}: line {number}"
        try:
            yield json.loads(line), where
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not valid JSON: {error}. Restore the file.") from None
