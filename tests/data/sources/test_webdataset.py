import gzip
import hashlib
import io
import itertools
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.data.sources import webdataset
from nas_growclip.data.sources.decoding import decode_caption, decode_image
from nas_growclip.data.sources.members import read_samples
from nas_growclip.data.sources.shard_names import shard_paths
from nas_growclip.data.sources.webdataset import shard_pairs

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def png(colour=(200, 30, 30), size=(6, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def members(start, count):
    for key in range(start, start + count):
        yield f"{key:09d}.json", b"{}"
        yield f"{key:09d}.png", png((key % 256, 0, 0))
        yield f"{key:09d}.txt", f"picture {key}".encode()


def write_shards(folder, num_shards=3, per_shard=5):
    for shard in range(num_shards):
        write_tar(folder / f"{shard:05d}.tar", members(shard * per_shard, per_shard))


def config(train="{00000..00002}.tar", **kwargs):
    settings = {"stages": (1,), "train": train, "max_bad_share": 1.0} | kwargs
    return WebdatasetConfig(**settings)


def open_train(folder, train, size=None):
    return shard_pairs(config(train), folder, "train", size)


def captions(pairs, seed=None):
    return [pair.caption for pair in pairs.epoch(seed)]


def open_beside_good(tmp_path, bad_members=None, data=None):
    """One good shard, then one with these members or bytes."""
    write_tar(tmp_path / "a.tar", members(0, 2))
    if data is None:
        write_tar(tmp_path / "b.tar", bad_members)
    else:
        (tmp_path / "b.tar").write_bytes(data)
    pairs = open_train(tmp_path, "*.tar")
    assert pairs.num_pairs == len(captions(pairs)) == len(captions(pairs, 3))
    return pairs


def test_stored_order_is_the_order_of_the_files(tmp_path):
    write_shards(tmp_path)
    pairs = open_train(tmp_path, "{00000..00002}.tar")
    assert captions(pairs) == [f"picture {key}" for key in range(15)]
    assert [np.asarray(pair.image)[0, 0, 0] for pair in pairs.epoch(None)] == list(range(15))


def test_epochs_are_permutations_fixed_by_their_seed_alone(tmp_path):
    write_shards(tmp_path)
    pairs = open_train(tmp_path, "*.tar")
    random.seed(1)
    first = captions(pairs, 1)
    random.seed(2)
    assert captions(pairs, 1) == first != captions(pairs, 2)
    assert sorted(first) == sorted(captions(pairs))


def test_small_buffer_still_yields_every_pair_once(tmp_path):
    write_shards(tmp_path)
    pairs = shard_pairs(config("*.tar", shuffle_buffer=2), tmp_path, "train", None)
    assert sorted(captions(pairs, 5)) == sorted(captions(pairs))


def test_smaller_sizes_are_contained_in_larger_ones(tmp_path):
    write_shards(tmp_path)
    small, large = (open_train(tmp_path, "*.tar", size) for size in (1, 3))
    assert captions(large)[: small.num_pairs] == captions(small)
    assert large.manifest[:1] == small.manifest


def test_manifest_names_files_and_hashes_them(tmp_path):
    write_shards(tmp_path / "train")
    entry = open_train(tmp_path, "train").manifest[1]
    assert entry.name == "train/00001.tar"
    assert entry.num_pairs == 5
    content = (tmp_path / "train/00001.tar").read_bytes()
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert entry.skipped == {}


AWKWARD = [
    *members(0, 3),
    ("6.txt", b"before its image"),
    ("6.png", png()),
    ("7.json", b"{}"),
    ("7.png", png()[:40]),
    ("7.txt", b"cut"),
    (f"{'long' * 60}/8.png", png()),
    (f"{'long' * 60}/8.txt", b"in a long folder"),
    ("9.input.png", png()),
    ("9.output.txt", b"named apart"),
]


def test_gzipped_shards_are_read_as_plain_ones(tmp_path):
    """One is read from its beginning, the other where its pairs are."""
    write_tar(tmp_path / "a.tar.gz", AWKWARD, "w:gz")
    write_tar(tmp_path / "b.tar", AWKWARD)
    streamed, located = (open_train(tmp_path, pattern) for pattern in ("*.tar.gz", "*.tar"))
    assert streamed.manifest[0].skipped == located.manifest[0].skipped == {"unreadable image": 1}
    for seed in (None, 4):
        assert captions(streamed, seed) == captions(located, seed)
        for one, other in zip(streamed.epoch(seed), located.epoch(seed), strict=True):
            assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
    assert "before its image" in captions(located)


@pytest.mark.parametrize("seed", [None, 4])
def test_what_is_not_wanted_is_not_read(tmp_path, monkeypatch, seed):
    write_shards(tmp_path)
    pairs = open_train(tmp_path, "*.tar")
    whole = captions(pairs, seed)
    found, read = [], webdataset._OpenShards.read

    def noted(files, located):
        found.append(located)
        return read(files, located)

    monkeypatch.setattr(webdataset._OpenShards, "read", noted)
    monkeypatch.setattr(webdataset, "read_samples", None)
    some = [pair.caption for pair in pairs.epoch(seed, lambda place: place % 4 == 1)]
    assert some == whole[1::4]
    assert len(found) == len(some)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([("9.png", png()), ("9.txt", b" \n")], "empty caption"),
        ([("9.png", png())], "missing caption"),
        ([("9.png", png()), ("9.cls", b"3")], "missing caption"),
        ([("9.txt", b"alone"), ("9.json", b"{}")], "missing image"),
        ([("9.png", png()), ("9.txt", b"\xff\xfe\xfa")], "unreadable caption"),
        ([("9.png", png()[:40]), ("9.txt", b"cut")], "unreadable image"),
        ([("9.png", b""), ("9.txt", b"none")], "unreadable image"),
        ([("9.jpg", b"not an image"), ("9.txt", b"text")], "unreadable image"),
    ],
)
def test_bad_pairs_are_skipped_and_counted(tmp_path, bad, reason):
    pairs = open_beside_good(tmp_path, [*bad, *members(10, 1)])
    assert pairs.num_pairs == 3
    assert pairs.manifest[1].skipped == {reason: 1}


