"""Throw damaged documents at every reader of files, and see that each only ever says no.

A reader may accept a document or refuse it with a ValueError, which the command line turns into
one line and exit code 2. Anything else is a fault: it is printed with the bytes that caused it.

    python -m benchmarks.fuzz_readers --seconds 60 [--reader NAME] [--engine atheris|mutations]

With atheris (``pip install atheris``) the inputs are steered by which lines of the readers they
reach; without it valid documents are mutated at random.
"""

import argparse
import importlib.util
import inspect
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from tests.support.readers import READERS, WORDS, Reader, mutated

ROOT = Path(__file__).parents[1]
SHOWN = 3
"""Faults of a reader that are printed in full."""


@dataclass
class Tally:
    """What a reader did."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    faults: int = 0
    slowest: float = 0.0
    """Seconds for one document."""


def attempt(reader: Reader, path: Path, data: bytes, tally: Tally) -> str:
    """Let a reader read these bytes; the traceback if it does anything but accept or refuse."""
    path.write_bytes(data)
    tally.tried += 1
    started = time.monotonic()
    try:
        reader.read(path)
        tally.accepted += 1
    except ValueError:
        tally.refused += 1
    except Exception:
        tally.faults += 1
        return traceback.format_exc()
    finally:
        tally.slowest = max(tally.slowest, time.monotonic() - started)
    return ""


def fuzz_by_mutations(name: str, seconds: float, seed: int) -> Tally:
    """Mutate a valid document for so long."""
    reader, tally, rng = READERS[name], Tally(), random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory() as folder:
        valid = reader.valid(Path(folder))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            data = mutated(valid, rng)
            _report(name, data, attempt(reader, Path(folder) / reader.file, data, tally), tally)
    return tally


def fuzz_by_atheris(name: str, seconds: float, seed: int) -> None:
    """Let libFuzzer find inputs that reach new lines; it ends this process.

    The tally is written to the file that ``FUZZ_TALLY`` names, after every hundredth input.
    """
    import atheris  # noqa: PLC0415

    reader, tally, rng = READERS[name], Tally(), random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    valid = reader.valid(folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "valid").write_bytes(valid)
    for number in range(20):
        (corpus / f"mutated{number}").write_bytes(mutated(valid, rng))
    quoted = ("".join(rf"\x{byte:02x}" for byte in word[:60]) for word in WORDS)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in quoted))
    out = Path(os.environ["FUZZ_TALLY"])

    def one(data: bytes) -> None:
        _report(name, data, attempt(reader, folder / reader.file, data, tally), tally)
        if tally.tried % 100 == 0 or tally.tried < 100:
            out.write_text(json.dumps(asdict(tally)))

    for module in sorted(sys.modules):
        if module.startswith(("nas_growclip", "yaml", "tarfile")):
            _instrument(sys.modules[module])
    options = [f"-max_total_time={seconds:.0f}", f"-seed={seed + 1}", "-rss_limit_mb=6000"]
    options += ["-timeout=60", f"-max_len={max(4096, 2 * len(valid))}", f"-dict={folder / 'words'}"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def _instrument(module: ModuleType) -> None:
    """Let atheris watch a module's functions and methods."""
    import atheris  # noqa: PLC0415

    for value in list(vars(module).values()):
        for function in vars(value).values() if isinstance(value, type) else (value,):
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                atheris.instrument_func(function)


def _report(name: str, data: bytes, fault: str, tally: Tally) -> None:
    if fault and tally.faults <= SHOWN:
        print(f"{name}: {data[:2000]!r}\n{fault}", file=sys.stderr)


def main() -> int:
    """Fuzz every reader; exit code 1 if one has a fault."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="for each reader")
    parser.add_argument("--reader", choices=READERS, help="only this one")
    parser.add_argument("--engine", choices=("atheris", "mutations"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if "FUZZ_TALLY" in os.environ:
        fuzz_by_atheris(options.reader, options.seconds, options.seed)
    has_atheris = importlib.util.find_spec("atheris") is not None
    engine = options.engine or ("atheris" if has_atheris else "mutations")
    fuzz = _watched if engine == "atheris" else fuzz_by_mutations
    print(f"Engine: {engine}, {options.seconds:g} s a reader, seed {options.seed}\n")
    print("| reader | inputs | accepted | refused with ValueError | faults | slowest |")
    print("|---|--:|--:|--:|--:|--:|")
    num_faults = 0
    for name in [options.reader] if options.reader else READERS:
        tally = fuzz(name, options.seconds, options.seed)
        numbers = f"{tally.tried} | {tally.accepted} | {tally.refused} | {tally.faults}"
        print(f"| {name} | {numbers} | {tally.slowest:.2f} s |", flush=True)
        num_faults += tally.faults
    return 1 if num_faults else 0


def _watched(name: str, seconds: float, seed: int) -> Tally:
    """One reader under atheris, in a process of its own; one that dies is a fault."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tally.json"
        command = [sys.executable, "-m", "benchmarks.fuzz_readers", "--reader", name]
        done = subprocess.run(
            [*command, "--seconds", str(seconds), "--seed", str(seed)],
            env=os.environ | {"FUZZ_TALLY": str(out), "TMPDIR": folder, "PYTHONPATH": str(ROOT)},
            cwd=folder,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        tally = Tally(**json.loads(out.read_text())) if out.exists() else Tally(faults=1)
        if done.returncode or tally.faults:
            tally.faults = max(tally.faults, 1)
            print(done.stderr[-6000:], file=sys.stderr)
        return tally


if __name__ == "__main__":
    sys.exit(main())
