import hashlib
import random
from dataclasses import replace

import numpy as np
import pandas
import pytest
from PIL import Image

from nas_growclip.data.config import CsvConfig
from nas_growclip.data.sources.csv_pairs import csv_pairs
from nas_growclip.data.sources.csv_table import MISSING_VALUES


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
        ("images/none.png\tcaption", "missing file"),
        ("nan\tcaption", "missing image"),
        ("https://example.org/1.png\tcaption", "address, no file"),
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


def test_missing_values_are_those_of_pandas(folder):
    words = [*MISSING_VALUES, "7", "nothing", "naN", "none", " NA", "not NA", '"NA"']
    rows = [f"images/0.png\t{word}" for word in words]
    write_csv(folder, rows, "other.csv")
    read = pandas.read_csv(folder / "other.csv", sep="\t", dtype={"title": str})
    expected = read["title"].dropna()
    pairs = open_rows(folder, rows)
    assert captions(pairs) == [caption.strip() for caption in expected]
    assert pairs.manifest[0].skipped == {"empty caption": len(words) - len(expected)}


@pytest.mark.parametrize("path", ["images\\3.png", ".\\images\\3.png"])
def test_backslashes_of_windows_are_slashes(folder, path):
    pairs = open_rows(folder, [f"{path}\tthree"])
    assert [np.asarray(pair.image)[0, 0, 0] for pair in pairs.epoch(None)] == [3]


def test_file_whose_name_has_a_backslash_is_found(folder):
    (folder / "images/3.png").rename(folder / "a\\3.png")
    assert captions(open_rows(folder, ["a\\3.png\tthree"])) == ["three"]


def test_unclosed_quote_is_told_with_its_line(folder):
    rows = [f"images/{key}.png\tpicture {key}" for key in range(4)]
    rows[2] = 'images/2.png\t"an unclosed quote'
    write_csv(folder, rows, "other.csv")
    settings = config(train="other.csv")
    message = r"got 4 and '.*other\.csv' has 3 beside 1 malformed ones \(line 4: .*never closed\)"
    with pytest.raises(ValueError, match=message):
        csv_pairs(settings, folder, "train", 4)
    message = r"1 x malformed row \(first: .*other\.csv, line 4\)\).* two for one that is meant"
    with pytest.raises(ValueError, match=message):
        csv_pairs(replace(settings, max_bad_share=0.1), folder, "train")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_table_of_another_encoding_is_told(folder, encoding):
    (folder / "other.csv").write_bytes("filepath\ttitle\n0.png\tcaf\u00e9\n".encode(encoding))
    with pytest.raises(ValueError, match=r"must be UTF-8, but begins with b'.*as UTF-16.*iconv"):
        csv_pairs(config(train="other.csv"), folder, "train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/0.png\tcaf\udce9", r"first: b'caf\\xe9' in .*other\.csv, line 2\).*UTF-8.*iconv"),
        ("https://a.org/0.png\tx", r"first: 'https://a\.org/0\.png' in .*line 2.*not fetched"),
        ("0.png\tx", r"first: '.*/inner/0\.png' in .*line 2.*start at the folder of the table"),
    ],
)
def test_what_is_wrong_with_every_row_is_told_once_with_its_place(folder, row, message):
    (folder / "inner").mkdir()
    (folder / "inner/images").symlink_to(folder / "images")
    write_csv(folder / "inner", [row, row], "other.csv")
    with pytest.raises(ValueError, match=message):
        csv_pairs(config(train="inner/other.csv"), folder, "train")


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
    with pytest.raises(
        ValueError, match=r"train\.csv, line 5 must stay usable, but got 'missing file'"
    ):
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
        ({"train": "lost.csv"}, None, r"'lost\.csv' has none \(found: 1 x missing file"),
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
