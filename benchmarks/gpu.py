"""Tests and measurements on one GPU: what ``benchmarks/gpu.sh`` runs.

Each part writes what it found into OUT/gpu.json and OUT/gpu.md at once, so that a run that is cut
off leaves what it had. A part that fails is named there, and the others go on. FLOPs are fvcore
FLOPs: one multiply-add is one, in the matrix rate too, so that a share of it counts both alike.

Command: bash benchmarks/gpu.sh [--dry-run] OUT
"""

import argparse
import gc
import itertools
import json
import logging
import os
import signal
import statistics
import sys
import tarfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from benchmarks.at_scale import TO_VIT_L, num_bytes
from benchmarks.evaluation_memory import add_member, picture, with_comment
from benchmarks.training_speed import (
    OurLoop,
    TheirLoop,
    compare,
    drain,
    made_batches,
    our_loader,
    our_shards,
    stock_model,
    synchronize,
    their_loader,
)
from nas_growclip.data.benchmark_folder import CLASSES_FILE, TEMPLATES_FILE, TYPE_FILE
from nas_growclip.data.retrieval_set import folder_retrieval_set
from nas_growclip.data.zero_shot import folder_task
from nas_growclip.evaluation.embeddings import embed_pairs
from nas_growclip.evaluation.retrieval import benchmark_recalls, rank
from nas_growclip.evaluation.zero_shot import class_embeddings, predict
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.verify import similarity_change
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops

Row = Mapping[str, Any]
CAPTIONS = 5
"""Of each image of the retrieval set, as in Flickr30k."""
DISTINCT = 16
"""Pictures that are drawn; the others are their copies in other bytes."""
ROUNDS = 4
"""Batches of each loading process that are timed: they come about as many at a time as there are
processes, so other numbers of them would be rounded."""
PICTURES_A_SHARD = 512
"""At least a batch: each of OpenCLIP's processes makes its batches of its own shards, and looks for
one for ever if there is none."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how large."""

    device: str
    scratch: Path
    models: Mapping[str, tuple[ClipArch, int]]
    """Architectures and batch sizes; the first one is evaluated and grown."""
    compiled: tuple[str, ...]
    """Those that are compiled as well."""
    grown: Mapping[str, int]
    matrix: int
    """Rows of the square matrices that are multiplied."""
    steps: int
    turns: int
    num_images: int
    workers: int
    batch: int
    """Of loading and evaluation."""
    num_classes: int
    num_templates: int

    @property
    def evaluated(self) -> ClipArch:
        """The architecture that is evaluated and grown."""
        return next(iter(self.models.values()))[0]

    @property
    def dtype(self) -> torch.dtype:
        """What training multiplies in."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    def options(self, batch: int, *, compiles: bool = False, workers: int = 0) -> Namespace:
        """As ``training_speed`` takes them."""
        return Namespace(
            batch=batch,
            compile=compiles,
            device=self.device,
            steps=self.steps,
            turns=self.turns,
            warmup=self.steps,
            workers=workers,
        )


def full_plan(scratch: Path) -> Plan:
    """Models as users train them; some six minutes on an H100."""
    return Plan(
        device="cuda",
        scratch=scratch,
        models={
            "ViT-B/32": (ClipArch.preset("vit_b_32"), 512),
            "ViT-B/16": (ClipArch.preset("vit_b_16"), 256),
        },
        compiled=("ViT-B/32", "ViT-B/16"),
        grown=TO_VIT_L,
        matrix=8192,
        steps=10,
        turns=5,
        num_images=8 * PICTURES_A_SHARD,
        workers=8,
        batch=256,
        num_classes=1000,
        num_templates=80,
    )


def dry_plan(scratch: Path) -> Plan:
    """The same code on a CPU, in seconds."""
    sizes = {"image.depth": 1, "text.depth": 1, "shared.depth": 0}
    tiny = ClipArch.preset("tiny").with_sizes(sizes)
    return Plan(
        device="cpu",
        scratch=scratch,
        models={"tiny": (tiny, 4), "tiny, longer MLP": (tiny.with_size("image.mlp_width", 272), 4)},
        compiled=("tiny",),
        grown={"image.width": 96, "text.depth": 2},
        matrix=128,
        steps=1,
        turns=2,
        num_images=8,
        workers=1,
        batch=4,
        num_classes=3,
        num_templates=2,
    )


def run_tests(plan: Plan) -> Row:
    """The tests that are marked ``gpu``, without checks of types, which cannot be compiled."""
    os.environ["GPU_TESTS_ON"] = plan.device
    tests = _Counted()
    options = ["-q", "-m", "gpu", "-o", "addopts=--strict-markers", "-p", "no:cacheprovider"]
    code = pytest.main([*options, "-W", "default", "tests/training/test_gpu.py"], plugins=[tests])
    row = {name: tests.outcomes.count(name) for name in ("passed", "failed", "skipped")}
    if code or not row["passed"] or row["skipped"]:
        raise RuntimeError(f"Tests must pass, but pytest ended with {int(code)}: {row}.")
    return row


class _Counted:
    """Notes how tests ended."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes.append(report.outcome)


