"""Where pairs can come from: a name in the settings, a function here.

A source opens one split. ``size`` is the stage's size in the source's own unit: pairs for scenes
and files, shards for webdataset, rows for csv; None means all. Smaller sizes are contained in
larger ones.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas_growclip.data.config import DataConfig
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.shard_splits import shard_split
from nas_growclip.data.sources.csv_added import TABLE_SUFFIXES
from nas_growclip.data.sources.csv_pairs import csv_pairs, open_table
from nas_growclip.data.sources.files import file_pairs, has_pairs, open_files
from nas_growclip.data.sources.scenes import sized_scenes
from nas_growclip.data.sources.shard_names import SHARD_SUFFIXES
from nas_growclip.data.sources.split import Split, SplitFiles
from nas_growclip.data.sources.webdataset import open_shards

Source = Callable[[Any, Path | None, Split, int | None], ImageTextPairs]
"""Takes the settings of its own source, which are a member of ``DataConfig``."""


def open_split(
    config: DataConfig, folder: Path | None, split: Split, size: int | None = None
) -> ImageTextPairs:
    """Open one split by itself.

    Args:
        config: Where it is and how it is read.
        folder: What the settings' paths are relative to; scenes need none.
        split: ``train``, ``validation`` or ``test``; of files also ``test_by_stage[0]`` and so on.
        size: The first so many, in the source's unit; None means all that the settings allow.

    Raises:
        ValueError: If its files are missing, malformed or hold too few usable pairs.
    """
    return SOURCES[config.source](config, folder, split, size)


def is_table(place: Path) -> bool:
    """Whether a place is a CSV file."""
    return place.is_file() and place.name.endswith(TABLE_SUFFIXES)


def open_place(place: Path) -> ImageTextPairs:
    """Open all pairs of a place with no settings: a CSV file, or a folder of shards or files.

    Of a table, columns and separator are the defaults.

    Raises:
        ValueError: If it holds no pairs.
    """
    if is_table(place):
        return open_table(SplitFiles(folder=place.parent, files=place.name))
    return open_folder(place)


def open_folder(folder: Path) -> ImageTextPairs:
    """Open all pairs of a folder with no settings: its shards, or else its files.

    Raises:
        ValueError: If it holds neither.
    """
    wanted = SplitFiles(folder=folder, files=".")
    is_shards = any(path.name.endswith(SHARD_SUFFIXES) for path in folder.iterdir())
    return open_files(wanted) if not is_shards and has_pairs(folder) else open_shards(wanted)


SOURCES: Mapping[str, Source] = {
    "scenes": sized_scenes,
    "webdataset": shard_split,
    "csv": csv_pairs,
    "files": file_pairs,
}
