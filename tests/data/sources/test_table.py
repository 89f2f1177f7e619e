import io
import tarfile
import typing

import numpy as np
import pytest
from PIL import Image

from nas_growclip.data.config import (
    CsvConfig,
    DataConfig,
    FilesConfig,
    ScenesConfig,
    WebdatasetConfig,
)
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.sources.table import SOURCES, open_folder, open_place, open_split

SMALL, LARGE = 1, 3

SIZES = {"stages": (SMALL, LARGE), "validation_pairs": 2, "test_pairs": 3}
SPLITS = ("train", "validation", "test")
CONFIGS: dict[str, DataConfig] = {
    "scenes": ScenesConfig(**SIZES),
    "webdataset": WebdatasetConfig(**SIZES, **dict.fromkeys(SPLITS, "{0..2}.tar")),
    "files": FilesConfig(**SIZES, **dict.fromkeys(SPLITS, ".")),
    "csv": CsvConfig(**SIZES, **{name: f"{name}.csv" for name in SPLITS}),
}


@pytest.fixture
def folder(tmp_path):
    """Three shards of four pairs, a CSV file of twelve rows, and twelve files with captions."""
    rows = ["filepath\ttitle"]
    for shard in range(3):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for key in range(4 * shard, 4 * shard + 4):
                image = tmp_path / f"{key}.png"
                Image.new("RGB", (5, 5), (20 * key, 0, 0)).save(image)
                archive.add(image, f"{key}.png")
                text = tarfile.TarInfo(f"{key}.txt")
                text.size = 2
                (tmp_path / f"{key}.txt").write_text(f"{key:02d}")
                archive.addfile(text, io.BytesIO(f"{key:02d}".encode()))
                rows.append(f"{key}.png\t{key:02d}")
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture(params=sorted(SOURCES))
def opened(request, folder):
    """Opens a split of each source."""
    config = CONFIGS[request.param]
    return lambda split, size=None: open_split(config, folder, split, size)


def contents(pairs, seed=None):
    return [(np.asarray(pair.image).tobytes(), pair.caption) for pair in pairs.epoch(seed)]


def test_source_yields_rgb_images_with_captions(opened):
    pairs = opened("train", LARGE)
    assert isinstance(pairs, ImageTextPairs)
    for pair in pairs.epoch(None):
        assert pair.image.mode == "RGB"
        assert pair.caption == pair.caption.strip() != ""


def test_epoch_yields_every_pair_once(opened):
    pairs = opened("train", LARGE)
    stored = contents(pairs)
    assert len(stored) == pairs.num_pairs
    assert sorted(contents(pairs, 7)) == sorted(stored)


def test_order_depends_on_the_seed_alone(opened):
    pairs = opened("train", LARGE)
    assert contents(pairs, 7) == contents(opened("train", LARGE), 7)
    orders = {tuple(contents(pairs, seed)) for seed in range(8)}
    assert len(orders) > 1


@pytest.mark.parametrize("seed", [None, 7])
def test_only_wanted_pairs_are_given_in_the_same_order(opened, seed):
    pairs = opened("train", LARGE)
    wanted = [
        (np.asarray(pair.image).tobytes(), pair.caption)
        for pair in pairs.epoch(seed, lambda place: place % 3 == 1)
    ]
    assert wanted == contents(pairs, seed)[1::3]


def test_two_epochs_can_be_read_at_once(opened):
    pairs = opened("train", LARGE)
    both = list(zip(pairs.epoch(3), pairs.epoch(3), strict=True))
    assert [first.caption for first, _ in both] == [second.caption for _, second in both]


def test_stages_are_nested(opened):
    small, large = contents(opened("train", SMALL)), contents(opened("train", LARGE))
    assert 0 < len(small) < len(large)
    assert large[: len(small)] == small


def test_validation_and_test_have_the_size_of_the_settings(opened):
    assert opened("validation").num_pairs == len(contents(opened("validation"))) == 2
    assert opened("test").num_pairs == len(contents(opened("test"))) == 3


def test_manifest_adds_up(opened):
    pairs = opened("train", LARGE)
    assert sum(entry.num_pairs for entry in pairs.manifest) == pairs.num_pairs
    for entry in pairs.manifest:
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.name


def test_folder_is_opened_without_settings(folder):
    stored = contents(open_folder(folder))
    assert [caption for _, caption in stored] == [f"{key:02d}" for key in range(12)]
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"--data must name tar files, .* in '.*/empty': no shard"):
        open_folder(folder / "empty")


def test_every_source_has_settings_of_its_own():
    assert set(CONFIGS) == set(SOURCES)
    assert {typing.get_type_hints(kind)["source"] for kind in typing.get_args(DataConfig)} == {
        typing.Literal[name] for name in SOURCES
    }


def test_table_is_opened_without_settings(folder):
    assert [caption for _, caption in contents(open_place(folder / "test.csv"))] == [
        f"{key:02d}" for key in range(12)
    ]
    assert contents(open_place(folder)) == contents(open_folder(folder))
