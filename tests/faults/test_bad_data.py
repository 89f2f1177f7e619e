"""Shards, tables and zero-shot sets with every kind of fault: skipped, counted, in little memory.

One campaign writes good pairs among bad ones of each kind. It is read as training reads it.
"""

import gzip
import io
import json
import struct
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nas_growclip.cli.main import main
from nas_growclip.data.batches import fixed_batches, training_batches
from nas_growclip.data.config import CsvConfig, WebdatasetConfig
from nas_growclip.data.encoding import PairEncoder
from nas_growclip.data.pairs import Pair
from nas_growclip.data.preprocess import normalise
from nas_growclip.data.sources.csv_pairs import csv_pairs
from nas_growclip.data.sources.decoding import decode_image
from nas_growclip.data.sources.shard_scan import scan_shard
from nas_growclip.data.sources.tar import MAX_FILE_BYTES
from nas_growclip.data.sources.webdataset import shard_pairs
from nas_growclip.data.zero_shot import folder_task
from nas_growclip.io.mappings import read_mapping
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.preprocessing import Preprocessing
from nas_growclip.models.tokenizers import tokenized
from tests.support.forked_python import forking_python
from tests.support.runs import ROOT, SMOKE

MEGABYTE = 2**20

Entry = tuple[tarfile.TarInfo, bytes]


def picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def entry(name: str, data: bytes, kind: bytes = tarfile.REGTYPE, target: str = "") -> Entry:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, target
    return info, data


def pair(key: str, image: bytes, caption: bytes, suffix: str = "png") -> list[Entry]:
    return [entry(f"{key}.{suffix}", image), entry(f"{key}.txt", caption)]


def good_pair(number: int) -> list[Entry]:
    return pair(f"good{number:04d}", encoded(picture(number)), f"picture {number}".encode())


def write_shard(path: Path, entries: list[Entry], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(MEGABYTE))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def sparse_entry(name: str, size: int) -> Entry:
    """GNU's sparse file: a header alone stands for as many zeros as it says."""
    info = tarfile.TarInfo(name)
    info.pax_headers = {"GNU.sparse.map": f"0,0,{size},0", "GNU.sparse.size": str(size)}
    return info, b""


