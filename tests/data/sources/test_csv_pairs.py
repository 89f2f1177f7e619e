import hashlib
import random

import numpy as np
import pytest
from PIL import Image

from nas_growclip.data.config import CsvConfig
from nas_growclip.data.sources.csv_pairs import csv_pairs


def config(**kwargs):
    settings = {"train": "train.csv", "stages": (1,), "max_bad_share": 1.0} | kwargs
    return CsvConfig(**settings)


def write_csv(folder, rows, name="train.csv", header="filepath\ttitle"):
    path = folder / name
    path.write_bytes("\n".join([header, *rows, ""]).encode("utf-8", "surrogateescape"))
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for key in range(8):
        Image.new("RGB", (3, 3), (key, 0, 0)).save(tmp_path / f"images/{key}.png")
    write_csv(tmp_path, [f"images/{key}.png\tpicture {key}" for key in range(8)])
    return tmp_path


def captions(pairs, seed=None):
    return [pair.caption for pair in pairs.epoch(seed)]


def open_rows(folder, rows, **kwargs):
    write_csv(folder, rows, "other.csv")
    pairs = csv_pairs(config(train="other.csv", **kwargs), folder, "train", None)
    assert pairs.num_pairs == len(captions(pairs)) == len(captions(pairs, 1))
    return pairs


def test_rows_are_read_in_stored_order(folder):
    pairs = csv_pairs(config(), folder, "train", None)
    assert captions(pairs) == [f"picture {key}" for key in range(8)]
    assert [np.asarray(pair.image)[0, 0, 0] for pair in pairs.epoch(None)] == list(range(8))


def test_epochs_are_permutations_fixed_by_their_seed_alone(folder):
    pairs = csv_pairs(config(), folder, "train", None)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = captions(pairs, 1)
    np.random.seed(2)  # noqa: NPY002
    assert captions(pairs, 1) == first != captions(pairs, 2)
    assert sorted(first) == captions(pairs)


def test_manifest_names_the_file_and_hashes_it(folder):
    (entry,) = csv_pairs(config(), folder, "train", None).manifest
    assert (entry.name, entry.num_pairs, entry.skipped) == ("train.csv", 8, {})
    assert entry.sha256 == hashlib.sha256((folder / "train.csv").read_bytes()).hexdigest()


def test_smaller_sizes_are_contained_in_larger_ones(folder):
    small, large = (csv_pairs(config(), folder, "train", size) for size in (3, 6))
    assert captions(large)[:3] == captions(small)
    assert (small.num_pairs, large.num_pairs) == (3, 6)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("images/none.png\tcaption", "missing image"),
        ("\tcaption", "missing image"),
        ("images\tcaption", "unreadable image"),
        ("bad.png\tcaption", "unreadable image"),
        ("images/1.png\t  ", "empty caption"),
        ("images/1.png", "empty caption"),
        ("images/1.png\tcaf\udce9", "unreadable caption"),
        ("images/1.png\tone\ttwo", "malformed row"),
        (f"{'x' * 5000}\tcaption", "unreadable image"),
    ],
)
def test_bad_rows_are_skipped_and_counted(folder, row, reason):
    (folder / "bad.png").write_bytes(b"no image")
    pairs = open_rows(folder, ["images/0.png\tfirst", row, "images/2.png\tlast"])
    assert captions(pairs) == ["first", "last"]
    assert pairs.manifest[0].skipped == {reason: 1}


def test_words_that_pandas_takes_for_missing_values_are_captions(folder):
    pairs = open_rows(folder, ["images/0.png\tnull", "images/0.png\tNA", "images/0.png\t7"])
    assert captions(pairs) == ["null", "NA", "7"]


def test_paths_may_be_absolute_or_relative_to_the_csv(folder):
    row = f"{folder / 'images/4.png'}\tabsolute"
    write_csv(folder / "images", [row, "5.png\trelative"], "inner.csv")
    pairs = csv_pairs(config(train="images/inner.csv"), folder, "train", None)
    assert captions(pairs) == ["absolute", "relative"]
    assert pairs.manifest[0].name == "images/inner.csv"


def test_separator_and_columns_can_be_set(folder):
    write_csv(folder, ['1,"one, two",images/1.png'], "commas.csv", header="id,text,image")
    settings = config(
        train="commas.csv", csv_separator=",", csv_image_key="image", csv_caption_key="text"
    )
    assert captions(csv_pairs(settings, folder, "train", None)) == ["one, two"]


def test_limit_uses_the_first_usable_rows(folder):
    rows = ["none.png\tno image", *(f"images/{key}.png\tpicture {key}" for key in range(5))]
    write_csv(folder, rows, "validation.csv")
    settings = config(validation="validation.csv", validation_pairs=2)
    pairs = csv_pairs(settings, folder, "validation", None)
    assert captions(pairs) == ["picture 0", "picture 1"]
    everything = config(validation="validation.csv", validation_pairs=0)
    assert csv_pairs(everything, folder, "validation", None).num_pairs == 5


def test_image_that_changes_after_the_check_is_an_error(folder):
    pairs = csv_pairs(config(), folder, "train", None)
    (folder / "images/3.png").unlink()
    with pytest.raises(ValueError, match=r"row 4 must stay usable, but got 'missing image'"):
        captions(pairs)


@pytest.mark.parametrize(
    ("settings", "size", "message"),
    [
        ({"csv_image_key": "image"}, None, r"column 'image', but has \['filepath', 'title'\]"),
        ({"csv_separator": ","}, None, r"column 'filepath', but has \['filepath\\ttitle'\]"),
        ({}, 9, r"at most the rows there are, but got 9 and '.*train\.csv' has 8"),
        ({"train": "none.csv"}, None, r"data\.train must be a CSV file, but '.*none\.csv' is not"),
        ({"train": ""}, None, r"data\.train must name the files of source 'csv', but is empty"),
        ({"train": "empty.csv"}, None, r"empty\.csv must be a table with the separator"),
        ({"train": "header.csv"}, None, r"'header\.csv' has none \(found: nothing\)"),
        ({"train": "lost.csv"}, None, r"'lost\.csv' has none \(found: 1 x missing image\)"),
    ],
)
def test_wrong_settings_are_explained(folder, settings, size, message):
    (folder / "empty.csv").write_bytes(b"")
    write_csv(folder, [], "header.csv")
    write_csv(folder, ["lost.png\tcaption"], "lost.csv")
    with pytest.raises(ValueError, match=message):
        csv_pairs(config(**settings), folder, "train", size)


def test_data_folder_is_asked_for():
    with pytest.raises(ValueError, match=r"data\.train must know where its files are.*--data DIR"):
        csv_pairs(config(), None, "train", 1)
