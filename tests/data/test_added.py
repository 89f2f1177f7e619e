"""Data that arrives later: what is new is said by content, for shards and for tables."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from nas_growclip.data.added import growing, is_from, with_new_stage
from nas_growclip.data.config import AddedTables, CsvConfig, FilesConfig, WebdatasetConfig
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.sources.table import open_split
from tests.data.sources.test_webdataset import png, write_tar


def captions(pairs: ImageTextPairs) -> list[str]:
    return [pair.caption for pair in pairs.epoch(None)]


def write_table(path: Path, numbers: Iterable[int]) -> Path:
    """Rows that differ from other tables' by what is in them alone: names begin from 0 again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["filepath\ttitle"]
    for place, number in enumerate(numbers):
        image = path.parent / f"{path.stem}_{place}.png"
        image.write_bytes(png((number % 256, number // 256, 0)))
        rows.append(f"{image.name}\tpicture {number}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    write_table(tmp_path / "train.csv", range(8))
    write_table(tmp_path / "validation.csv", range(100, 104))
    write_table(tmp_path / "test.csv", range(200, 204))
    return tmp_path


CSV = CsvConfig(stages=(4, 8), train="train.csv", validation="validation.csv", test="test.csv")


def write_shard(path: Path, numbers: Iterable[int]) -> None:
    """A writer that begins its keys from 0 in every shard."""
    members = []
    for place, number in enumerate(numbers):
        members += [(f"sample{place:06d}.png", png((number, 0, 0)))]
        members += [(f"sample{place:06d}.txt", f"picture {number}".encode())]
    write_tar(path, members)


@pytest.mark.parametrize("place", ["train", "may"])
def test_keys_that_begin_again_in_every_shard_drop_nothing(place: str, tmp_path: Path) -> None:
    for split, first in (("train", 0), ("validation", 100), ("test", 120)):
        write_shard(tmp_path / split / "shard-000000.tar", range(first, first + 16))
    for shard in (1, 2):
        write_shard(tmp_path / place / f"shard-{shard:06d}.tar", range(16 * shard, 16 * shard + 16))
    config = WebdatasetConfig(
        stages=(1,), train="train/shard-000000.tar", validation="validation", test="test"
    )
    grown = with_new_stage(config, tmp_path, tmp_path / place)
    assert grown is not None
    assert grown.stages == (1, 3)
    pairs = open_split(grown, tmp_path, "train", 3)
    assert captions(pairs) == [f"picture {number}" for number in range(48)]
    assert [entry.skipped for entry in pairs.manifest] == [{}] * 3


def test_table_that_arrives_is_one_stage_more(tables: Path) -> None:
    write_table(tables / "may/new.csv", [*range(2), *range(20, 26), 100, 24])
    grown = with_new_stage(CSV, tables, tables / "may")
    assert grown == replace(
        CSV,
        stages=(4, 8, 18),
        added=(AddedTables(folder="may", tables=("new.csv",), rows=10),),
    )
    pairs = open_split(grown, tables, "train", 18)
    assert captions(pairs) == [f"picture {n}" for n in (*range(8), *range(20, 26))]
    assert sorted(captions(pairs)) == sorted(p.caption for p in pairs.epoch(3))
    own, new = pairs.manifest
    assert (own.name, own.skipped) == ("train.csv", {})
    assert (new.name, new.num_pairs) == ("may/new.csv", 6)
    assert new.skipped == {"seen pair": 3, "held-out pair": 1}
    assert captions(open_split(grown, tables, "train", 8)) == [f"picture {n}" for n in range(8)]
    assert captions(open_split(grown, tables, "train", 4)) == [f"picture {n}" for n in range(4)]


def test_tables_follow_one_another(tables: Path) -> None:
    config: CsvConfig | None = CSV
    for month, first in (("may", 20), ("june", 30)):
        write_table(tables / month / "a.csv", range(first, first + 3))
        write_table(tables / month / "b.csv", range(first + 3, first + 5))
        grown = with_new_stage(config, tables, tables / month)  # type: ignore[arg-type]
        assert isinstance(grown, CsvConfig)
        config = grown
    assert config is not None
    assert config.stages == (4, 8, 13, 18)
    assert open_split(config, tables, "train", 18).num_pairs == 18
    assert open_split(config, tables, "train", 13).num_pairs == 13
    assert with_new_stage(config, tables, tables / "may") is None
    assert with_new_stage(config, tables, tables) is None


def test_one_table_may_be_named(tables: Path) -> None:
    path = write_table(tables / "may/new.csv", range(20, 24))
    write_table(tables / "may/other.csv", range(30, 34))
    grown = with_new_stage(CSV, tables, path)
    assert grown is not None
    (added,) = grown.added
    assert added == AddedTables(folder="may", tables=("new.csv",), rows=4)
    assert is_from(added, tables, path)
    assert is_from(added, tables, tables / "may")
    assert not is_from(added, tables, tables / "may/other.csv")
    assert not is_from(added, tables, tables)


def test_table_that_changed_or_is_gone_is_told(tables: Path) -> None:
    path = write_table(tables / "may/new.csv", range(20, 24))
    grown = with_new_stage(CSV, tables, path)
    assert grown is not None
    write_table(path, range(20, 25))
    with pytest.raises(ValueError, match=r"the tables in 'may' had 4 rows, but have 5\. Put the"):
        open_split(grown, tables, "train", 12)
    path.unlink()
    with pytest.raises(ValueError, match=r"data\.added must name CSV files.*new\.csv'\. Put it"):
        open_split(grown, tables, "train", 12)


def test_too_many_bad_rows_in_a_new_table_are_refused(tables: Path) -> None:
    path = write_table(tables / "may/new.csv", range(20, 24))
    (tables / "may/new_0.png").unlink()
    grown = with_new_stage(CSV, tables, path)
    assert grown is not None
    with pytest.raises(ValueError, match=r"data\.added \('may/new\.csv'\): at most 20% may be bad"):
        open_split(grown, tables, "train", 12)


def test_place_without_tables_is_refused(tables: Path) -> None:
    (tables / "empty").mkdir()
    with pytest.raises(ValueError, match=r"--data must hold tables \(\.csv, \.tsv\), but"):
        with_new_stage(CSV, tables, tables / "empty")
    with pytest.raises(ValueError, match=r"--data must be a folder or a CSV file, but got"):
        with_new_stage(CSV, tables, tables / "none")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((8,), "added: must leave one stage of the experiment's own or more"),
        ((8, 11), "stages grow from 8 to 11 rows, so 'may' must list 3, but lists 4"),
    ],
)
def test_added_tables_must_fit_the_stages(stages: tuple[int, ...], message: str) -> None:
    added = (AddedTables(folder="may", tables=("new.csv",), rows=4),)
    with pytest.raises(ValueError, match=message):
        CsvConfig(stages=stages, added=added)


def test_other_sources_do_not_grow() -> None:
    with pytest.raises(ValueError, match=r"must be 'webdataset' or 'csv' to be continued, but is"):
        growing(FilesConfig(stages=(1,)))
