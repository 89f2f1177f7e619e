"""Data that arrives after a run has finished becomes one stage more in the run's settings."""

from dataclasses import replace
from pathlib import Path

from nas_growclip.data.config import (
    AddedShards,
    AddedTables,
    CsvConfig,
    DataConfig,
    WebdatasetConfig,
)
from nas_growclip.data.shard_splits import new_shards
from nas_growclip.data.sources.csv_added import new_tables

GrowingConfig = WebdatasetConfig | CsvConfig
"""Settings of the sources that a finished run can be continued with."""


def growing(config: DataConfig) -> GrowingConfig:
    """The settings, if their source can have data that arrives later.

    Raises:
        ValueError: If it cannot.
    """
    if not isinstance(config, GrowingConfig):
        raise ValueError(
            f"data.source must be 'webdataset' or 'csv' to be continued, but is "
            f"{config.source!r}: only shards and tables can arrive later beside those of the run. "
            "Start a run with a further entry in data.stages."
        )
    return config


def with_new_stage(config: GrowingConfig, folder: Path, place: Path) -> GrowingConfig | None:
    """The settings with one stage more: what a place has that the run does not; None if nothing.

    Args:
        config: The run's data.
        folder: Where its relative paths start.
        place: A folder of shards; of tables, or one of them.

    Raises:
        ValueError: If there is no such data at all.
    """
    if isinstance(config, WebdatasetConfig):
        shards = new_shards(config, folder, place)
        if shards is None:
            return None
        stages = (*config.stages, config.stages[-1] + len(shards.shards))
        return replace(config, added=(*config.added, shards), stages=stages)
    tables = new_tables(config, folder, place)
    if tables is None:
        return None
    stages = (*config.stages, config.stages[-1] + tables.rows)
    return replace(config, added=(*config.added, tables), stages=stages)


def is_from(added: AddedShards | AddedTables, folder: Path, place: Path) -> bool:
    """Whether a stage's added files are those of a place, which may also be one of them.

    Args:
        added: What was added.
        folder: Where the run's relative paths start.
        place: A folder or a file.
    """
    own = (folder / added.folder).resolve()
    is_one_of_them = (
        isinstance(added, AddedTables)
        and place.name in added.tables
        and place.parent.resolve() == own
    )
    return place.resolve() == own or is_one_of_them
