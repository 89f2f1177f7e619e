"""What does growing cost at the size of OpenAI's models, in time and in memory?

A ViT-B/32 CLIP with random weights is read from a checkpoint, grown to ViT-L's widths and depths,
and written as a checkpoint. Each measurement has a process of its own, so that its peak memory is
its own; operators take turns, repetition after repetition. Growing is compared with what no growing
can do without: its time with loading and saving the child once, in the same process, and its peak
memory with the bytes of parent and child.

Command: python -m benchmarks.at_scale [--repetitions 3] [--threads 1] [--out FILE.md]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ParamSpec, TypeVar

import torch

from nas_growclip.growth.claims import is_exact
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.verify import perturbed, similarity_change
from nas_growclip.io.logs import logger
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import load_model, save_model
from nas_growclip.models.clip import Clip

P = ParamSpec("P")
T = TypeVar("T")

OPERATORS = ("exact", "average", "net2net")
TO_VIT_L = {
    "image.depth": 24,
    "image.width": 1024,
    "image.mlp_width": 4096,
    "text.width": 768,
    "text.mlp_width": 3072,
}
"""Depth of the text tower, patches and the joint embedding stay."""
DOUBLED = TO_VIT_L | {"image.width": 1536, "image.mlp_width": 6144}
"""An integer ratio for the width behind a LayerNorm (``norm_pre``)."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process measures."""

    operator: str
    norm_pre: bool = False

    @property
    def parent(self) -> str:
        """Folder of the parent's checkpoint."""
        return "parent_norm_pre" if self.norm_pre else "parent"

    @property
    def sizes(self) -> Mapping[str, int]:
        """What the parent is grown to."""
        return DOUBLED if self.norm_pre else TO_VIT_L


TASKS = (*(Task(operator=name) for name in OPERATORS), Task(operator="exact", norm_pre=True))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one process measured: seconds, and bytes above the memory after imports."""

    load_parent: float
    grow: float
    save_child: float
    load_and_save_child: float
    parent_bytes: int
    child_bytes: int
    loaded_peak: int
    """Peak until the parent was there."""
    grown_peak: int
    """Peak until the child was there."""
    peak: int
    """Peak until the child was on disk."""
    reloaded_peak: int
    """Peak until the child was loaded and saved once more; at least ``peak``."""
    change: float
    is_claimed: bool

    @property
    def grow_ratio(self) -> float:
        """Time of growing alone."""
        return self.grow / self.load_and_save_child

    @property
    def whole_ratio(self) -> float:
        """Time from checkpoint to checkpoint."""
        whole = self.load_parent + self.grow + self.save_child
        return whole / self.load_and_save_child


def measure(task: Task, folder: Path) -> Cost:
    """Grow from checkpoint to checkpoint, then load and save the child; count time and memory."""
    imported = resident_bytes()
    costs = grow(task, folder)
    child, load_child = timed(load_model, folder / "child")
    _, save_child = timed(save_model, child, folder / "again")
    return Cost(
        **costs,
        load_and_save_child=load_child + save_child,
        reloaded_peak=peak_bytes() - imported,
    )


def grow(task: Task, folder: Path) -> dict[str, Any]:
    """Grow from checkpoint to checkpoint, nothing left in memory."""
    imported = resident_bytes()
    parent, load_parent = timed(load_model, folder / task.parent)
    loaded_peak = peak_bytes()
    child_arch = parent.arch.with_sizes(task.sizes)
    config = GrowthConfig(operator=task.operator)
    child, grow = timed(partial(inherit, config=config), parent, child_arch)
    grown_peak = peak_bytes()
    _, save_child = timed(save_model, child, folder / "child")
    return {
        "load_parent": load_parent,
        "grow": grow,
        "save_child": save_child,
        "loaded_peak": loaded_peak - imported,
        "grown_peak": grown_peak - imported,
        "peak": peak_bytes() - imported,
        "parent_bytes": num_bytes(parent),
        "child_bytes": num_bytes(child),
        "change": similarity_change(parent, child),
        "is_claimed": is_exact(parent.arch, child_arch, config),
    }


def num_bytes(model: Clip) -> int:
    """Memory of a model's parameters."""
    return sum(parameter.nbytes for parameter in model.parameters())


