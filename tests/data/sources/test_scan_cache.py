"""Scans of shards are kept until the shard changes, and several threads give them in order."""

import io
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from nas_growclip.data.sources import scan_cache as scans
from nas_growclip.data.sources.decoding import decode_image
from nas_growclip.data.sources.scan_cache import ShardScan, cache_folder, kept_scan, scan_in_order

FOUND = ShardScan(
    num_pairs=3,
    num_bytes=10,
    unusable=frozenset({1, 4}),
    sha256="ab" * 32,
    skipped={"missing image": 2},
    identities=bytes(range(96)),
    examples={"missing image": "'7.txt' in 00000.tar"},
    other_member="7.npy",
    spans=bytes(range(72)),
)


class Scanning:
    """A scan that counts how often it is made."""

    def __init__(self, found: ShardScan = FOUND) -> None:
        self.found, self.times = found, 0

    def __call__(self, path: Path) -> ShardScan:
        self.times += 1
        return self.found


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "00000.tar"
    path.write_bytes(b"some bytes")
    return path


def test_a_scan_is_made_once_until_the_file_changes(shard: Path) -> None:
    scan = Scanning()
    assert kept_scan(shard, "txt", scan) == FOUND
    assert kept_scan(shard, "txt", scan) == FOUND
    assert scan.times == 1
    shard.write_bytes(b"other bytes")
    assert kept_scan(shard, "txt", scan) == FOUND
    assert scan.times == 2


def test_scans_of_other_captions_are_kept_apart(shard: Path) -> None:
    scan, plain = Scanning(), Scanning(FOUND._replace(identities=b""))
    assert kept_scan(shard, "txt", scan) == FOUND
    assert kept_scan(shard, "json caption", plain).identities == b""
    assert kept_scan(shard, "txt", scan) == FOUND
    assert (scan.times, plain.times) == (1, 1)


def test_other_rules_make_it_anew(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = Scanning()
    kept_scan(shard, "txt", scan)
    monkeypatch.setattr(scans, "RULES", scans.RULES + 1)
    kept_scan(shard, "txt", scan)
    assert scan.times == 2


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"PK\x03\x04 no archive"])
def test_a_damaged_scan_is_made_anew(shard: Path, damage: bytes) -> None:
    scan = Scanning()
    kept_scan(shard, "txt", scan)
    (kept,) = cache_folder().glob("*.npz")
    kept.write_bytes(damage)
    assert kept_scan(shard, "txt", scan) == FOUND
    assert scan.times == 2


def test_without_a_cache_folder_nothing_is_kept(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    scan = Scanning()
    assert kept_scan(shard, "txt", scan) == kept_scan(shard, "txt", scan) == FOUND
    assert scan.times == 2


def test_two_that_want_the_same_scan_make_it_once(shard: Path) -> None:
    scan, barrier = Scanning(), threading.Barrier(2)

    def slow(path: Path) -> ShardScan:
        time.sleep(0.2)
        return scan(path)

    def ask() -> ShardScan:
        barrier.wait()
        return kept_scan(shard, "txt", slow)

    with ThreadPoolExecutor(2) as pool:
        assert [f.result() for f in (pool.submit(ask), pool.submit(ask))] == [FOUND, FOUND]
    assert scan.times == 1


def test_scans_come_in_order_and_not_far_ahead() -> None:
    paths = [Path(str(number)) for number in range(100)]
    begun: list[str] = []

    def scan(path: Path) -> ShardScan:
        begun.append(path.name)
        time.sleep(0.01 if int(path.name) % 2 else 0.0)
        return FOUND._replace(num_pairs=int(path.name))

    found = scan_in_order(paths, scan)
    assert [next(found).num_pairs for _ in range(5)] == [0, 1, 2, 3, 4]
    found.close()  # type: ignore[attr-defined]
    assert len(begun) <= 5 + scans.MAX_THREADS + 1
    assert [scan.num_pairs for scan in scan_in_order(paths, scan)] == list(range(100))


def test_an_error_comes_through() -> None:
    def scan(path: Path) -> ShardScan:
        raise ValueError(f"{path} is bad")

    with pytest.raises(ValueError, match="shard is bad"):
        list(scan_in_order([Path("shard")], scan))


def test_threads_that_decode_leave_the_warning_filters_as_they_were() -> None:
    file = io.BytesIO()
    Image.new("RGB", (400, 300)).save(file, "PNG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(decode_image, [file.getvalue()] * 200))
    assert all(isinstance(image, Image.Image) for image in decoded)
    assert list(warnings.filters) == before
