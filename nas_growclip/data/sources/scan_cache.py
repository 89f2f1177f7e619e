"""What a pass over a shard found, kept on this machine until the shard changes.

Decoding every image of ten million pairs takes hours of CPU time, and every start of a run, every
worker and every process of torchrun needs what it found. So it is done once a machine, by several
threads, and by several processes one shard each: kept scans are files in the user's cache folder,
which may be deleted at any time.
"""

import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray

from nas_growclip.io.files import locked, make_folder, write_arrays

RULES = 3
"""Raised whenever a scan finds other pairs, or more about them: kept ones are then made again."""

SPANS = struct.Struct("<qiqi")
"""Where a pair is in its file: first byte and length of its image, then of its text."""

MAX_THREADS = 8

T = TypeVar("T")


class ShardScan(NamedTuple):
    """What one pass over a shard found."""

    num_pairs: int
    num_bytes: int
    """Of the file."""
    unusable: frozenset[int]
    """Positions of the samples to leave out."""
    sha256: str
    skipped: dict[str, int]
    identities: bytes = b""
    """Of its usable pairs, one after the other: ``IDENTITY_SIZE`` bytes each."""
    examples: Mapping[str, str] = {}
    """Where each reason was met first."""
    other_member: str = ""
    """A member that is neither image nor caption, if there is one."""
    spans: bytes = b""
    """Of its usable pairs, one after the other: ``SPANS`` of each. Empty if the file can only be
    read from its beginning, as a gzipped one."""


def kept_scan(path: Path, how: str, scan: Callable[[Path], ShardScan]) -> ShardScan:
    """A shard's scan, from the cache if it is there for the file's name, size and time.

    Args:
        path: The shard.
        how: What the scan depends on beside the file.
        scan: Goes through it.

    Raises:
        ValueError: As ``scan`` does.
    """
    stat = path.stat()
    version = [RULES, PIL.__version__, stat.st_size, stat.st_mtime_ns, how]
    name = hashlib.sha256(f"{path.resolve()}\0{how}".encode()).hexdigest()[:32]
    place = cache_folder() / f"{name}.npz"
    with ExitStack() as lock:
        with suppress(ValueError, OSError):  # a home that is read-only: nothing is kept
            make_folder(place.parent)
            lock.enter_context(locked(place.with_suffix(".lock")))  # another may be at it
        found = _read(place, version)
        if found is None:
            found = scan(path)
            with suppress(ValueError, OSError):
                _write(place, found, version)
        return found


def scan_in_order(paths: Sequence[Path], scan: Callable[[Path], T]) -> Iterator[T]:
    """Scans of shards in their order, a few ahead of what is asked for."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        ahead: list[Future[T]] = []
        try:
            for path in paths:
                ahead.append(pool.submit(scan, path))
                if len(ahead) > threads:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()


def cache_folder() -> Path:
    """Where scans are kept: in ``$XDG_CACHE_HOME``, by default ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "nas_growclip" / "shards"


def _write(place: Path, scan: ShardScan, version: list[object]) -> None:
    about = {
        "version": version,
        "num_pairs": scan.num_pairs,
        "num_bytes": scan.num_bytes,
        "sha256": scan.sha256,
        "skipped": scan.skipped,
        "examples": dict(scan.examples),
        "other_member": scan.other_member,
    }
    arrays: dict[str, NDArray[Any]] = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "unusable": np.array(sorted(scan.unusable), np.int64),
        "identities": np.frombuffer(scan.identities, np.uint8),
        "spans": np.frombuffer(scan.spans, np.uint8),
    }
    write_arrays(place, arrays)


def _read(place: Path, version: list[object]) -> ShardScan | None:
    """A kept scan; None if there is none of this version, or it is damaged."""
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if about["version"] != version:
                return None
            return ShardScan(
                num_pairs=about["num_pairs"],
                num_bytes=about["num_bytes"],
                unusable=frozenset(arrays["unusable"].tolist()),
                sha256=about["sha256"],
                skipped=about["skipped"],
                identities=arrays["identities"].tobytes(),
                examples=about["examples"],
                other_member=about["other_member"],
                spans=arrays["spans"].tobytes(),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
