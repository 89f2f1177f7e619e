"""Held-out pictures that are trained on are counted by content, told, and refused in number."""

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from nas_growclip.data.added import with_new_stage
from nas_growclip.data.config import CsvConfig, FilesConfig, ScenesConfig, WebdatasetConfig
from nas_growclip.data.sources.table import open_split
from nas_growclip.data.stages import open_stages, stage_manifest
from tests.data.sources.test_webdataset import png, write_tar

SPLITS = {"train": range(64), "validation": range(48, 68), "test": range(100, 110)}
"""Sixteen of twenty validation pictures are trained on."""

SETTINGS = {"stages": (1,), "validation": "validation", "test": "test", "train": "train"}


def caption(number: int, split: str) -> str:
    return f"picture {number} as {split} calls it"


def write_shards(folder: Path, splits: dict[str, Iterable[int]]) -> WebdatasetConfig:
    for split, numbers in splits.items():
        members = []
        for place, number in enumerate(numbers):
            key = f"{split}{place:06d}"
            members += [(f"{key}.png", png((number, 0, 0)))]
            members += [(f"{key}.txt", caption(number, split).encode())]
        write_tar(folder / split / "0.tar", members)
    return WebdatasetConfig(**SETTINGS)  # type: ignore[arg-type]


def write_files(folder: Path, splits: dict[str, Iterable[int]]) -> FilesConfig:
    for split, numbers in splits.items():
        (folder / split).mkdir()
        for number in numbers:
            (folder / split / f"{number}.png").write_bytes(png((number, 0, 0)))
            (folder / split / f"{number}.txt").write_text(caption(number, split))
    return FilesConfig(**(SETTINGS | {"stages": (64,)}))  # type: ignore[arg-type]


def write_tables(folder: Path, splits: dict[str, Iterable[int]]) -> CsvConfig:
    for split, numbers in splits.items():
        rows = ["filepath\ttitle"]
        for number in numbers:
            (folder / f"{split}_{number}.png").write_bytes(png((number, 0, 0)))
            rows.append(f"{split}_{number}.png\t{caption(number, split)}")
        (folder / split).write_text("\n".join(rows) + "\n")
    return CsvConfig(**(SETTINGS | {"stages": (64,)}))  # type: ignore[arg-type]


WRITERS = pytest.mark.parametrize("write", [write_shards, write_files, write_tables])


@WRITERS
def test_too_many_leaks_stop_with_their_number(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = write(tmp_path, SPLITS)
    message = (
        r"data\.validation: 16 of 20 pairs have a picture that data\.train has too, but at most 5% "
        r"may \(data\.max_leaked_share\)\. Take them out"
    )
    with pytest.raises(ValueError, match=message):
        open_stages(config, tmp_path)


@WRITERS
def test_leaks_that_are_borne_are_told(  # type: ignore[no-untyped-def]
    write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = write(tmp_path, SPLITS)
    config = type(config)(**(vars(config) | {"max_leaked_share": 0.8}))
    with caplog.at_level(logging.WARNING):
        (stage,) = open_stages(config, tmp_path)
    told = "data.validation: 16 of 20 pairs have a picture that data.train has too"
    assert told in caplog.messages
    assert stage.leaks == {"validation": 16, "test": 0}
    assert stage_manifest(stage, config)["leaks"] == {"validation": 16, "test": 0}


def test_splits_without_a_leak_are_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_shards(tmp_path, SPLITS | {"validation": range(80, 90)})
    with caplog.at_level(logging.WARNING):
        (stage,) = open_stages(config, tmp_path)
    assert stage.leaks == {"validation": 0, "test": 0}
    assert not caplog.messages


def test_only_what_is_used_counts(tmp_path: Path) -> None:
    config = write_shards(tmp_path, SPLITS | {"validation": [*range(200, 205), *range(10)]})
    first = WebdatasetConfig(**(vars(config) | {"validation_pairs": 5}))
    assert open_stages(first, tmp_path)[0].leaks["validation"] == 0


def test_rendered_scenes_are_not_compared() -> None:
    config = ScenesConfig(stages=(8,), validation_pairs=4, test_pairs=4)
    (stage,) = open_stages(config, None)
    assert stage.leaks == {}
    assert "leaks" not in stage_manifest(stage, config)


def write_retrieval_set(folder: Path, numbers: Iterable[int]) -> None:
    members = []
    for number in numbers:
        members += [(f"{number}.png", png((number, 0, 0))), (f"{number}.txt", b"one\ntwo\n")]
    write_tar(folder / "test/0.tar", members)
    (folder / "test/nshards.txt").write_text("1")
    (folder / "dataset_type.txt").write_text("retrieval")


@pytest.mark.parametrize(("limit", "leaked"), [(0, 4), (2, 2)])
def test_retrieval_sets_are_compared_too(limit: int, leaked: int, tmp_path: Path) -> None:
    config = write_shards(tmp_path, {"train": range(8), "validation": range(20, 24)})
    write_retrieval_set(tmp_path / "test", [7, 6, 30, 31])
    changes = {"test_pairs": limit, "max_leaked_share": 1.0}
    (stage,) = open_stages(WebdatasetConfig(**(vars(config) | changes)), tmp_path)
    assert stage.leaks == {"validation": 0, "test": leaked}


def test_pictures_of_a_retrieval_set_stay_held_out_of_what_arrives(tmp_path: Path) -> None:
    config = write_shards(tmp_path, {"train": range(8), "validation": range(20, 24)})
    write_retrieval_set(tmp_path / "test", [30, 31])
    write_tar(tmp_path / "may/0.tar", [("0.png", png((31, 0, 0))), ("0.txt", b"another caption")])
    grown = with_new_stage(config, tmp_path, tmp_path / "may")
    assert grown is not None
    pairs = open_split(grown, tmp_path, "train", 2)
    assert [entry.skipped for entry in pairs.manifest] == [{}, {"held-out pair": 1}]