def test_duplicate_keys_keep_the_first_and_are_counted(tmp_path):
    pairs = open_beside_good(tmp_path, [*members(7, 1), *members(7, 1), *members(8, 1)])
    assert captions(pairs)[2:] == ["picture 7", "picture 8"]
    assert pairs.manifest[1].skipped == {"duplicate key": 1}


@pytest.mark.parametrize("data", [b"", b"this is no tar file" * 100])
def test_unreadable_shard_is_counted_and_skipped(tmp_path, data):
    entry = open_beside_good(tmp_path, data=data).manifest[1]
    assert (entry.num_pairs, entry.skipped) == (0, {"unreadable shard": 1})


def test_shard_without_members_is_counted(tmp_path):
    assert open_beside_good(tmp_path, []).manifest[1].skipped == {"empty shard": 1}


def test_shard_cut_off_anywhere_gives_its_whole_pairs(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", members(10, 2)).read_bytes()
    one_pair = 6 * 512
    for number, cut in enumerate(range(256, 2 * one_pair + 1, 256)):
        path = tmp_path / str(number)
        path.mkdir()
        entry = open_beside_good(path, data=whole[:cut]).manifest[1]
        assert entry.num_pairs == (cut >= one_pair - 512 + 10) + (cut >= 2 * one_pair - 512 + 10)
        assert "truncated shard" in entry.skipped or "unreadable shard" in entry.skipped


def test_header_broken_in_the_middle_is_noticed(tmp_path):
    whole = bytearray(write_tar(tmp_path / "whole.bin", members(10, 2)).read_bytes())
    whole[6 * 512 : 6 * 512 + 100] = b"x" * 100
    entry = open_beside_good(tmp_path, data=bytes(whole)).manifest[1]
    assert (entry.num_pairs, entry.skipped) == (1, {"truncated shard": 1})


def test_cut_off_gzip_gives_what_can_be_read(tmp_path):
    plain = write_tar(tmp_path / "whole.bin", members(10, 50)).read_bytes()
    noise = random.Random(0).randbytes(4096)
    data = gzip.compress(plain[:-10240] + noise, compresslevel=1)
    entry = open_beside_good(tmp_path, data=data[: len(data) // 2]).manifest[1]
    assert entry.skipped["truncated shard"] == 1


def test_same_key_in_a_cut_shard_and_the_next_one_is_not_mixed(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.png", png())])
    cut = (tmp_path / "a.tar").read_bytes()[:1024]
    (tmp_path / "a.tar").write_bytes(cut)
    write_tar(tmp_path / "b.tar", [("0.txt", b"of another image"), *members(1, 1)])
    pairs = open_train(tmp_path, "*.tar")
    assert captions(pairs) == ["picture 1"]


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "LA", "P", "1", "I;16", "RGB", "YCbCr"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 32896, np.uint16))
    else:
        image = Image.new("RGB", (6, 4), (128, 128, 128)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    picture = decode_image(buffer.getvalue())
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    if mode not in ("1", "P"):  # those are dithered
        assert abs(np.asarray(picture).astype(int) - 128).max() <= 3


def test_transparent_pixels_become_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(buffer, "WEBP", lossless=True)
    assert np.asarray(decode_image(buffer.getvalue())).min() == 255


def test_gigantic_image_is_unreadable():
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    assert decode_image(buffer.getvalue()) == "oversized image"


def test_image_damaged_anywhere_never_raises():
    rng = random.Random(0)
    for kind, _ in itertools.product(("PNG", "JPEG", "WEBP", "GIF", "TIFF"), range(40)):
        buffer = io.BytesIO()
        Image.effect_noise((9, 7), 50).save(buffer, kind)
        data = bytearray(buffer.getvalue())
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        picture = decode_image(bytes(data))
        assert isinstance(picture, str) or picture.mode == "RGB"


def test_captions_lose_blanks_and_byte_order_mark():
    assert decode_caption(b"\xef\xbb\xbf caf\xc3\xa9 \n") == "caf\u00e9"


def test_limit_uses_the_first_usable_pairs(tmp_path):
    write_shards(tmp_path)
    settings = config(validation="*.tar", validation_pairs=7)
    pairs = shard_pairs(settings, tmp_path, "validation", None)
    assert captions(pairs) == [f"picture {key}" for key in range(7)]
    assert [entry.num_pairs for entry in pairs.manifest] == [5, 2]
    assert sorted(captions(pairs, 4)) == sorted(captions(pairs))


def test_limit_of_zero_uses_all(tmp_path):
    write_shards(tmp_path)
    settings = config(test="*.tar", test_pairs=0)
    assert shard_pairs(settings, tmp_path, "test", None).num_pairs == 15


def test_scan_is_repeated_when_a_file_changes(tmp_path):
    path = write_tar(tmp_path / "a.tar", members(0, 1))
    assert open_train(tmp_path, "a.tar").num_pairs == 1
    write_tar(path, members(0, 2))
    os.utime(path, ns=(1, 1))
    assert open_train(tmp_path, "a.tar").num_pairs == 2


def test_shard_that_changes_after_the_scan_is_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", members(0, 2))
    pairs = open_train(tmp_path, "a.tar")
    write_tar(path, [("0.png", b""), ("0.txt", b"a"), *members(1, 1)])
    with pytest.raises(ValueError, match=r"must stay so, but got 'unreadable image'"):
        captions(pairs)
    write_tar(path, members(0, 40))
    with pytest.raises(ValueError, match=r"must have 10240 bytes, but has \d+: a shard changed"):
        captions(pairs)
    path.unlink()
    with pytest.raises(ValueError, match=r"must stay readable, but: .*No such file.*Start again"):
        captions(pairs)


def test_gzipped_shard_that_changes_after_the_scan_is_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", members(0, 2), "w:gz")
    pairs = open_train(tmp_path, "a.tar.gz")
    write_tar(path, members(0, 1), "w:gz")
    with pytest.raises(ValueError, match=r"must hold 2 pairs, but got 1: a shard changed"):
        captions(pairs)


def test_files_are_closed_when_an_epoch_is_left_early(tmp_path):
    path = write_tar(tmp_path / "a#b.tar", members(0, 9))
    samples = read_samples(path)
    next(samples)
    samples.close()
    next(open_train(tmp_path, "a#b.tar").epoch(0))


def test_patterns_name_files_in_order(tmp_path):
    write_shards(tmp_path / "sub [1]", num_shards=3)
    folder = tmp_path / "sub [1]"
    names = [folder / f"{shard:05d}.tar" for shard in range(3)]
    for pattern in ("{00000..00002}.tar", "0000?.tar", "*.tar", ".", str(folder)):
        assert list(shard_paths(folder, pattern, "data.train")) == names
    assert list(shard_paths(folder, "{00000,00002}.tar", "data.train")) == names[::2]
    assert len(shard_paths(folder, "{*,00001}.tar", "data.train")) == 3
    assert len(shard_paths(tmp_path, f"{tmp_path}/s*/*.tar", "data.train")) == 3


@pytest.mark.parametrize(
    ("train", "size", "message"),
    [
        ("", None, r"data\.train must name the files of source 'webdataset', but is empty"),
        ("none/*.tar", None, r"data\.train must name tar files.*no shard"),
        ("{00000..00004}.tar", None, r"no such file: '.*00003\.tar'"),
        ("s3://bucket/{0..9}.tar", None, r"but 's3://bucket/0\.tar' is an address.*mount"),
        ("pipe:cat 00000.tar", None, r"but 'pipe:cat 00000\.tar' is an address"),
        ("{00000..00004.tar", None, r"data\.train must be a valid brace pattern"),
        ("*.tar", 4, r"at most the shards there are, but got 4 and data\.train '\*\.tar' names 3"),
    ],
)
def test_wrong_settings_are_explained(tmp_path, train, size, message):
    write_shards(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_train(tmp_path, train, size)


def test_data_folder_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"Pass `--data DIR`"):
        shard_pairs(config(), None, "train", 1)
    with pytest.raises(ValueError, match=r"--data must be a folder, but got"):
        shard_pairs(config(), tmp_path / "absent", "train", 1)


def test_split_without_a_usable_pair_says_what_was_found(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.png", png()), ("1.txt", b"alone")])
    (tmp_path / "b.tar").write_bytes(b"")
    message = (
        r"data\.train must hold one usable pair or more, but '\*\.tar' has none "
        r"\(found: 1 x missing caption \(first: '0\.png' in a\.tar\), 1 x missing image "
        r"\(first: '1\.txt' in a\.tar\), 1 x unreadable shard \(first: '.*/b\.tar'\)\)"
    )
    with pytest.raises(ValueError, match=message):
        open_train(tmp_path, "*.tar")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data folder, which is absent")
def test_shared_pairs_open():
    pairs = open_train(SHARED, "pairs/train/{00000..00015}.tar", 1)
    assert pairs.num_pairs == 1000
    assert pairs.manifest[0].skipped == {}
    assert len(set(captions(pairs, 0)[:50])) > 20
