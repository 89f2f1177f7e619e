"""Which members of a shard are a sample: dotted keys, named members, any image."""

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.data.sources.decoding import looks_like_image
from nas_growclip.data.sources.members import MAX_OPEN, read_samples
from nas_growclip.data.sources.table import open_folder
from nas_growclip.data.sources.webdataset import ShardPairs, shard_pairs
from tests.data.sources.test_webdataset import png, write_tar

Member = tuple[str, bytes]


def pair(key: str, number: int, suffix: str = "png") -> list[Member]:
    return [(f"{key}.{suffix}", png((number, 0, 0))), (f"{key}.txt", f"picture {number}".encode())]


def opened(folder: Path, members: list[Member], **settings: object) -> ShardPairs:
    write_tar(folder / "a.tar", members)
    config = WebdatasetConfig(stages=(1,), train=".", max_bad_share=1.0, **settings)  # type: ignore[arg-type]
    return shard_pairs(config, folder, "train")


def contents(pairs: ShardPairs) -> list[tuple[str, int]]:
    return [(p.caption, p.image.getpixel((0, 0))[0]) for p in pairs.epoch(None)]  # type: ignore[index]


NUMBERS = range(1, 25)
ALL = [(f"picture {number}", number) for number in NUMBERS]


@pytest.mark.parametrize(
    "key",
    [
        lambda n: f"item_v1.{n}" if n % 2 else f"{n:06d}",
        lambda n: f"v2.0_{n:04d}",
        lambda n: f"v1.0/{n:04d}",
        lambda n: f"a.b.c{n}",
    ],
    ids=["half dotted", "all dotted", "dotted folder", "two dots"],
)
def test_keys_may_have_dots(key, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pairs = opened(tmp_path, [m for n in NUMBERS for m in pair(key(n), n)])
    assert contents(pairs) == ALL
    assert pairs.manifest[0].skipped == {}


def test_members_may_have_names(tmp_path: Path) -> None:
    members = []
    for n in NUMBERS:
        image, text = pair("", n)
        members += [(f"{n:06d}.input.png", image[1]), (f"{n:06d}.output.txt", text[1])]
        members += [(f"{n:06d}.json", b"{}")]
    assert contents(opened(tmp_path, members)) == ALL


def test_further_members_of_a_key_are_left_alone(tmp_path: Path) -> None:
    members = []
    for n in NUMBERS:
        image, text = pair(f"{n:06d}", n)
        members += [image, (f"{n:06d}.mask.png", png((0, 0, 0))), text, (f"{n:06d}.npy", b"x")]
    pairs = opened(tmp_path, members)
    assert contents(pairs) == ALL
    assert pairs.manifest[0].skipped == {}


def test_dotted_keys_that_lost_a_member_are_not_taken_for_one_pair(tmp_path: Path) -> None:
    members = [("v1.7.png", png()), ("v1.9.txt", b"of another picture"), *pair("8", 8)]
    pairs = opened(tmp_path, members)
    assert contents(pairs) == [("picture 8", 8)]
    assert pairs.manifest[0].skipped == {"missing caption": 1, "missing image": 1}


def test_several_texts_of_one_image_are_counted(tmp_path: Path) -> None:
    members = [("1.png", png()), ("1.en.txt", b"a"), ("1.de.txt", b"b"), *pair("8", 8)]
    assert opened(tmp_path, members).manifest[0].skipped == {
        "missing caption": 1,
        "missing image": 2,
    }


def test_a_key_with_many_halves_needs_no_memory_for_all(tmp_path: Path) -> None:
    members = [(f"v1.{n}.png", b"x") for n in range(3 * MAX_OPEN)]
    write_tar(tmp_path / "a.tar", [*members, ("v2.0.png", b"y")])
    samples = read_samples(tmp_path / "a.tar")
    first = [next(samples).key for _ in range(2 * MAX_OPEN)]
    assert first == [f"v1.{n}" for n in range(2 * MAX_OPEN)]
    assert [sample.key for sample in samples][-1] == "v2.0"


def test_members_apart_are_told_with_a_way_out(tmp_path: Path) -> None:
    pairs = [pair(f"{n:06d}", n) for n in NUMBERS]
    write_tar(tmp_path / "a.tar", [p[0] for p in pairs] + [p[1] for p in pairs])
    message = r"found: 24 x members apart \(first: '000001\.txt' in a\.tar\)\).* --sort=name"
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path)


