"""Do the tests see small faults? Thirty are put into the code, and each must be caught.

A fault is one exact edit of one place; the tests that should see it are named with it. They run on
a copy of the tree, so nothing is changed here. A fault that no test sees is listed as survived, and
an edit whose place is gone is an error: mend it here.

Command: python -m benchmarks.mutations [--only NAME ...] [--processes 2]

Some ten minutes on two cores.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LONGEST = 600
"""Seconds that the tests of one fault may take."""
COPIED = ("nas_growclip", "tests", "benchmarks", "experiments", "search_spaces", "pyproject.toml")


class Fault(NamedTuple):
    """One edit, and the tests that should see it."""

    name: str
    file: str
    """Within the package."""
    old: str
    new: str
    tests: str
    """Files or tests, with a space between them; after ``-k`` an expression."""


INHERIT = "tests/growth/test_inherit.py"
DEPTH = "tests/growth/test_depth.py"
MOMENTS = "tests/growth/test_adam_moments.py"
PIM = "tests/growth/test_pim.py"
OBJECTIVE = "tests/search/test_objective.py"
BACKENDS = "tests/search/test_backends.py -k optuna"
TRIGGER = "tests/search/test_trigger.py"
FORECAST = "tests/search/test_forecast.py"
BATCHES = "tests/data/test_batches.py tests/data/sources/test_scenes.py"
STATE = "tests/training/test_checkpoint.py"
SCHEDULE = "tests/training/test_schedule.py"

FAULTS = (
    Fault("norms are not centred", "growth/maps.py", "if self.is_centred:", "if False:", INHERIT),
    Fault(
        "a factor of a copy is dropped",
        "growth/maps.py",
        "return taken * _along(",
        "return taken + 0 * _along(",
        INHERIT,
    ),
    Fault(
        "a stream's gain is its writers'",
        "growth/operators.py",
        "stream_gain=Expansion(keep, is_new, is_free=True),",
        "",
        "tests/growth/test_special_axes.py",
    ),
    Fault(
        "inserted blocks are active",
        "growth/depth.py",
        'return _inserted(step, "silent")',
        'return _inserted(step, "active")',
        DEPTH,
    ),
    Fault(
        "stacking repeats the last block",
        "growth/depth.py",
        "BlockSource(((i % step.old, 1.0),)",
        "BlockSource(((min(i, step.old - 1), 1.0),)",
        DEPTH,
    ),
    Fault(
        "mixtures of blocks do not sum to one",
        "growth/depth.py",
        "((below, 1 - share), (below + 1, share))",
        "((below, 1 - share), (below + 1, 1 - share))",
        DEPTH,
    ),
    Fault(
        "a silent block writes",
        "growth/tensors.py",
        'if source.mode == "silent" and axes.writes_stream:',
        'if source.mode == "gated" and axes.writes_stream:',
        DEPTH,
    ),
    Fault(
        "PIM's share is turned round",
        "growth/pim.py",
        "inherited.value.lerp(inherited.fresh, 1 - config.momentum)",
        "inherited.value.lerp(inherited.fresh, config.momentum)",
        PIM,
    ),
    Fault(
        "PIM blends biases too",
        "growth/pim.py",
        "if not inherited.is_linear:\n        return False",
        "if not inherited.is_linear:\n        return True",
        PIM,
    ),
    Fault(
        "PIM leaves the null space",
        "growth/pim.py",
        "return inherited.value + (1 - config.momentum) * inherited.null",
        "return inherited.value + (1 - config.momentum) * inherited.fresh",
        PIM,
    ),
    Fault(
        "second moments are not squared",
        "growth/adam_moments.py",
        'states["exp_avg_sq"], torch.square',
        'states["exp_avg_sq"], torch.clone',
        MOMENTS,
    ),
    Fault(
        "mixed entries keep their moments",
        "growth/adam_moments.py",
        "return matrix * (count <= 1)[:, None]",
        "return matrix * (count >= 1)[:, None]",
        MOMENTS,
    ),
    Fault(
        "a writer's gradient is not scaled",
        "growth/adam_moments.py",
        "read * gain if is_stream else read",
        "read",
        MOMENTS,
    ),
    Fault(
        "repeated pairs are worth as much",
        "search/forecast.py",
        "fade = -math.expm1(-repeats / repetition_constant)",
        "fade = repeats / repetition_constant",
        FORECAST,
    ),
    Fault(
        "pairs are not bounded by the data",
        "search/forecast.py",
        "unique = min(seen, num_pairs)",
        "unique = max(seen, num_pairs)",
        FORECAST,
    ),
    Fault(
        "the lag after growth counts",
        "search/objective.py",
        "later = points[len(points) // 4 :]",
        "later = points[: len(points) // 4 + 1]",
        OBJECTIVE,
    ),
    Fault(
        "growth of the data is turned round",
        "search/trigger.py",
        "ratio = given.num_pairs / given.earlier_pairs",
        "ratio = given.earlier_pairs / given.num_pairs",
        TRIGGER,
    ),
    Fault(
        "a model that lacks data is searched",
        "search/trigger.py",
        "        found <= config.max_gap,\n        f",
        "        found >= config.max_gap,\n        f",
        TRIGGER,
    ),
    Fault(
        "a trial is trusted as if its lead lasted",
        "search/objective.py",
        "return seen / (known + seen)",
        "return 1.0",
        OBJECTIVE,
    ),
    Fault(
        "a shortlist is of the growths of which least is expected",
        "search/forecast.py",
        "listed = set(list(growths)[:size])",
        "listed = set(list(growths)[-size:])",
        FORECAST,
    ),
    Fault(
        "a candidate is proposed twice",
        "search/optuna/backend.py",
        "if candidate is None or candidate.label in self._taken(earlier):",
        "if candidate is None:",
        "tests/search/test_backends.py -k by_hand",
    ),
    Fault(
        "numbers begin at one",
        "search/optuna/backend.py",
        "return len(_by_number(earlier))",
        "return len(_by_number(earlier)) + 1",
        BACKENDS,
    ),
    Fault(
        "trials are told while their control is unknown",
        "search/loop.py",
        "return [trial for trial, result in scored if result is None]",
        "return []",
        "tests/search/test_loop.py",
    ),
    Fault(
        "resumed training starts its epoch again",
        "data/batches.py",
        "first_epoch, skip = divmod(start, steps_per_epoch)",
        "first_epoch, skip = start // steps_per_epoch, 0",
        BATCHES,
    ),
    Fault(
        "every epoch has the same order",
        "data/batches.py",
        "stream = pairs.epoch(epoch_seed(seed, epoch), wanted)",
        "stream = pairs.epoch(epoch_seed(seed, 0), wanted)",
        BATCHES,
    ),
    Fault(
        "a pair is seen when its image was",
        "data/sources/dedup.py",
        "return SEEN_PAIR if both in self._trained else",
        "return SEEN_PAIR if self._trained else",
        "tests/data/sources/test_dedup.py",
    ),
    Fault(
        "held-out pictures are trained on",
        "data/sources/dedup.py",
        "if image_id in self._held_out:",
        "if both in self._held_out:",
        "tests/data/sources/test_dedup.py",
    ),
    Fault(
        "a resumed state forgets its rollbacks",
        "training/checkpoint.py",
        "state.rollbacks = progress.rollbacks",
        "state.rollbacks = ()",
        STATE,
    ),
    Fault(
        "the moving average is the weights",
        "training/checkpoint.py",
        "state.ema = _averages(tensors, model, path)",
        "pass",
        STATE,
    ),
    Fault(
        "the rate does not cool down",
        "training/schedule.py",
        "max(0.0, min(1.0, left))",
        "1.0",
        SCHEDULE,
    ),
)


def copied_tree(out: Path) -> Path:
    """A copy of what the tests need."""
    for name in COPIED:
        source, target = ROOT / name, out / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return out


def caught_by(fault: Fault, tree: Path) -> str:
    """The first test that sees a fault, or that it keeps from ending; empty if none does.

    Raises:
        ValueError: If the place is not there exactly once, or the tests do not run.
    """
    file = tree / "nas_growclip" / fault.file
    text = file.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(
            f"{fault.name}: {fault.file} must hold {fault.old!r} once, but does so "
            f"{text.count(fault.old)} times. Mend the edit."
        )
    file.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    tests, _, expression = fault.tests.partition(" -k ")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests.split()]
    command += ["-k", expression] if expression else []
    try:
        ended = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, check=False, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return f"no end after {LONGEST} s"
    finally:
        file.write_text(text, encoding="utf-8")
    if ended.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    if found is None:
        raise ValueError(f"{fault.name}: the tests must run, but: {ended.stdout[-400:]}")
    return found[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try every fault and print what caught it; the exit code is 1 if one survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults whose names hold one")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    wanted = [f for f in FAULTS if not options.only or any(part in f.name for part in options.only)]
    with tempfile.TemporaryDirectory() as folder:
        trees: Queue[Path] = Queue()
        for number in range(options.processes):
            trees.put(copied_tree(Path(folder) / str(number)))

        def tried(fault: Fault) -> str:
            tree = trees.get()
            try:
                found = caught_by(fault, tree)
            finally:
                trees.put(tree)
            print(f"{fault.name}: {found or 'SURVIVED'}", flush=True)
            return found

        with ThreadPoolExecutor(options.processes) as pool:
            found = list(pool.map(tried, wanted))
    print(f"{sum(map(bool, found))} of {len(found)} faults were caught")
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
