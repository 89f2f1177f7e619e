"""Pairs from CSV files as OpenCLIP reads them: a column of image paths, a column of captions."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nas_growclip.data.config import CsvConfig
from nas_growclip.data.pairs import ManifestEntry
from nas_growclip.data.sources.bad_share import (
    MALFORMED_ROW,
    SkipCounts,
    check_bad_share,
    require_pairs,
)
from nas_growclip.data.sources.csv_added import added_tables, without_seen
from nas_growclip.data.sources.csv_table import CsvTable, read_table
from nas_growclip.data.sources.dedup import Deduplicator
from nas_growclip.data.sources.rows import RowPairs, RowPart, check_rows
from nas_growclip.data.sources.split import Split, SplitFiles, file_name, split_files


def csv_pairs(
    config: CsvConfig, folder: Path | None, split: Split, size: int | None = None
) -> RowPairs:
    """Open a split's CSV file.

    Args:
        config: Names the file, its separator and its columns.
        folder: What the file's path is relative to.
        split: Which split.
        size: Rows to use, the first so many; None means all.

    Raises:
        ValueError: If the file is no such table, has fewer rows, or too few usable pairs.
    """
    wanted = split_files(config, folder, split, size)
    if split != "train" or not config.added:
        columns = (config.csv_image_key, config.csv_caption_key)
        return open_table(wanted, config.csv_separator, columns)
    return RowPairs(tuple(_with_added(config, wanted)))


def _with_added(config: CsvConfig, wanted: SplitFiles) -> Iterator[RowPart]:
    """The experiment's own rows, and those of added tables that are new."""
    num_own = config.stages[config.num_planned_stages - 1]
    own = replace(wanted, size=min(wanted.size or num_own, num_own))
    columns = (config.csv_image_key, config.csv_caption_key)
    pairs, seen = open_table(own, config.csv_separator, columns), Deduplicator()
    for split in config.files_by_split:
        if split != "train":
            held_out = csv_pairs(config, wanted.folder, split)
            seen.hold_out(b"".join(held_out.identities()))
    seen.add(b"".join(pairs.identities()))
    yield from pairs.parts
    for table in added_tables(config, wanted):
        part = without_seen(table_part(table, range(len(table.lines)), wanted), seen)
        what = f"data.added ({part.entry.name!r})"
        check_bad_share(what, len(part.rows), part.counts, wanted.max_bad_share)
        yield part


def open_table(
    wanted: SplitFiles,
    separator: str = "\t",
    columns: tuple[str, str] = ("filepath", "title"),
) -> RowPairs:
    """Open a CSV file.

    Args:
        wanted: The file, and how many of its rows.
        separator: One character.
        columns: Names of the columns of images and captions.

    Raises:
        ValueError: If the file is no such table, has fewer rows, or too few usable pairs.
    """
    path = wanted.folder / wanted.files
    if not path.is_file():
        raise ValueError(f"{wanted.where} must be a CSV file, but {str(path)!r} is not. Check it.")
    table = read_table(path, separator, columns)
    num_rows = len(table.lines) if wanted.size is None else wanted.size
    if num_rows > len(table.lines):
        raise ValueError(
            f"data.stages must ask for at most the rows there are, but got {num_rows} and "
            f"{str(path)!r} has {len(table.lines)}{_malformed_words(table)}. Use smaller stages or "
            "add rows."
        )
    part = table_part(table, range(num_rows), wanted)
    require_pairs(wanted, len(part.rows), part.counts)
    return RowPairs((part,))


def table_part(table: CsvTable, rows: range, wanted: SplitFiles) -> RowPart:
    """The usable ones of a table's rows.

    Args:
        table: The table.
        rows: Which rows to check.
        wanted: How many, and where names in the manifest start.
    """
    usable, counts = check_rows(table, rows, wanted.limit, f"checking rows of {wanted.where}")
    skipped, examples = dict(counts.skipped), dict(counts.examples)
    if table.malformed:
        skipped[MALFORMED_ROW] = len(table.malformed)
        examples[MALFORMED_ROW] = f"{table.path}, line {table.malformed[0]}"
    name = file_name(table.path, wanted.folder)
    entry = ManifestEntry(name, len(usable), table.sha256, skipped)
    return RowPart(table, usable, entry, SkipCounts(skipped, examples=examples))


def _malformed_words(table: CsvTable) -> str:
    if not table.malformed:
        return ""
    lines = ", ".join(map(str, table.malformed[:3]))
    return (
        f" beside {len(table.malformed)} malformed ones (line {lines}: too many fields, or a quote "
        "that is never closed)"
    )