def matrix_rate(plan: Plan) -> float:
    """Multiply-adds a second of large products of random matrices, the median of some."""
    shape = (plan.matrix, plan.matrix)
    a, b = (torch.randn(shape, device=plan.device).to(plan.dtype) for _ in range(2))
    seconds = [timed(plan, lambda: [a @ b for _ in range(10)])[1] for _ in range(7)]
    return 10 * plan.matrix**3 / statistics.median(seconds)


def measure_matrix_rate(plan: Plan) -> Row:
    """The card's own rate, which utilisation is a share of."""
    rate = matrix_rate(plan) / 1e12
    return {"matrices": plan.matrix, "dtype": str(plan.dtype)[6:], "T multiply-adds/s": rate}


def timed(plan: Plan, work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work gives, and its seconds until the device has done it."""
    synchronize(plan.device)
    started = time.perf_counter()
    result = work()
    synchronize(plan.device)
    return result, time.perf_counter() - started


def measure_training(plan: Plan, name: str, *, compiles: bool = False) -> Row:
    """Our loop beside OpenCLIP's own, on one model."""
    rate = matrix_rate(plan)
    arch, batch = plan.models[name]
    options = plan.options(batch, compiles=compiles)
    made = made_batches(Clip(arch), options)
    theirs = itertools.cycle([(b.images, b.tokens) for b in made])
    loops = (
        OurLoop(arch, itertools.cycle(made), options).run,
        TheirLoop(stock_model(arch), theirs, options).run,
    )
    compared = compare(*loops, options)
    flops = 3 * count_flops(arch)
    return {
        "model": name,
        "batch": batch,
        "compiled": compiles,
        "ours, pairs/s": statistics.median(compared.ours),
        "open_clip, pairs/s": statistics.median(compared.theirs),
        "ratio": statistics.median(compared.ratios),
        "lowest ratio": min(compared.ratios),
        "our utilisation": statistics.median(compared.ours) * flops / rate,
        "open_clip's": statistics.median(compared.theirs) * flops / rate,
    }


def measure_growth(plan: Plan) -> Row:
    """A growth on the device: its time, and its peak above what parent and child take."""
    parent = Clip(plan.evaluated).to(plan.device)
    child_arch = plan.evaluated.with_sizes(plan.grown)
    seconds, peaks = list[float](), list[int]()
    for _ in range(3):
        child = None
        free_memory(plan)
        child, taken = timed(plan, lambda: inherit(parent, child_arch))
        seconds.append(taken)
        peaks.append(peak_bytes(plan))
    both = num_bytes(parent) + num_bytes(child)
    return {
        "parameters": f"{parent.num_params / 1e6:.1f} M -> {child.num_params / 1e6:.1f} M",
        "seconds": statistics.median(seconds),
        "peak / (parent + child)": max(peaks) / both or None,
        "change of a similarity": similarity_change(parent, child),
    }


def peak_bytes(plan: Plan) -> int:
    """Most memory that tensors took since ``free_memory``; 0 where it is not counted."""
    return torch.cuda.max_memory_allocated() if plan.device == "cuda" else 0


def free_memory(plan: Plan) -> None:
    """Forget what is not used, compiled code too."""
    torch.compiler.reset()
    gc.collect()
    if plan.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measure_loading(plan: Plan) -> Row:
    """Shards of JPEGs to batches, ours beside OpenCLIP's pipeline."""
    folder = plan.scratch / "pairs"
    write_shards(folder, plan.num_images, lambda number: {"txt": f"picture number {number}"})
    arch, options = plan.evaluated, plan.options(plan.batch // 2, workers=plan.workers)
    options.steps, options.turns = ROUNDS * max(plan.workers, 1), 3
    ours = our_loader(our_shards(str(folder)), Clip(arch), options)
    theirs = their_loader(str(folder), arch, options)
    compared = compare(drain(ours), drain(theirs), options)
    return {
        "workers": plan.workers,
        "ours, pairs/s": statistics.median(compared.ours),
        "open_clip, pairs/s": statistics.median(compared.theirs),
        "ratio": statistics.median(compared.ratios),
        "lowest ratio": min(compared.ratios),
    }


def measure_zero_shot(plan: Plan) -> Row:
    """Prompts of a set like ImageNet's, and its images, decoding included."""
    folder = plan.scratch / "wds_things"
    names = [f"thing {number}" for number in range(plan.num_classes)]
    templates = [f"picture {number} of a {{c}}." for number in range(plan.num_templates)]
    write_set(folder, plan, lambda n: {"cls": str(n % plan.num_classes)})
    (folder / CLASSES_FILE).write_text("\n".join(names))
    (folder / TEMPLATES_FILE).write_text("\n".join(templates))
    task = folder_task(folder)
    model = Clip(plan.evaluated).to(plan.device).eval()
    work = (model, task.class_names, task.templates, plan.batch)
    _, prompts = timed(plan, lambda: class_embeddings(*work))
    one = replace(task, templates=task.templates[:1])
    _, images = timed(plan, lambda: predict(model, one, plan.batch))
    return {
        "prompts": len(names) * len(templates),
        "prompts/s": len(names) * len(templates) / prompts,
        "images": len(task.labels),
        "images/s": len(task.labels) / images,
    }


def measure_retrieval(plan: Plan) -> Row:
    """A set like Flickr30k's: embedding, decoding included, and ranking both ways."""
    folder = plan.scratch / "wds_captions"
    write_set(
        folder,
        plan,
        lambda n: {"txt": "\n".join(f"words {i} on picture {n}" for i in range(CAPTIONS))},
    )
    (folder / TYPE_FILE).write_text("retrieval\n")
    pairs = folder_retrieval_set(folder).pairs
    model = Clip(plan.evaluated).to(plan.device)
    embedded, embedding = timed(plan, lambda: embed_pairs(model, pairs, plan.batch))
    _, ranking = timed(plan, lambda: benchmark_recalls(rank(embedded)))
    return {
        "images": len(embedded.images),
        "captions": len(embedded.texts),
        "captions/s": len(embedded.texts) / embedding,
        "seconds to rank": ranking,
    }


def write_set(folder: Path, plan: Plan, files: Callable[[int], Mapping[str, str]]) -> None:
    """The shards of a set in CLIP_benchmark's layout."""
    count = write_shards(folder / "test", plan.num_images, files)
    (folder / "test" / "nshards.txt").write_text(str(count))


def write_shards(folder: Path, count: int, files: Callable[[int], Mapping[str, str]]) -> int:
    """Shards of JPEGs, each with some files beside it; how many shards."""
    folder.mkdir(parents=True)
    pictures = [picture(seed) for seed in range(min(DISTINCT, count))]
    starts = range(0, count, PICTURES_A_SHARD)
    for shard, start in enumerate(starts):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(start, min(start + PICTURES_A_SHARD, count)):
                image = with_comment(pictures[number % DISTINCT], f"{folder.name} {number}")
                add_member(archive, f"{number:06d}.jpg", image)
                for extension, text in files(number).items():
                    add_member(archive, f"{number:06d}.{extension}", text.encode())
    return len(starts)


Part = Sequence[Callable[[], Row]]
"""What measures each row of a table."""


def parts_of(plan: Plan) -> Mapping[str, Part]:
    """All parts in their order; compiling takes the longest, and comes last."""
    return {
        "Tests": [partial(run_tests, plan)],
        "Matrix rate": [partial(measure_matrix_rate, plan)],
        "Training": [partial(measure_training, plan, name) for name in plan.models],
        "Growth": [partial(measure_growth, plan)],
        "Loading": [partial(measure_loading, plan)],
        "Zero-shot evaluation": [partial(measure_zero_shot, plan)],
        "Retrieval evaluation": [partial(measure_retrieval, plan)],
        "Training, compiled": [
            partial(measure_training, plan, name, compiles=True) for name in plan.compiled
        ],
    }


def machine(plan: Plan) -> Row:
    """What everything ran on."""
    name = torch.cuda.get_device_name() if plan.device == "cuda" else "CPU, dry run"
    versions = {"torch": torch.__version__, "open_clip": open_clip.__version__}
    return {"device": name, "cores": os.cpu_count(), "python": sys.version.split()[0], **versions}


@dataclass
class Table:
    """A part as far as it got."""

    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in what takes longer, where it waits."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds:g} s.")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measured(
    plan: Plan, parts: Mapping[str, Part], seconds: float, longest: float = 150
) -> Iterator[dict[str, Table]]:
    """All tables, each time that a row was measured; none is begun when the seconds are over.

    Args:
        plan: What is measured.
        parts: The parts.
        seconds: After which no row is begun.
        longest: Seconds that one row may take.
    """
    begun, tables = time.monotonic(), dict[str, Table]()
    for name, part in parts.items():
        table = tables[name] = Table()
        for measure in part:
            started = time.monotonic()
            if started - begun > seconds:
                table.errors.append(f"A row was left out: {seconds:g} s were over.")
                continue
            try:
                with no_longer_than(longest):
                    table.rows.append(measure())
            except Exception as error:
                traceback.print_exc()
                table.errors.append(f"{type(error).__name__}: {error}")
            free_memory(plan)
            table.seconds += time.monotonic() - started
            yield tables
    yield tables


def markdown(about: Row, tables: Mapping[str, Table]) -> str:
    """All tables, each with what went wrong."""
    facts = ", ".join(f"{key} {value}" for key, value in about.items())
    lines = ["# Measurements on a GPU", "", facts + ".", ""]
    for name, table in tables.items():
        lines += [f"## {name}", "", *lines_of(table.rows)]
        lines += [*(f"**{error}**\n" for error in table.errors), f"{table.seconds:.0f} s.", ""]
    lines += [
        "FLOPs are fvcore FLOPs: one multiply-add is one. Utilisation is three times the FLOPs of",
        "a pair's forward pass, times pairs a second, as a share of the matrix rate.",
    ]
    return "\n".join(lines) + "\n"


def lines_of(rows: Sequence[Row]) -> list[str]:
    """A table in Markdown, and a blank line."""
    if not rows:
        return []
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return [*lines, *(f"| {' | '.join(cell(row[c]) for c in columns)} |" for row in rows), ""]


def cell(value: object) -> str:
    """A value of a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return "not measured" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scratch", type=Path, required=True, help="where shards are written")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--parts", nargs="+", metavar="NAME", help="of the tables; default: all")
    parser.add_argument("--seconds", type=float, default=420, help="no part begins later")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("There must be a CUDA device, but there is none. Add --dry-run.")
    plan = (dry_plan if options.dry_run else full_plan)(options.scratch)
    if options.dry_run:
        torch.set_num_threads(1)
        if hasattr(torch.compiler, "set_default_backend"):  # a C++ compiler takes a minute
            torch.compiler.set_default_backend("eager")
    torch.set_float32_matmul_precision("high")  # as a run does
    logging.disable(logging.INFO)
    options.out.mkdir(parents=True, exist_ok=True)
    about, parts = machine(plan), parts_of(plan)
    if unknown := set(options.parts or ()) - set(parts):
        raise SystemExit(f"--parts must be among {', '.join(parts)}, but has {unknown}.")
    parts = {name: parts[name] for name in options.parts or parts}
    for tables in measured(plan, parts, options.seconds):
        text = markdown(about, tables)
        values = {"machine": about, "parts": {name: asdict(t) for name, t in tables.items()}}
        (options.out / "gpu.json").write_text(json.dumps(values, indent=2) + "\n")
        (options.out / "gpu.md").write_text(text)
    print(text)
    if any(table.errors for table in tables.values()):
        raise SystemExit("Not all parts ended well: the tables say which.")


if __name__ == "__main__":
    main()
