"""Pairs from a folder of files, as img2dataset's ``files`` output: KEY.jpg and KEY.txt.

Folders within are part of it. Pairs are in the order of their paths; what is neither image nor
caption, as ``KEY.json``, is left alone.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nas_growclip.data.config import FilesConfig
from nas_growclip.data.pairs import ManifestEntry, Pair
from nas_growclip.data.sources.bad_share import MISSING_FILE, NOT_UTF8, require_pairs
from nas_growclip.data.sources.captions import PLAIN_CAPTIONS, CaptionFormat
from nas_growclip.data.sources.decoding import IMAGE_SUFFIXES, decode_pair, looks_like_image
from nas_growclip.data.sources.rows import Checks, RowPairs, RowPart, check_rows, file_bytes
from nas_growclip.data.sources.split import Split, SplitFiles, file_name, split_files

MARK_SIZE = 16
"""Bytes at the beginning of a file that say whether it is an image."""


@dataclass(frozen=True)
class _Files:
    """Files that agree up to the last dot of their names."""

    key: str
    image: Path | None
    caption: Path | None


@dataclass(frozen=True)
class FolderRows:
    """The keys of a folder, in order."""

    folder: Path
    keys: tuple[_Files, ...]
    captions: CaptionFormat
    checks: Checks = field(default_factory=Checks)

    def pair(self, row: int) -> Pair | str:
        """One decoded pair, or why it is unusable."""
        files = self.keys[row]
        if files.image is None or files.caption is None:
            return "missing image" if files.image is None else "missing caption"
        image, data = file_bytes(files.image), file_bytes(files.caption)
        if isinstance(image, str):
            return image
        if isinstance(data, str):
            return "missing caption" if data == MISSING_FILE else NOT_UTF8
        text = self.captions.text(data)
        return text if isinstance(text, str) else decode_pair(image, text)

    def place(self, row: int, reason: str = "") -> str:
        """Where a pair is."""
        return repr(str(self.folder / self.keys[row].key))


def file_pairs(
    config: FilesConfig, folder: Path | None, split: Split, size: int | None = None
) -> RowPairs:
    """Open a split's folder.

    Args:
        config: Names the folder, and what holds the captions.
        folder: What its path is relative to.
        split: Which split.
        size: Keys to use, the first so many; None means all.

    Raises:
        ValueError: If it is no folder, has fewer keys, or too few usable pairs.
    """
    captions = CaptionFormat.of(config)
    return open_files(split_files(config, folder, split, size), captions)


def open_files(wanted: SplitFiles, captions: CaptionFormat = PLAIN_CAPTIONS) -> RowPairs:
    """Open a folder of images with a caption's file beside each.

    Args:
        wanted: The folder, and how many of its keys.
        captions: Which files hold them.

    Raises:
        ValueError: If it is no folder, has fewer keys, or too few usable pairs.
    """
    folder = wanted.folder / wanted.files
    if not folder.is_dir():
        raise ValueError(
            f"{wanted.where} must be a folder of KEY.jpg and KEY.{captions.suffix}, but "
            f"{str(folder)!r} is none. Check it."
        )
    table = FolderRows(folder, tuple(_keys(folder, captions.suffix)), captions)
    num_keys = len(table.keys) if wanted.size is None else wanted.size
    if num_keys > len(table.keys):
        raise ValueError(
            f"data.stages must ask for at most the pairs there are, but got {num_keys} and "
            f"{str(folder)!r} has {len(table.keys)}. Use smaller stages or add pairs."
        )
    rows, counts = check_rows(
        table, range(num_keys), wanted.limit, f"checking files of {wanted.where}"
    )
    require_pairs(wanted, len(rows), counts)
    digest = hashlib.sha256(b"".join(table.checks.identities[row] for row in rows)).hexdigest()
    entry = ManifestEntry(file_name(folder, wanted.folder), len(rows), digest, dict(counts.skipped))
    return RowPairs((RowPart(table, rows, entry, counts),))


def has_pairs(folder: Path) -> bool:
    """Whether a folder holds an image with a text beside it."""
    return any(files.image and files.caption for files in _keys(folder, PLAIN_CAPTIONS.suffix))


def _keys(folder: Path, suffix: str) -> Iterator[_Files]:
    """Every key that has an image or a caption, in the order of paths."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from _keys_in(Path(place), names, folder, suffix)


def _keys_in(place: Path, names: list[str], folder: Path, suffix: str) -> Iterator[_Files]:
    images, captions = dict[str, Path](), dict[str, Path]()
    for name in sorted(name for name in names if not name.startswith(".")):
        key, dot, ending = name.rpartition(".")
        if name.lower().endswith(f".{suffix}"):
            captions.setdefault(name[: -len(suffix) - 1], place / name)
        elif dot and key not in images and _is_image(place / name, ending.lower()):
            images[key] = place / name
    for key in sorted(images.keys() | captions.keys()):
        name = (place / key).relative_to(folder).as_posix()
        yield _Files(name, images.get(key), captions.get(key))


def _is_image(path: Path, suffix: str) -> bool:
    if suffix in IMAGE_SUFFIXES or suffix in ("json", "txt", "parquet", "tar"):
        return suffix in IMAGE_SUFFIXES
    try:
        with path.open("rb") as file:
            return looks_like_image(file.read(MARK_SIZE))
    except OSError:
        return False
