"""Commands in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.runs import ROOT


@contextmanager
def started(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A growclip process of one thread, which does not outlive this."""
    command = [sys.executable, "-W", "ignore", "-m", "nas_growclip", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
