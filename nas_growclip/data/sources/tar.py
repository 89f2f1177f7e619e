"""Read the tar files of others: member after member, in little memory, whatever is in them.

Nothing is unpacked onto the disk and no link is followed. What a header promises is not believed:
a member is read only if it is small, and a header only as far as headers go, since a few bytes of
a compressed or sparse archive can stand for as many as they like.
"""

import gzip
import io
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

MAX_FILE_BYTES = 2**26
"""Largest image file or member that is read; 64 megapixels of a photograph take about half."""

MAX_HEADER_BYTES = 2**14
"""What the headers of one member may take: names and attributes, not contents."""

_READ_ERRORS = (
    tarfile.TarError,
    OSError,
    EOFError,
    zlib.error,
    struct.error,
    # What tarfile itself stumbles over in headers that were made up:
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
_ZERO_BLOCK = bytes(tarfile.BLOCKSIZE)


class Member(NamedTuple):
    """One entry of a tar file that is no folder."""

    name: str
    data: bytes
    fault: str
    """Why it was not read; empty if it was."""
    start: int | None = None
    """Byte of the file at which its bytes begin; None if they do not stand there as they are."""


class _Metered:
    """An open archive of which no more is read at a time than was allowed."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self.file = file
        self.is_plain = not isinstance(file, gzip.GzipFile)
        self.left = MAX_HEADER_BYTES
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError("a header asks for too much")
        self.left -= size
        return self.file.read(size)


def read_members(path: Path, damage: Counter[str]) -> Iterator[Member]:
    """Every member of a tar file, in stored order, as far as the file can be read.

    Args:
        path: A tar file, plain or gzipped.
        damage: Counts, at the end, what is wrong with the file as a whole.
    """
    with _open_file(path) as file:
        metered: Any = _Metered(file)
        try:
            archive: Any = tarfile.open(fileobj=metered, mode="r:")  # noqa: SIM115
        except _READ_ERRORS:
            damage["unreadable shard"] += 1
            return
        num_members, is_whole = 0, True
        while is_whole:
            entry = _next_entry(archive, metered)
            if entry is None:
                break
            num_members += 1
            if not entry.isdir():
                member = _read_member(archive, entry, metered)
                is_whole = member is not None
                if member is not None:
                    yield member
        if not (is_whole and _is_complete(file, archive.offset)):
            damage["truncated shard"] += 1
        elif not num_members:
            damage["empty shard"] += 1


def _next_entry(archive: Any, metered: _Metered) -> tarfile.TarInfo | None:
    """The next header; None at the end, and where it makes no sense."""
    before = archive.offset if archive.firstmember is None else -1
    metered.left = MAX_HEADER_BYTES
    try:
        entry: tarfile.TarInfo | None = archive.next()
    except _READ_ERRORS:
        return None
    archive.members.clear()
    if entry is not None and archive.offset <= before:
        return None  # a negative size leads back, and round and round
    return entry


def _read_member(archive: Any, entry: tarfile.TarInfo, metered: _Metered) -> Member | None:
    """A member with its bytes, or with why it has none; None where the file ends within it."""
    if fault := _fault(entry):
        return Member(entry.name, b"", fault)
    metered.left = MAX_FILE_BYTES
    try:
        data = archive.extractfile(entry).read()
    except _READ_ERRORS:
        return None
    stands_as_it_is = metered.is_plain and not entry.issparse()
    return Member(entry.name, data, "", entry.offset_data if stands_as_it_is else None)


def _fault(entry: tarfile.TarInfo) -> str:
    if not entry.isreg():
        return "link or device"
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        return "unsafe name"
    return "" if 0 <= entry.size <= MAX_FILE_BYTES else "oversized file"


def _is_complete(file: io.BufferedIOBase, end: int) -> bool:
    """Whether the block of zeros that must follow the last member is there.

    A tar reader takes a broken header, or the end of the file, for the end of the archive.
    """
    try:
        file.seek(end)
        return file.read(tarfile.BLOCKSIZE) == _ZERO_BLOCK
    except _READ_ERRORS:
        return False


def _open_file(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.GzipFile(path) if is_gzip else path.open("rb")
