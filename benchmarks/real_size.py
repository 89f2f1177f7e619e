"""A ViT-B/32 from its OpenCLIP checkpoint to its grown child: seconds and memory, part by part.

Random weights and real shapes; 20,000 JPEG pairs, ImageNet's prompts and a retrieval set shaped
like Flickr's are made here. Import, growth and export are commands; a stage (a search among four
candidates, the training of the chosen one) and an evaluation measure their own parts. Each is a
process of its own, and those of two trees of this repository take turns.

Command: python -m benchmarks.real_size --out DIR [--trees before=DIR now=.] [--table FILE.md]
(10 GB of disk for two trees; some minutes each)
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.import_grow_export import MAKE

PARTS_FILE = Path(__file__).with_name("real_size_parts.py")
GROWTH = ("image.depth=16",)


class Measured(NamedTuple):
    """What a process took, and what it printed."""

    seconds: float
    cpu: float
    """Seconds of all threads together."""
    peak: int
    printed: str


def measured(command: list[str], tree: Path, folder: Path) -> Measured:
    """Run a process with a tree's code; its scans are not another's."""
    environment = os.environ | {"PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(folder / "cache")}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed")
    cpu = usage.ru_utime + usage.ru_stime
    return Measured(time.perf_counter() - started, cpu, 1024 * usage.ru_maxrss, printed)


def commands(tree_folder: Path, options: argparse.Namespace) -> Mapping[str, list[str]]:
    """Every process of a tree, in order; the folder gets what they make."""
    growclip, weights = [sys.executable, "-m", "nas_growclip"], options.out / "stock.safetensors"
    parent, child, out = (str(tree_folder / name) for name in ("parent", "child", "exported"))
    sizes = [word for size in GROWTH for word in ("--set", size)]
    numbers = ["--batch", str(options.eval_batch), "--share", str(options.share)]
    return {
        "import": [*growclip, "import", "ViT-B-32", str(weights), "--out", parent],
        "grow": [*growclip, "grow", parent, *sizes, "--out", child],
        "export": [*growclip, "export", child, "--out", out],
        "run": parts_command("run", tree_folder, "--batch", str(options.batch)),
        "evaluate": parts_command("evaluate", tree_folder, *numbers),
    }


def parts_command(what: str, folder: Path, *words: str) -> list[str]:
    """A process that measures its own parts."""
    return [sys.executable, str(PARTS_FILE), what, str(folder), *words]


Result = dict[str, Any]
"""By process: seconds, peak, and what it said of its parts."""


def measure_all(trees: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Result]:
    """Every process of every tree that is not noted yet, the trees taking turns."""
    noted = options.out / "results.json"
    results: dict[str, Result] = json.loads(noted.read_text()) if noted.exists() else {}
    listed = {name: commands(options.out / name, options) for name in trees}
    for what in next(iter(listed.values())):
        for name, tree in trees.items():
            if what in results.setdefault(name, {}):
                continue
            folder = options.out / name
            folder.mkdir(exist_ok=True)
            took = measured(listed[name][what], tree, folder)
            said = json.loads(took.printed) if what in ("run", "evaluate") else {}
            results[name][what] = {**took._asdict(), **said}
            print(f"{name}, {what}: {took[:3]}", file=sys.stderr)
            noted.write_text(json.dumps(results, indent=2))
    return results


class Took(NamedTuple):
    """What a row of the table says."""

    seconds: float
    cpu: float
    peak: float


def rows(result: Result) -> dict[str, Took]:
    """What each part took."""
    run, evaluated = result["run"]["parts"], result["evaluate"]["parts"]
    trials = {name: part for name, part in run.items() if name.startswith("trial")}
    found = {what: whole([result[what]]) for what in ("import", "grow", "export")}
    found["open data and parent"] = whole([run["open data and parent"]])
    found["search"] = whole(list(trials.values()))
    for what in ("grow, measure", "steps", "measure, save"):
        found[f"- {what}"] = whole([p for name, p in trials.items() if name.endswith(f": {what}")])
    chosen = [part for name, part in run.items() if name.startswith("training")]
    found["train on, measure, save"] = whole(chosen)
    return found | {name: whole([part]) for name, part in evaluated.items()}


def whole(parts: list[dict[str, float]]) -> Took:
    """Seconds of several parts together, and their largest peak."""
    seconds, cpu = (sum(part[name] for part in parts) for name in ("seconds", "cpu"))
    return Took(seconds, cpu, max(part["peak"] for part in parts))


def parts_table(results: Mapping[str, Result]) -> str:
    """Seconds and peaks, the trees side by side."""
    tables = [rows(result) for result in results.values()]
    heads = [f"{what}: {name}" for what in ("seconds", "CPU s", "peak GB") for name in results]
    lines = [f"| part | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for part in tables[0]:
        cells = [f"{table[part].seconds:.1f}" for table in tables]
        cells += [f"{table[part].cpu:.1f}" for table in tables]
        cells += [f"{table[part].peak / 1e9:.2f}" for table in tables]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


COLUMNS = (
    "trial",
    "parent",
    "child",
    "moments",
    "gradients",
    "activations and the rest",
    "peak: its own",
    "to parent, child, moments",
    "peak: with mapped files",
    "to parent, child, moments",
)


def trials_table(run: Result) -> str:
    """What a step of each trial holds, in GB above the memory after imports."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, held in run["held"].items():
        if not name.startswith("trial"):
            continue
        part = run["parts"][f"{name}: steps"]
        own, peak = part["own_peak"] - run["imported_own"], part["peak"] - run["imported"]
        models = run["parent"] + held["weights"] + held["moments"]
        rest = peak - models - held["gradients"]
        sizes = (run["parent"], held["weights"], held["moments"], held["gradients"], rest)
        cells = [f"{size / 1e9:.2f}" for size in sizes]
        for size in (own, peak):
            cells += [f"{size / 1e9:.2f}", f"**{size / models:.2f}**"]
        lines.append(f"| {name.removeprefix('trial of ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def markdown(results: Mapping[str, Result], options: argparse.Namespace) -> str:
    """Both tables of every tree, and what they are of."""
    texts = [parts_table(results)]
    for name, result in results.items():
        run = result["run"]
        texts.append(f"A step of a trial, {name}, GB above the memory after imports:")
        texts.append(trials_table(run))
        texts.append(
            f"Trials on the disk, at most: {run['disk'] / 1e9:.2f} GB; the run folder at the end: "
            f"{run['left'] / 1e9:.2f} GB."
        )
    evaluated = next(iter(results.values()))["evaluate"]
    texts.append(
        f"{evaluated['prompts']:,} prompts, {evaluated['images']:,} images of five captions; "
        f"training batches of {options.batch} in parts of 4, evaluation by "
        f"{options.eval_batch}."
    )
    return "\n\n".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--trees", nargs="+", default=["now=."], metavar="NAME=DIR")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--eval-batch", type=int, default=64)
    parser.add_argument(
        "--share", type=float, default=0.1, help="share of the 1,000 classes and images"
    )
    parser.add_argument("--table", type=Path, help="file to write the tables to as well")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    trees = {name: Path(tree).resolve() for name, tree in (t.split("=") for t in options.trees)}
    make_all(options.out, next(iter(trees.values())))
    text = markdown(measure_all(trees, options), options)
    print(text)
    if options.table:
        options.table.write_text(text + "\n")


def make_all(out: Path, tree: Path) -> None:
    """The data and the stock checkpoint, unless they are there."""
    if not (out / "data").exists():
        measured(parts_command("data", out / "data"), tree, out)
    if not (out / "stock.safetensors").exists():
        make = [sys.executable, "-c", MAKE, "ViT-B-32", str(out / "stock.safetensors")]
        measured(make, tree, out)


if __name__ == "__main__":
    main()
