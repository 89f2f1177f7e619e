"""A folder of files is a source: img2dataset's ``files`` output, and what people put beside it."""

from pathlib import Path

import pytest
from PIL import Image

from nas_growclip.data.config import FilesConfig
from nas_growclip.data.sources.files import file_pairs
from nas_growclip.data.sources.table import open_folder
from tests.data.sources.test_webdataset import png


def write_pairs(folder: Path, numbers: range, suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:09d}.{suffix}").write_bytes(png((number, 0, 0)))
        (folder / f"{number:09d}.txt").write_text(f"picture {number}")
        (folder / f"{number:09d}.json").write_text("{}")
    return folder


def config(**changes: object) -> FilesConfig:
    settings = {"stages": (4,), "train": "train", "max_bad_share": 1.0} | changes
    return FilesConfig(**settings)  # type: ignore[arg-type]


def test_folders_of_img2dataset_are_read_in_order(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train/00001", range(4, 8))
    write_pairs(tmp_path / "train/00000", range(4))
    (tmp_path / "train/00000_stats.json").write_text("{}")
    (tmp_path / "train/.hidden.png").write_bytes(png())
    pairs = file_pairs(config(), tmp_path, "train", 6)
    assert [pair.caption for pair in pairs.epoch(None)] == [f"picture {n}" for n in range(6)]
    assert [pair.image.getpixel((0, 0))[0] for pair in pairs.epoch(None)] == list(range(6))  # type: ignore[index]
    (entry,) = pairs.manifest
    assert (entry.name, entry.num_pairs, entry.skipped) == ("train", 6, {})


def test_folder_is_known_by_the_content_of_its_pairs(tmp_path: Path) -> None:
    folders = [write_pairs(tmp_path / name, range(3)) for name in ("a", "b", "c")]
    (folders[2] / "000000001.txt").write_text("another caption")
    same, copy, other = (
        file_pairs(config(train=folder.name), tmp_path, "train").manifest[0].sha256
        for folder in folders
    )
    assert same == copy != other


def test_what_lacks_a_half_is_counted_with_its_place(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "train", range(8))
    (folder / "000000001.txt").unlink()
    (folder / "000000002.png").unlink()
    (folder / "000000003.png").write_bytes(b"nothing")
    (folder / "000000004.txt").write_bytes(b"caf\xe9")
    skipped = {
        "missing caption": 1,
        "missing image": 1,
        "unreadable image": 1,
        "unreadable caption": 1,
    }
    assert file_pairs(config(), tmp_path, "train").manifest[0].skipped == skipped
    with pytest.raises(ValueError, match=r"1 x missing image \(first: '.*train/000000002'\)"):
        file_pairs(config(max_bad_share=0.1), tmp_path, "train")


def test_suffix_of_an_image_does_not_matter(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train", range(3), suffix="bin")
    assert file_pairs(config(), tmp_path, "train").num_pairs == 3


def test_captions_may_be_in_other_files(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "train", range(3))
    (folder / "000000002.json").write_text('{"caption": "of json"}')
    (folder / "000000001.caption").write_text("of caption")
    for suffix in ("caption", "json"):
        pairs = file_pairs(config(caption_suffix=suffix), tmp_path, "train")
        assert [pair.caption for pair in pairs.epoch(None)] == [f"of {suffix}"]


@pytest.mark.parametrize(
    ("train", "size", "message"),
    [
        ("none", None, r"data\.train must be a folder of KEY\.jpg and KEY\.txt, but '.*none' is"),
        ("train", 9, r"at most the pairs there are, but got 9 and '.*train' has 3"),
        (
            "empty",
            None,
            r"data\.train must hold one usable pair.*'empty' has none \(found: nothing",
        ),
        ("", None, r"data\.train must name the files of source 'files', but is empty"),
    ],
)
def test_wrong_settings_are_explained(
    train: str, size: int | None, message: str, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "train", range(3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        file_pairs(config(train=train), tmp_path, "train", size)


def test_folder_of_files_is_opened_without_settings(tmp_path: Path) -> None:
    write_pairs(tmp_path / "00000", range(5))
    assert open_folder(tmp_path).num_pairs == 5
    Image.new("RGB", (4, 4)).save(tmp_path / "alone.png")
    assert open_folder(tmp_path).num_pairs == 5
