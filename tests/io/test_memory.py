import platform
from pathlib import Path

import pytest

from nas_growclip.io.memory import release_freed


def own_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no holes")
def test_holes_between_blocks_in_use_go_back_to_the_system() -> None:
    blocks = [bytes([1]) * 100_000 for _ in range(2000)]  # small enough for the heap
    kept = blocks[::2]
    full = own_bytes()
    del blocks
    release_freed()
    assert full - own_bytes() > 60e6
    assert len(kept) == 1000
