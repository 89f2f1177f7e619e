"""Where pairs can come from: a name in the settings, a function here.

A source opens one split. ``size`` is the stage's size in the source's own unit: pairs for scenes,
shards for webdataset, rows for csv; None means all. Smaller sizes are contained in larger ones.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas_growclip.data.config import DataConfig
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.sources.csv_pairs import csv_pairs
from nas_growclip.data.sources.scenes import sized_scenes
from nas_growclip.data.sources.split import Split, SplitFiles
from nas_growclip.data.sources.webdataset import open_shards, shard_pairs

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


def open_folder(folder: Path) -> ImageTextPairs:
    """Open all pairs of a folder of shards, with no settings.

    Raises:
        ValueError: If it holds none.
    """
    return open_shards(SplitFiles(folder=folder, files="."))


SOURCES: Mapping[str, Source] = {
    "scenes": sized_scenes,
    "webdataset": shard_pairs,
    "csv": csv_pairs,
}
