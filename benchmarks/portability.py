"""Does the test suite pass whatever the processor's instructions and the number of threads?

The suite is run with the kernels that an older processor gets and with several threads, which
changes the last bits of every matrix product: six runs, of which the first is what ``make test``
runs. The table has their results, the rest of what pytest says goes to files.

Command: python -m benchmarks.portability --out DIR [--only NAME ...] [-- PYTEST'S ARGUMENTS]

About as long as six runs of the suite: an hour on two idle cores.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
INSTRUCTIONS: Mapping[str, Mapping[str, str]] = {
    "best": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}
"""What tells PyTorch's own kernels, oneDNN and MKL which instructions to use."""
THREADS = (1, 2, 4)
IN_PARALLEL = ("--numprocesses", "2", "--dist", "loadfile", "--no-loadscope-reorder")
"""As ``make test`` has it."""


class Setting(NamedTuple):
    """One run of the suite."""

    instructions: str
    threads: int

    @property
    def name(self) -> str:
        """For the table and the file."""
        return f"{self.instructions}-{self.threads}"

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told."""
        threads = {"GROWCLIP_TEST_THREADS": str(self.threads)}
        return dict(os.environ) | threads | dict(INSTRUCTIONS[self.instructions])


SETTINGS = (
    Setting("best", 1),
    Setting("avx2", 1),
    Setting("default", 1),
    Setting("best", 2),
    Setting("best", 4),
    Setting("default", 4),
)


def run_suite(setting: Setting, arguments: Sequence[str], log: Path) -> tuple[str, float, float]:
    """Run the suite; its last line, seconds, and CPU seconds of all its processes."""
    command = [sys.executable, "-m", "pytest", "-q", *IN_PARALLEL]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with log.open("wb") as said:
        subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env=setting.environment,
            stdout=said,
            stderr=said,
            check=False,
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return log.read_text().splitlines()[-1], time.monotonic() - started, cpu


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder for what pytest says")
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options, arguments = parser.parse_known_args()
    options.out.mkdir(parents=True)
    failed = 0
    print("| instructions | threads | result | minutes | CPU minutes |\n|---|--:|---|--:|--:|")
    for setting in SETTINGS:
        if setting.name in options.only:
            log = options.out / f"{setting.name}.log"
            last, seconds, cpu = run_suite(setting, [a for a in arguments if a != "--"], log)
            result = re.sub(r" in [\d.]+s.*", "", last)
            failed += not re.fullmatch(r"\d+ passed.*", result) or "error" in result
            row = (setting.instructions, str(setting.threads), result)
            print(f"| {' | '.join(row)} | {seconds / 60:.1f} | {cpu / 60:.1f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
