"""CLIP_benchmark's retrieval sets: an image and a file with a caption a line."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.data.named_sets import find_named_sets, open_named_set
from nas_growclip.data.retrieval_set import RetrievalSet, folder_retrieval_set
from nas_growclip.data.sources.table import open_split
from tests.data.test_zero_shot import write_shard


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "wds_flickr"
    (path / "test").mkdir(parents=True)
    (path / "dataset_type.txt").write_text("retrieval\n")
    (path / "test/nshards.txt").write_text("2\n")
    write_shard(path / "test/0.tar", [("s0.png", picture(0)), ("s0.txt", b"a\nb\r\n\n c \n")])
    write_shard(path / "test/1.tar", [("s1.txt", b"d"), ("s1.png", picture(200))])
    return path


def test_each_line_is_a_caption_of_the_image(folder: Path) -> None:
    found = open_named_set(folder)
    assert isinstance(found, RetrievalSet)
    assert found.name == "flickr"
    pairs = list(found.pairs.epoch(None))
    assert found.pairs.num_pairs == len(pairs) == 4
    assert [pair.caption for pair in pairs] == ["a", "b", "c", "d"]
    assert [pair.image.getpixel((0, 0))[0] for pair in pairs] == [0, 0, 0, 200]
    assert len({pair.image_id for pair in pairs[:3]}) == 1
    assert pairs[3].image_id != pairs[0].image_id
    assert found.skipped == {}
    wanted = list(found.pairs.epoch(None, lambda place: place in (1, 3)))
    assert [pair.caption for pair in wanted] == ["b", "d"]


def test_captions_are_those_that_splitlines_gives(folder: Path) -> None:
    """As CLIP_benchmark reads them: ``str.splitlines`` of a sample's text."""
    text = "one\r\ntwo\x0bthree\u2028four\n"
    write_shard(folder / "test/1.tar", [("s1.txt", text.encode()), ("s1.png", picture(200))])
    found = [pair.caption for pair in open_named_set(folder).pairs.epoch(None)]
    assert found[3:] == text.splitlines() == ["one", "two", "three", "four"]


def test_a_held_out_split_may_be_a_retrieval_set(folder: Path) -> None:
    for files in ("wds_flickr", "wds_flickr/test"):
        config = WebdatasetConfig(stages=(1,), test=files, test_pairs=2)
        pairs = open_split(config, folder.parent, "test")
        assert [pair.caption for pair in pairs.epoch(None)] == ["a", "b"]
        everything = open_split(replace(config, test_pairs=0), folder.parent, "test")
        assert everything.num_pairs == 4


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("s1.png", picture(9))], "missing caption"),
        ([("s1.png", picture(9)), ("s1.txt", b" \n\n")], "empty caption"),
        ([("s1.png", picture(9)), ("s1.txt", b"\xff\xfe")], "unreadable caption"),
        ([("s1.png", picture(9)), ("s1.txt", b"a\n" * 40_000)], "oversized caption"),
        ([("s1.txt", b"a")], "missing image"),
        ([("s1.png", b"broken"), ("s1.txt", b"a")], "unreadable image"),
    ],
)
def test_bad_images_are_left_out_and_counted(
    folder: Path, members: list[tuple[str, bytes]], reason: str
) -> None:
    write_shard(folder / "test/1.tar", members)
    found = folder_retrieval_set(folder, max_bad_share=1)
    assert found.skipped == {reason: 1}
    assert [pair.caption for pair in found.pairs.epoch(None)] == ["a", "b", "c"]


def test_a_set_without_a_usable_image_is_an_error(folder: Path) -> None:
    for name in ("0", "1"):
        write_shard(folder / f"test/{name}.tar", [("s0.png", picture(1))])
    with pytest.raises(ValueError, match=r"one usable image or more.*'missing caption': 2"):
        folder_retrieval_set(folder)


def test_too_many_bad_images_are_an_error(folder: Path) -> None:
    write_shard(folder / "test/1.tar", [("s1.png", picture(1))])
    with pytest.raises(ValueError, match="at most 20% may be bad"):
        folder_retrieval_set(folder)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("s1.txt", b"d\ne"), ("s1.png", picture(200))], "must hold 1 captions, but got 2"),
        ([("s1.txt", b"d"), ("s1.png", b"broken")], "but got 'unreadable image'"),
        ([("s1.png", picture(200))], "but got 'missing caption'"),
    ],
)
def test_a_set_that_changed_is_told(
    folder: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    found = folder_retrieval_set(folder)
    write_shard(folder / "test/1.tar", members)
    with pytest.raises(ValueError, match=f"{message}.*a shard changed since it was checked"):
        list(found.pairs.epoch(None))


def test_a_set_of_another_kind_is_named(folder: Path) -> None:
    (folder / "dataset_type.txt").write_text("multilabel")
    with pytest.raises(ValueError, match=r"must say 'retrieval' or 'class.*says 'multilabel'"):
        open_named_set(folder)


def test_sets_are_found_by_themselves_by_their_split_and_by_their_folder(folder: Path) -> None:
    (folder.parent / "other").mkdir()
    for place in (folder, folder / "test", folder.parent):
        assert find_named_sets(place) == (folder,)
    assert find_named_sets(folder.parent / "other") == ()
