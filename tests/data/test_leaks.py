"""Held-out pictures that are trained on are counted by content, told, and refused in number."""

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from nas_growclip.data.config import CsvConfig, FilesConfig, ScenesConfig, WebdatasetConfig
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