def test_shard_of_other_members_says_what_it_has(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0.npy", b"numbers"), ("0.json", b"{}")])
    with pytest.raises(ValueError, match=r"found: nothing, and members such as '0\.npy'\)"):
        open_folder(tmp_path)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP", "WEBP", "AVIF", "JPEG2000", "PPM", "QOI"])
@pytest.mark.parametrize("suffix", ["", "own", "dat"])
def test_an_image_is_known_by_its_content(kind: str, suffix: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (48, 32), (200, 30, 30)).save(file, kind)
    own = {"TIFF": "tif", "JPEG2000": "jp2"}.get(kind, kind.lower())
    ending = {"own": own, "": "jpg", "dat": "dat"}[suffix]
    assert looks_like_image(file.getvalue())
    pairs = opened(tmp_path, [(f"0.{ending}", file.getvalue()), ("0.txt", b"red")])
    (only,) = pairs.epoch(None)
    assert only.image.size == (48, 32)
    assert abs(only.image.getpixel((20, 20))[0] - 200) < 12  # type: ignore[index]


@pytest.mark.parametrize("data", [b"", b"{}", b"text", b"\x93NUMPY", b"%!PS-Adobe", b"<svg/>"])
def test_what_is_no_image_is_not_taken_for_one(data: bytes) -> None:
    assert not looks_like_image(data)


def test_preferred_suffix_is_taken_of_several_images(tmp_path: Path) -> None:
    members = [("0.gif", png((9, 0, 0))), ("0.jpg", png((7, 0, 0))), ("0.txt", b"seven")]
    assert contents(opened(tmp_path, members)) == [("seven", 7)]


@pytest.mark.parametrize(
    ("settings", "suffix", "encode"),
    [
        ({"caption_suffix": "caption"}, "caption", lambda text: text.encode()),
        ({"caption_suffix": "output.txt"}, "output.txt", lambda text: text.encode()),
        ({"caption_suffix": "json"}, "json", lambda t: json.dumps({"caption": t}).encode()),
        (
            {"caption_suffix": "json", "caption_json_key": "text"},
            "json",
            lambda t: json.dumps({"caption": "other", "text": t}).encode(),
        ),
    ],
)
def test_captions_may_be_in_other_members(settings, suffix, encode, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    members = []
    for n in NUMBERS:
        members += [pair(f"{n}", n)[0], (f"{n}.{suffix}", encode(f"picture {n}"))]
    assert contents(opened(tmp_path, members, **settings)) == ALL


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{}", "missing caption"),
        (b'{"caption": null}', "missing caption"),
        (b"[1]", "missing caption"),
        (b'{"caption": 3}', "unreadable caption"),
        (b'{"caption": ', "unreadable caption"),
        (b'{"caption": " "}', "empty caption"),
        (b"[" * 100_000, "unreadable caption"),
    ],
)
def test_values_that_are_no_captions_are_counted(data: bytes, reason: str, tmp_path: Path) -> None:
    good = [("1.png", png()), ("1.json", b'{"caption": "good"}')]
    pairs = opened(tmp_path, [("0.png", png()), ("0.json", data), *good], caption_suffix="json")
    assert pairs.manifest[0].skipped == {reason: 1}


def test_second_image_of_a_suffix_is_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0.png", png()), ("0.png", png()), ("0.txt", b"a")])
    faults = Counter[str]()
    assert len(list(read_samples(tmp_path / "a.tar", faults=faults))) == 1
    assert faults == {"duplicate key": 1}
