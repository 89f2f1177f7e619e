"""Where pairs can come from: a name in the settings, a function here.

A source opens one split. ``size`` is the stage's size in the source's own unit: pairs for scenes,
shards for webdataset, rows for csv; None means all. Smaller sizes are contained in larger ones.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from nas_growclip.data.config import DataConfig
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.sources.csv_pairs import csv_pairs
from nas_growclip.data.sources.decoding import Split
from nas_growclip.data.sources.scenes import scene_pairs
from nas_growclip.data.sources.webdataset import shard_pairs

Source = Callable[[DataConfig, Path | None, Split, int | None], ImageTextPairs]


def find_source(name: str) -> Source:
    """The source of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in SOURCES:
        raise ValueError(
            f"data.source must be one of {sorted(SOURCES)}, but got {name!r}. Use one of them, or "
            "add a source to SOURCES in data/sources/table.py."
        )
    return SOURCES[name]


def sized_scenes(
    config: DataConfig, folder: Path | None, split: Split, size: int | None
) -> ImageTextPairs:
    """Rendered scenes; without a size, as many as the settings say."""
    all_of = {
        "train": config.stages[-1],
        "validation": config.validation_pairs,
        "test": config.test_pairs,
    }
    return scene_pairs(config, folder, split, all_of[split] if size is None else size)


SOURCES: Mapping[str, Source] = {
    "scenes": sized_scenes,
    "webdataset": shard_pairs,
    "csv": csv_pairs,
}
