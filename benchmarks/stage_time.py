"""Where the time of a run goes: start-up, growth, training, measuring, saving, the search itself.

Two parts. *Start-up*: seconds from starting ``growclip run`` to its first optimizer step, beside a
Python process that only imports torch, timm and open_clip, which every trainer of CLIP models
does. *Stage*: one run on scenes in this process, with each function's own seconds.

Command: python -m benchmarks.stage_time [--repeats 3] [--passes 8]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nas_growclip.experiment import run as experiment
from nas_growclip.experiment import stage, stage_training, trial
from nas_growclip.experiment.config import load_config

ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "experiments" / "demo.yaml"
LIBRARIES = "import torch, timm, open_clip"
SEARCH = "the search: sampler, storage, records, scores"
FIRST_STEP = """
import os, sys, time
sys.argv = ["growclip", "run", {experiment!r}, "--out", {out!r}]
from nas_growclip.training.optimizer import EntrywiseAdamW
step = EntrywiseAdamW.step
def first_step(self, closure=None):
    step(self, closure)
    os._exit(0)
EntrywiseAdamW.step = first_step
from nas_growclip.cli.main import main
main()
"""


def seconds_of(code: str) -> float:
    """From starting a Python process of one thread to its end."""
    started = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command, quiet = [sys.executable, "-W", "ignore", "-c", code], subprocess.DEVNULL
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=quiet, stderr=quiet)
    return time.monotonic() - started


def start_up(repeats: int) -> str:
    """The table of start-up times; what takes turns is compared."""
    seconds: dict[str, list[float]] = {"libraries": [], "first step": [], "help": []}
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / str(repeat))
            code = FIRST_STEP.format(experiment=str(EXPERIMENT), out=out)
            seconds["libraries"].append(seconds_of(LIBRARIES))
            seconds["first step"].append(seconds_of(code))
            help_code = "import sys; sys.argv = ['growclip', '--help']\n"
            seconds["help"].append(
                seconds_of(help_code + "from nas_growclip.cli.main import main\nmain()")
            )
    base = statistics.median(seconds["libraries"])
    names = {
        "libraries": f"`{LIBRARIES}` alone",
        "first step": "`growclip run` to the end of its first step",
        "help": "`growclip --help`",
    }
    lines = ["| process | seconds: median (range) | ratio |", "|---|---|---|"]
    for key, name in names.items():
        values = seconds[key]
        middle = statistics.median(values)
        spread = f"{middle:.1f} ({min(values):.1f} to {max(values):.1f})"
        lines.append(f"| {name} | {spread} | {middle / base:.2f} |")
    return "\n".join(lines)


class Clock:
    """Seconds spent in functions, without those of the functions that they call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.under_way: list[str] = []
        self.since = time.perf_counter()

    def switch(self) -> None:
        """Give what is under way its seconds up to now."""
        now = time.perf_counter()
        if self.under_way:
            self.seconds[self.under_way[-1]] += now - self.since
        self.since = now

    def watch(self, name: str, module: ModuleType, function: str) -> None:
        """Count a module's function under a name."""
        watched: Callable[..., Any] = getattr(module, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self.under_way.append(name)
            self.calls[name] += 1
            try:
                return watched(*args, **kwargs)
            finally:
                self.switch()
                self.under_way.pop()

        setattr(module, function, timed)


def stage_shares(passes: float) -> str:
    """The table of a run's time by what it was spent on."""
    torch.set_num_threads(1)
    clock = Clock()
    clock.watch("growing", trial, "grow_training")
    clock.watch("training steps", stage_training, "train")
    clock.watch("validation loss at curve points", stage_training, "validation_loss")
    clock.watch("saving training states", stage_training, "save_state")
    clock.watch("reading training states", trial, "load_state")
    clock.watch("reading training states", stage, "load_state")
    clock.watch("test sets at the stage's end", stage, "evaluate")
    clock.watch(SEARCH, stage, "run_search")
    clock.watch("the rest: data, records, models on disk", experiment, "run_stages")
    config = replace(load_config(EXPERIMENT), passes=passes)
    with tempfile.TemporaryDirectory() as folder:
        records = experiment.run_stages(config, Path(folder) / "run")
    total = sum(clock.seconds.values())
    lines = ["| what | calls | seconds | share of the run |", "|---|---|---|---|"]
    for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        lines.append(f"| {name} | {clock.calls[name]} | {seconds:.2f} | {seconds / total:.1%} |")
    trials, search = len(records.trials), clock.seconds[SEARCH]
    lines.append(
        f"\n{len(records.stages)} stages, {trials} trials, {total:.0f} s in all; the search's own "
        f"time is {search / trials:.3f} s a trial."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--passes", type=float, default=8.0, help="over each stage's data")
    options = parser.parse_args()
    print(f"{start_up(options.repeats)}\n\n{stage_shares(options.passes)}")


if __name__ == "__main__":
    main()
