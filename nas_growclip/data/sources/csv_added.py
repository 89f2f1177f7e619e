"""Tables that arrived after a run had finished: their rows without the pairs that it has."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nas_growclip.data.config import AddedTables, CsvConfig
from nas_growclip.data.pairs import ManifestEntry
from nas_growclip.data.sources.bad_share import SkipCounts
from nas_growclip.data.sources.csv_table import CsvTable, read_table
from nas_growclip.data.sources.dedup import Deduplicator
from nas_growclip.data.sources.rows import RowPart
from nas_growclip.data.sources.split import SplitFiles, file_name

TABLE_SUFFIXES = (".csv", ".tsv")


def new_tables(config: CsvConfig, folder: Path, place: Path) -> AddedTables | None:
    """The tables of a place that a run neither trains nor measures on; None if there is none.

    Args:
        config: The run's data.
        folder: Where its relative paths start.
        place: A folder of CSV files, or one of them.

    Raises:
        ValueError: If there is no table at all, or a new one is malformed.
    """
    found = [place] if place.is_file() else _tables_in(place)
    used = [folder / name for name in config.files_by_split.values() if name]
    used += [path for added in config.added for path in added_paths(added, folder)]
    known = {path.resolve() for path in used}
    new = [path.resolve() for path in found if path.resolve() not in known]
    if not new:
        return None
    return AddedTables(
        folder=file_name(new[0].parent, folder.resolve()),
        tables=tuple(path.name for path in new),
        rows=sum(len(open_csv(config, path).lines) for path in new),
    )


def open_csv(config: CsvConfig, path: Path) -> CsvTable:
    """Read a table as the settings say.

    Raises:
        ValueError: If it cannot be read, is not UTF-8, or has no such columns.
    """
    columns = (config.csv_image_key, config.csv_caption_key)
    return read_table(path, config.csv_separator, columns)


def added_paths(added: AddedTables, folder: Path) -> list[Path]:
    """Where a stage's tables are."""
    return [folder / added.folder / name for name in added.tables]


def added_tables(config: CsvConfig, wanted: SplitFiles) -> Iterator[CsvTable]:
    """The tables of the added stages that are wanted, in order.

    Raises:
        ValueError: If one is gone, or has other rows than when it was added.
    """
    left = (wanted.size or config.stages[-1]) - config.stages[config.num_planned_stages - 1]
    for added in config.added:
        if left > 0:
            yield from _checked_tables(config, added, wanted.folder)
        left -= added.rows


def without_seen(part: RowPart, seen: Deduplicator) -> RowPart:
    """The rows of a part that are new; they are noted."""
    reasons = seen.take(b"".join(part.table.checks.identities[row] for row in part.rows))
    rows = tuple(row for row, reason in zip(part.rows, reasons, strict=True) if not reason)
    dropped = Counter(reason for reason in reasons if reason)
    skipped = dict(Counter(part.counts.skipped) + dropped)
    entry = ManifestEntry(part.entry.name, len(rows), part.entry.sha256, skipped)
    counts = SkipCounts(skipped, examples=part.counts.examples)
    return RowPart(part.table, rows, entry, counts)


def _tables_in(place: Path) -> list[Path]:
    if not place.is_dir():
        raise ValueError(
            f"--data must be a folder or a CSV file, but got {str(place)!r}. Check the path."
        )
    found = sorted(path for path in place.iterdir() if path.name.endswith(TABLE_SUFFIXES))
    if not found:
        raise ValueError(
            f"--data must hold tables ({', '.join(TABLE_SUFFIXES)}), but {str(place)!r} has none. "
            "Give a folder of CSV files, or one of them."
        )
    return found


def _checked_tables(config: CsvConfig, added: AddedTables, folder: Path) -> list[CsvTable]:
    paths = added_paths(added, folder)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"data.added must name CSV files, but there is no such file: {str(missing[0])!r}. "
            "Put it back: earlier stages were trained on it."
        )
    tables = [open_csv(config, path) for path in paths]
    num_rows = sum(len(table.lines) for table in tables)
    if num_rows != added.rows:
        raise ValueError(
            f"data.added: the tables in {added.folder!r} had {added.rows} rows, but have "
            f"{num_rows}. Put the old files back; new rows go into a table of their own."
        )
    return tables
