"""The map of fixed sizes as a figure and as tables: where do their curves cross?

Drawn from ``benchmarks/records/size_map.jsonl``, which ``benchmarks.size_map`` measured.

Command: python -m analysis.size_map_figure [--out docs/images/size_map.png]    (seconds)
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from analysis.style import line_style, use_style
from benchmarks.size_map import Delivered, Size, read, reported, tables

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records" / "size_map.jsonl"
TICKS = (0.03, 0.125, 0.5, 2)
PANELS: tuple[tuple[str, Callable[[Size], str], tuple[Size, ...]], ...] = (
    (
        "Width (one block, patch 8, heads of 16 or one)",
        lambda size: f"{size.width}",
        tuple(Size(width) for width in (12, 16, 24, 32, 48, 64)),
    ),
    (
        "Width (one block, patch 8, heads of 4)",
        lambda size: f"{size.width}",
        tuple(Size(width, head_dim=4) for width in (12, 16, 24, 36, 48)),
    ),
    (
        "Depth (patch 8)",
        lambda size: f"{size.width} wide, {size.depth} deep",
        tuple(Size(width, depth=depth) for width in (16, 32) for depth in (1, 2, 4)),
    ),
    (
        "Patch (one block)",
        lambda size: f"{size.width} wide, patch {size.patch}",
        tuple(Size(width, patch=patch) for width in (16, 32) for patch in (16, 8, 4)),
    ),
)


def draw(found: Sequence[Delivered], out: Path) -> None:
    """Draw two panels for widths, one for depths and one for patches."""
    use_style()
    figure, axes = plt.subplots(
        2, 2, figsize=(9, 7), sharex=True, sharey=True, layout="constrained"
    )
    for axis, (title, label, sizes) in zip(axes.flat, PANELS, strict=True):
        draw_sizes(axis, found, [(label(size), size) for size in sizes])
        axis.set(title=title, xscale="log")
        axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], minor=False)
        axis.minorticks_off()
        axis.legend(frameon=False)
    figure.supxlabel("training FLOPs (T multiply-adds)")
    figure.supylabel("zero-shot top-1 (%)")
    figure.savefig(out, dpi=150)
    plt.close(figure)


def draw_sizes(axis: Axes, found: Sequence[Delivered], sizes: Sequence[tuple[str, Size]]) -> None:
    """A line for each size: the mean over seeds, and every seed as a small mark."""
    values = reported(found, "zero_shot")
    for place, (label, size) in enumerate(sizes):
        budgets = sorted(flops for other, flops in values if other == size)
        points = {b / 1e12: [100 * value for value in values[size, b]] for b in budgets}
        style: dict[str, Any] = line_style(place)
        means = [statistics.mean(seeds) for seeds in points.values()]
        (line,) = axis.plot(list(points), means, label=label, **style)
        for budget, seeds in points.items():
            axis.plot([budget] * len(seeds), seeds, ".", ms=3, color=line.get_color())


def main() -> None:
    """Read the records, draw them and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "size_map.png")
    found = read(RECORDS)
    draw(found, parser.parse_args().out)
    print(tables(found))


if __name__ == "__main__":
    main()