def bad_pairs() -> dict[str, list[list[Entry]]]:
    """Samples by the reason for which each is left out."""
    image = encoded(picture(0))
    return {
        "unreadable image": [
            pair("b00", image[:60], b"cut off"),
            pair("b01", b"", b"no bytes"),
            pair("b02", b"<html>404</html>", b"not an image", "jpg"),
            pair("b03", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"of a kind that starts programs"),
        ],
        "oversized image": [
            pair("b10", png_that_claims(50_000, 50_000), b"a bomb"),
            pair("b11", png_that_claims(2**31 - 1, 2**31 - 1), b"a larger bomb"),
            pair("b12", png_that_claims(10_000, 10_000), b"a smaller bomb"),
        ],
        "elongated image": [
            pair("b20", encoded(Image.new("L", (100_000, 1))), b"a line"),
            pair("b21", encoded(Image.new("L", (1, 50_000))), b"a line down"),
        ],
        "missing image": [[entry("b30.txt", b"alone")]],
        "missing caption": [[entry("b31.png", image)], [entry("b32.png", image)]],
        "empty caption": [pair("b40", image, b""), pair("b41", image, b" \n\t ")],
        "unreadable caption": [pair("b42", image, b"\xff\xfe\xfa")],
        "oversized caption": [
            pair("b43", image, b"x" * MEGABYTE),
            pair("b44", image, b"word " * (MEGABYTE // 5)),
        ],
        "unsafe name": [
            pair("../../b50", image, b"out of the folder"),
            pair("/etc/b51", image, b"anywhere"),
            pair("a/../../b52", image, b"hidden"),
        ],
        "link or device": [
            [entry("b60.png", b"", tarfile.SYMTYPE, "/etc/hostname"), entry("b60.txt", b"a link")],
            [entry("b61.png", b"", tarfile.LNKTYPE, "good0000.png"), entry("b61.txt", b"a link")],
            [entry("b62.png", b"", tarfile.CHRTYPE), entry("b62.txt", b"a device")],
            [entry("b63.png", b"", tarfile.FIFOTYPE), entry("b63.txt", b"a pipe")],
            [entry("b64.png", image), entry("b64.txt", b"", tarfile.SYMTYPE, "/etc/hostname")],
        ],
        "oversized file": [[sparse_entry("b70.png", 2**40), entry("b70.txt", b"2 TB of zeros")]],
        "duplicate key": [good_pair(0)],
    }


GOOD_AT_FIRST = 4


def shard_of_faults(path: Path) -> tuple[Path, dict[str, int], list[int]]:
    """A shard with good pairs before, between and behind all bad ones; counts; the good ones."""
    entries, numbers = [], list(range(GOOD_AT_FIRST))
    for number in numbers:
        entries += good_pair(number)
    samples = bad_pairs()
    for reason in samples:
        for sample in samples[reason]:
            number = numbers[-1] + 1
            entries += [*sample, entry(f"b{number}.json", b"{}"), *good_pair(number)]
            numbers.append(number)
    counts = {reason: len(found) for reason, found in samples.items()}
    return write_shard(path, entries), counts, numbers


def damaged_shards(folder: Path) -> dict[str, int]:
    """Files that are no whole shards; what each counts as."""
    folder.mkdir(exist_ok=True)
    whole = write_shard(folder / "whole", good_pair(900) + good_pair(901)).read_bytes()
    (folder / "whole").unlink()
    files = {
        "d0.tar": b"",
        "d1.tar": b"this is text, not a tar file\n" * 99,
        "d2.tar": encoded(picture(0)),
        "d3.tar": gzip.compress(b"text in gzip" * 99),
        "d4.tar": gzip.compress(whole)[:300],
        "d5.tar": whole[:2000],
        "d6.tar": bytes(10240),
        "d7.tar": b"BZh91AY&SY" + bytes(600),
        "d8.tar.gz": whole[:256],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {"unreadable shard": 6, "truncated shard": 2, "empty shard": 1, "missing caption": 1}


def config(**changes: object) -> WebdatasetConfig:
    settings = {"stages": (1,), "train": "*.tar*", "max_bad_share": 1.0}
    return WebdatasetConfig(**(settings | changes))  # type: ignore[arg-type]


def check_good(pairs: Iterator[Pair], numbers: list[int]) -> None:
    read = {pair.caption: np.asarray(pair.image) for pair in pairs}
    assert list(read) == [f"picture {number}" for number in numbers]
    for number in numbers:
        np.testing.assert_array_equal(read[f"picture {number}"], np.asarray(picture(number)))


def test_every_kind_of_bad_pair_is_counted_and_every_good_one_comes_through(tmp_path: Path) -> None:
    _, counts, numbers = shard_of_faults(tmp_path / "00000.tar")
    pairs = shard_pairs(config(), tmp_path, "train", 1)
    assert dict(pairs.manifest[0].skipped) == counts
    check_good(pairs.epoch(None), numbers)
    assert sorted(pair.caption for pair in pairs.epoch(3)) == sorted(
        f"picture {number}" for number in numbers
    )
    encoder = PairEncoder(
        ClipArch.preset("tiny").with_size("image.image_size", 16).image,
        lambda texts: tokenized(texts, 16),
    )
    (batch,) = fixed_batches(pairs, encoder, 1000)
    images = np.stack([np.asarray(picture(number)) for number in numbers])
    expected = normalise(images, Preprocessing())
    torch.testing.assert_close(batch.images, expected, rtol=0, atol=0)
    first = next(training_batches(pairs, encoder, len(numbers), seed=1))
    assert sorted(first.captions) == sorted(batch.captions)


def test_damaged_files_beside_a_good_shard_are_counted(tmp_path: Path) -> None:
    damage = damaged_shards(tmp_path)
    write_shard(tmp_path / "good.tar.gz", good_pair(1) + good_pair(2), "w:gz")
    pairs = shard_pairs(config(), tmp_path, "train", None)
    counts = sum((Counter(found.skipped) for found in pairs.manifest), Counter[str]())
    assert counts == damage
    check_good(pairs.epoch(None), [1, 2])


@pytest.mark.parametrize(
    ("mode", "kind", "dark"),
    [
        ("CMYK", "JPEG", 5),
        ("I;16", "PNG", 0),
        ("I;16", "TIFF", 0),
        ("F", "TIFF", 0),
        ("1", "PNG", 0),
    ],
)
def test_unusual_images_are_converted_as_pictures(mode: str, kind: str, dark: int) -> None:
    grey = np.zeros((8, 8), np.uint16)
    grey[:, 4:] = 65535
    image = Image.fromarray(grey if mode == "I;16" else (grey // 257).astype(np.uint8))
    image = image if mode == "I;16" else image.convert("RGB" if mode == "CMYK" else mode)
    image = image.convert(mode) if mode == "CMYK" else image
    read = decode_image(encoded(image, kind))
    assert isinstance(read, Image.Image)
    assert read.mode == "RGB"
    pixels = np.asarray(read)
    assert pixels[:, :3].max() <= dark
    assert pixels[:, 5:].min() >= 255 - dark


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation_is_the_picture(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    read = decode_image(data)
    assert isinstance(read, Image.Image)
    np.testing.assert_array_equal(np.asarray(read), np.asarray(frames[0]))


def test_archive_that_leads_back_to_its_own_beginning_ends(tmp_path: Path) -> None:
    entries = [*good_pair(1), entry("back.png", b"")]
    data = bytearray(write_shard(tmp_path / "a.tar", entries).read_bytes())
    place = data.index(b"back.png")
    data[place + 124 : place + 136] = b"\xff" * 4 + struct.pack(">q", -1024)
    header = data[place : place + 512]
    header[148:156] = b" " * 8
    data[place + 148 : place + 156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(data)
    scan = scan_shard(tmp_path / "a.tar")
    assert (scan.num_pairs, scan.skipped) == (1, {"truncated shard": 1})


def test_headers_that_never_end_are_not_followed(tmp_path: Path) -> None:
    chain = tarfile.TarInfo("././@LongLink")
    chain.type = tarfile.GNUTYPE_LONGNAME
    whole = write_shard(tmp_path / "a.tar", good_pair(1)).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.getmembers()
        end = archive.offset
    (tmp_path / "a.tar").write_bytes(whole[:end] + chain.tobuf() * 5000 + bytes(1024))
    scan = scan_shard(tmp_path / "a.tar")
    assert (scan.num_pairs, scan.skipped) == (1, {"truncated shard": 1})


def test_table_with_every_kind_of_fault(tmp_path: Path) -> None:
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    (tmp_path / "bomb.png").write_bytes(png_that_claims(50_000, 50_000))
    Image.new("L", (100_000, 1)).save(tmp_path / "line.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    rows = [
        b"filepath\ttitle",
        b"0.png\tpicture 0",
        b'1.png\t"never closed',
        b"1.png\tpicture 1",
        b"0.png\t" + b"x" * MEGABYTE,
        b"0.png\t" + b"word " * 20_000,
        b"bomb.png\ta bomb",
        b"line.png\ta line",
        b"huge.png\tzeros",
        b"/dev/zero\tendless",
        b"gone.png\tnot there",
        b"0.png\t\xff\xfe",
        b"0.png\tone\ttwo",
        b'2.png\t"picture 2"',
        b"",
    ]
    (tmp_path / "a.csv").write_bytes(b"\n".join(rows))
    pairs = csv_pairs(CsvConfig(stages=(1,), train="a.csv", max_bad_share=1.0), tmp_path, "train")
    check_good(pairs.epoch(None), [0, 1, 2])
    assert pairs.manifest[0].skipped == {
        "malformed row": 3,
        "oversized caption": 1,
        "oversized image": 1,
        "elongated image": 1,
        "oversized file": 1,
        "link or device": 1,
        "missing file": 1,
        "unreadable caption": 1,
    }


def zero_shot_folder(path: Path, entries: list[Entry]) -> Path:
    write_shard(path / "test" / "0.tar", entries)
    (path / "classnames.txt").write_text("cat\ndog\n")
    (path / "zeroshot_classification_templates.txt").write_text("a {c}.\n")
    (path / "test" / "nshards.txt").write_text("1\n")
    return path


def labelled(key: str, image: bytes, label: bytes) -> list[Entry]:
    return [entry(f"{key}.png", image), entry(f"{key}.cls", label)]


def test_zero_shot_set_with_every_kind_of_fault(tmp_path: Path) -> None:
    image = encoded(picture(1))
    entries = [
        *labelled("0", image, b"1"),
        *labelled("1", png_that_claims(50_000, 50_000), b"1"),
        *labelled("2", encoded(Image.new("L", (100_000, 1))), b"1"),
        *labelled("3", image, b"1" * MEGABYTE),
        *labelled("../4", image, b"1"),
        entry("5.png", b"", tarfile.SYMTYPE, "/etc/hostname"),
        entry("5.cls", b"1"),
        *labelled("0", image, b"0"),
        *labelled("6", image, b"0"),
    ]
    folder = zero_shot_folder(tmp_path / "wds_pets", entries)
    task = folder_task(folder, max_bad_share=1)
    assert task.labels == (1, 0)
    assert task.skipped == {
        "oversized image": 1,
        "elongated image": 1,
        "unreadable label": 1,
        "unsafe name": 1,
        "link or device": 1,
        "duplicate key": 1,
    }
    with pytest.raises(ValueError, match=r"at most 20% may be bad .*6 of 8 pairs are .*1 x elong"):
        folder_task(folder)
    (folder / "test" / "nshards.txt").write_text("99999999999\n")
    with pytest.raises(ValueError, match=r"1\.tar: no such file, but .* counts it"):
        folder_task(folder)


def test_too_large_a_share_of_bad_pairs_stops_with_their_counts(tmp_path: Path) -> None:
    entries = [e for number in range(7) for e in good_pair(number)]
    entries += [*pair("x", b"", b"none"), *pair("y", encoded(picture(0)), b"")]
    write_shard(tmp_path / "00000.tar", entries)
    message = (
        r"data\.train \('\*\.tar\*'\): at most 20% may be bad \(data\.max_bad_share\), but 2 of 9 "
        r"pairs are \(1 x empty caption \(first: 'y\.png' in 00000\.tar\), 1 x unreadable image "
        r"\(first: 'x\.png' in 00000\.tar\)\)\. Mend or replace the files, or "
        r"raise data\.max_bad_share"
    )
    with pytest.raises(ValueError, match=message):
        shard_pairs(config(max_bad_share=0.2), tmp_path, "train", None)
    assert shard_pairs(config(max_bad_share=0.23), tmp_path, "train", None).num_pairs == 7


def test_lost_files_count_by_themselves(tmp_path: Path) -> None:
    write_shard(tmp_path / "00000.tar", [e for n in range(50) for e in good_pair(n)])
    (tmp_path / "00001.tar").write_bytes(b"<html>503</html>")
    with pytest.raises(ValueError, match=r"but 1 of 2 files are \(1 x unreadable shard "):
        shard_pairs(config(max_bad_share=0.2), tmp_path, "train", None)


def test_share_of_bad_pairs_must_be_a_share() -> None:
    with pytest.raises(ValueError, match=r"max_bad_share: must be in \[0, 1\], but got 1\.5"):
        config(max_bad_share=1.5)


PEAK = """
import resource, sys
from pathlib import Path
from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.data.batches import PairEncoder, fixed_batches
from nas_growclip.data.sources.webdataset import shard_pairs
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.tokenizers import tokenized

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

settings = WebdatasetConfig(stages=(1,), train="*.tar*", max_bad_share=1.0)
before = peak()
pairs = shard_pairs(settings, Path(sys.argv[1]), "train", None)
encoder = PairEncoder(ClipArch.preset("mini").image, lambda texts: tokenized(texts, 16))
for batch in fixed_batches(pairs, encoder, 64):
    pass
print(pairs.num_pairs, peak() - before)
"""


def write_bombs(folder: Path) -> None:
    """What would fill tens of gigabytes if any of it were expanded or held."""
    lines = [pair(f"l{n}", encoded(Image.new("L", (90_000, 1))), b"a line") for n in range(3)]
    bombs = [pair(f"b{n}", png_that_claims(60_000, 60_000), b"a bomb") for n in range(3)]
    sparse = [sparse_entry("s.png", 2**33), entry("s.txt", b"sparse")]
    large = encoded(Image.new("L", (5_000, 4_000)))
    images = [pair(f"g{n}", large, f"large {n}".encode()) for n in range(12)]
    entries = [e for sample in (*lines, *bombs, sparse, *images) for e in sample]
    write_shard(folder / "0.tar", entries)
    with gzip.open(folder / "1.tar.gz", "wb", compresslevel=1) as file:
        name = tarfile.TarInfo("././@LongLink")
        name.type, name.size = tarfile.GNUTYPE_LONGNAME, 2**28
        file.write(name.tobuf())
        for _ in range(2**8):
            file.write(bytes(MEGABYTE))


@pytest.mark.slow
def test_memory_stays_bounded_whatever_the_shards_claim(tmp_path: Path) -> None:
    """12 images of 60 MB each in one batch, and bombs: one image at a time is in memory."""
    write_bombs(tmp_path)
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    with forking_python():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    num_pairs, megabytes = map(int, done.stdout.split())
    assert num_pairs == 12
    assert megabytes < 300


@pytest.mark.slow
def test_whole_run_on_bad_shards_ends_and_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    _, counts, numbers = shard_of_faults(data / "train" / "00000.tar")
    for split in ("validation", "test"):
        first = 500 if split == "validation" else 600
        entries = [e for n in range(first, first + 8) for e in good_pair(n)]
        write_shard(data / f"{split}.tar", entries)
    experiment = dict(read_mapping(SMOKE))
    experiment |= {
        "passes": 1.0,
        "data": {
            "source": "webdataset",
            "stages": [1],
            "train": "train",
            "validation": "validation.tar",
            "test": "test.tar",
            "max_bad_share": 0.5,
        },
        "metrics": ["loss"],
        "train": {"batch_size": 8, "warmup_steps": 1},
        "search": {"num_trials": 1},
    }
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(experiment))
    command = ["run", str(path), "--data", str(data), "--device", "cpu", "--out"]
    assert main([*command, str(tmp_path / "run")]) == 0
    (line,) = (tmp_path / "run" / "stages.jsonl").read_text().splitlines()
    stage = json.loads(line)
    assert stage["num_pairs"] == len(numbers)
    assert stage["skipped"] == dict(sorted(counts.items()))

    capsys.readouterr()
    experiment["data"]["max_bad_share"] = 0.05
    path.write_text(yaml.safe_dump(experiment))
    assert main([*command, str(tmp_path / "refused")]) == 2
    error = capsys.readouterr().err.strip()
    assert "at most 5% may be bad" in error
    assert "3 x unsafe name" in error
    assert len(error.splitlines()) == 1