def timed(action: Callable[P, T], *args: P.args, **options: P.kwargs) -> tuple[T, float]:
    """What an action returns, and its seconds."""
    start = time.perf_counter()
    result = action(*args, **options)
    return result, time.perf_counter() - start


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident_bytes() -> int:
    """Resident memory of this process now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def write_parents(folder: Path) -> None:
    """Write the parents' checkpoints, norms and biases off their initial values."""
    plain = ClipArch.preset("vit_b_32")
    for name, norm_pre in (("parent", False), ("parent_norm_pre", True)):
        arch = replace(plain, image=replace(plain.image, norm_pre=norm_pre))
        save_model(perturbed(Clip(arch), scale=0.02), folder / name)


def run_apart(task: Task | None, folder: Path, threads: int) -> str:
    """Run one task, or the writing of parents, in a process of its own; return what it printed."""
    name = json.dumps(asdict(task)) if task else "parents"
    command = [sys.executable, "-m", "benchmarks.at_scale", "--threads", str(threads)]
    command += ["--apart", name, "--folder", str(folder)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def row(task: Task, costs: Sequence[Cost]) -> str:
    """One line of the table: medians, with the range where it is a time."""
    one = costs[0]
    total = one.parent_bytes + one.child_bytes

    def ratio(values: Sequence[float]) -> str:
        return f"**{median(values):.2f}** ({min(values):.2f} .. {max(values):.2f})"

    def peak(values: Sequence[int]) -> str:
        return f"{max(values) / total:.2f}"

    cells = [
        task.operator + (", norm_pre, width doubled" if task.norm_pre else ""),
        f"{one.parent_bytes / 4e6:.0f} M -> {one.child_bytes / 4e6:.0f} M",
        ratio([cost.grow_ratio for cost in costs]),
        ratio([cost.whole_ratio for cost in costs]),
        f"{median(cost.load_and_save_child for cost in costs):.1f} s",
        peak([cost.loaded_peak for cost in costs]),
        peak([cost.grown_peak for cost in costs]),
        f"**{peak([cost.peak for cost in costs])}**",
        peak([cost.reloaded_peak for cost in costs]),
        f"{max(cost.change for cost in costs):.0e}",
        "exact" if one.is_claimed else "lossy",
    ]
    return "| " + " | ".join(cells) + " |"


COLUMNS = (
    "operator",
    "parameters",
    "time: growing",
    "time: whole",
    "load and save child",
    "peak: loaded",
    "peak: grown",
    "peak: saved",
    "peak: loaded again",
    "change",
    "claimed",
)


def markdown(costs: Mapping[Task, Sequence[Cost]], options: argparse.Namespace) -> str:
    """The table and what it says."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    sizes = ", ".join(f"{dimension} {size}" for dimension, size in TO_VIT_L.items())
    return f"""| {" | ".join(COLUMNS)} |
{"|---" * len(COLUMNS)}|
{chr(10).join(row(task, several) for task, several in costs.items())}

From the checkpoint of a ViT-B/32 CLIP (random weights, fp32, CPU) to a checkpoint of {sizes};
with `norm_pre` image.width 1536 and image.mlp_width 6144. Times are ratios to loading and saving
the child once, in the same process: of growing alone, and of loading the parent, growing and saving
the child; medians and ranges of {options.repetitions} repetitions, operators taking turns. Peaks
are ratios to the bytes of parent and child together, the memory after imports taken off: the
largest resident memory until the parent is loaded, the child grown, the child saved, and (growing
forgotten) the child loaded and saved again; a file being read is mapped and counts. The change is
the largest one of a cosine similarity over 4 random images times 4 random texts. `net2net` is exact
at integer ratios of widths only, and these (768 -> 1024, 512 -> 768) are none.

`python -m benchmarks.at_scale --repetitions {options.repetitions} --threads {options.threads}`,
commit {commit}, torch {torch.__version__}."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file to write the table to as well")
    parser.add_argument("--apart", help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder", type=Path, help="where checkpoints go (8 GB; default: a new one)"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.apart == "parents":
        write_parents(options.folder)
    elif options.apart:
        print(json.dumps(asdict(measure(Task(**json.loads(options.apart)), options.folder))))
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            text = markdown(measure_all(Path(folder), options), options)
        print(text)
        if options.out:
            options.out.write_text(text + "\n")


def measure_all(folder: Path, options: argparse.Namespace) -> Mapping[Task, Sequence[Cost]]:
    """Every task so many times, taking turns."""
    run_apart(None, folder, options.threads)
    costs: dict[Task, list[Cost]] = {task: [] for task in TASKS}
    for repetition in range(options.repetitions):
        for task in TASKS:
            cost = Cost(**json.loads(run_apart(task, folder, options.threads)))
            costs[task].append(cost)
            logger.info(f"{repetition + 1}/{options.repetitions} {task}: {cost}")
    return costs


if __name__ == "__main__":
    main()
