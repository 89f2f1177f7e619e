"""A picture for each method of growth, drawn from the code that grows.

The pictures are those of docs/reference/operators.md.

Axis operators are shown as their matrices (a row for each of the child's entries, a column for each
of the parent's), depth operators as the child's list of blocks, and PIM variants as the value of
single entries against the momentum. Nothing is drawn by hand: who changes an operator and runs this
again sees the change. The tiny sizes are for the eye; the rules are the same at every size.

Command: python -m analysis.operator_pictures [--out docs/images/operators]    (about a minute)
"""

import argparse
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from torch import Tensor

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.depth import DEPTH_OPERATORS, BlockSource, DepthStep
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.inputs import GrowthInputs, ImagesAndTokens
from nas_growclip.growth.ligo import learn_plan
from nas_growclip.growth.maps import AxisMap, AxisStep, Expansion
from nas_growclip.growth.operators import OPERATORS, SPECIAL_AXES
from nas_growclip.growth.pim import PIM_VARIANTS, Inherited
from nas_growclip.growth.plan import plan_growth
from nas_growclip.growth.tensors import inherit_tensor
from nas_growclip.growth.verify import perturbed, probe, similarity_change
from nas_growclip.models.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.axes import parse_axes
from nas_growclip.models.clip import Clip

DPI = 110
WIDTH = 7.0
"""Inches: a page's text column."""

PARENT = ClipArch(
    image=ImageArch(depth=2, width=4, mlp_width=4, patch_size=4, image_size=8, head_dim=2),
    text=TextArch(depth=2, width=4, mlp_width=4, context_length=4, head_dim=2),
    shared=SharedArch(depth=1, mlp_width=4, head_dim=2),
    embed_dim=4,
)
"""Every axis that is shown has four entries."""

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "hatch.color": "#666666",
}

COLORS = "RdBu_r"
LARGEST = 3.0
"""Value of the strongest colour: high, so that black numbers can be read on every cell."""


# Matrices.


class Panel(NamedTuple):
    """One matrix of a picture."""

    title: str
    expansion: Expansion


def draw_panels(rows: Mapping[str, Sequence[Panel]], note: str) -> Figure:
    """A picture of matrices: a row for each growth, a panel for each role."""
    columns = max(map(len, rows.values()))
    heights = [max(len(panel.expansion.is_new) for panel in panels) for panels in rows.values()]
    width = max(panel.expansion.matrix.shape[1] for panels in rows.values() for panel in panels)
    cell = min(0.31, WIDTH / (columns * (width + 1.3)))
    size = (max(4.6, columns * (width + 1.6) * cell), sum(heights) * cell + 0.55 * len(heights) + 1)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.09))
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for axes_row, (label, panels) in zip(grid, rows.items(), strict=True):
        for axes, panel in itertools.zip_longest(axes_row, panels):
            if panel is None:
                axes.axis("off")
            else:
                draw_matrix(axes, panel)
        axes_row[0].set_ylabel(f"{label}\nchild's entry")
    kinds = {kind for panels in rows.values() for panel in panels for kind in kinds_of(panel)}
    add_legend(figure, kinds, note)
    return figure


KINDS: Mapping[str, Mapping[str, Any]] = {
    "fresh": {"hatch": "////", "facecolor": "white"},
    "block above": {"hatch": "....", "facecolor": "#e2e2e2"},
}
"""How entries that the matrix does not give are marked."""

KIND_WORDS = {
    "fresh": "fresh initialisation",
    "block above": "this combination, but of the block above",
}


def kinds_of(panel: Panel) -> list[str]:
    """For each of the child's entries, how it is marked; '' where the matrix gives it."""
    expansion = panel.expansion
    return [
        "fresh"
        if expansion.is_free and not expansion.is_rotated and bool(expansion.is_new[row])
        else "block above"
        if expansion.is_upper is not None and bool(expansion.is_upper[row])
        else ""
        for row in range(len(expansion.is_new))
    ]


def draw_matrix(axes: Axes, panel: Panel) -> None:
    """One matrix: colour and number for each entry, hatching where it does not hold."""
    matrix = panel.expansion.dense.detach().double()
    new, old = matrix.shape
    axes.imshow(matrix.numpy(), cmap=COLORS, vmin=-LARGEST, vmax=LARGEST, aspect="equal")
    for row, kind in enumerate(kinds_of(panel)):
        if kind:
            box = Rectangle((-0.5, row - 0.5), old, 1, linewidth=0, **KINDS[kind])
            axes.add_patch(box)
        if kind != "fresh":
            for column in range(old):
                draw_number(axes, (column, row), float(matrix[row, column]), boxed=bool(kind))
        elif panel.expansion.free_scale != 1:
            words = f"fresh x {panel.expansion.free_scale:g}"
            draw_words(axes, (old / 2 - 0.5, row), words)
    axes.set_title(panel.title)
    axes.set_anchor("N")
    axes.set_xticks(range(old), [str(n + 1) for n in range(old)])
    axes.set_yticks(range(new), [str(n + 1) for n in range(new)])
    axes.tick_params(length=0)
    axes.set_xticks([n - 0.5 for n in range(1, old)], minor=True)
    axes.set_yticks([n - 0.5 for n in range(1, new)], minor=True)
    axes.grid(which="minor", color="#bbbbbb", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def draw_number(axes: Axes, place: tuple[float, float], value: float, *, boxed: bool) -> None:
    """A value in its cell, short: '.92', '-.31', '1'; a pale dot for zero."""
    if abs(value) < 5e-4:
        axes.text(*place, "0", ha="center", va="center", fontsize=6.5, color="#999999")
        return
    tiny = abs(value) < 0.005
    words = "~0" if tiny else f"{value:.2f}".replace("0.", ".").removesuffix(".00")
    background: dict[str, Any] = (
        {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.6}} if boxed else {}
    )
    axes.text(*place, words, ha="center", va="center", fontsize=6.5, **background)


def draw_words(axes: Axes, place: tuple[float, float], words: str) -> None:
    """Words on a hatched row."""
    background = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    axes.text(*place, words, ha="center", va="center", fontsize=6.5, bbox=background)


def add_legend(figure: Figure, kinds: set[str], note: str) -> None:
    """Below the panels: the marks that occur, and one line of words."""
    figure.supxlabel(f"parent's entry\n{note}" if note else "parent's entry", fontsize=8)
    handles = [
        Patch(label=KIND_WORDS[kind], edgecolor="#666666", **KINDS[kind])
        for kind in KINDS
        if kind in kinds
    ]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=2)


def step_of(axis: str, new: int, parent: ClipArch = PARENT, **settings: Any) -> AxisStep:
    """An axis of the parent that grows; its architectures follow where operators look at them."""
    return AxisStep(
        axis,
        4,
        new,
        parent,
        parent,
        GrowthConfig(**settings),
        torch.Generator().manual_seed(0),
    )


def stream_panels(axis_map: AxisMap) -> list[Panel]:
    """Writer, reader and gain of a residual stream."""
    centred = " (centred)" if axis_map.write.is_centred else ""
    return [
        Panel(f"stream: writer{centred}", axis_map.write),
        Panel("stream: reader", axis_map.read),
        Panel("stream: gain", axis_map.gain),
    ]


def unit_panels(axis_map: AxisMap) -> list[Panel]:
    """Writer and reader of MLP units."""
    return [Panel("units: writer", axis_map.write), Panel("units: reader", axis_map.read)]


NOTES = {
    "exact": "The writer includes centring: c (I - 1/4), with c = sqrt(new / old).",
    "average": "Writers of the stream are scaled by c = sqrt(new / (r old)), r whole copies.",
    "net2net": "Shares of one parent's entry are uneven and add up to 1. In a stream only whole "
    "copies (4 to 8) are exact.",
    "hypercloning": "Only whole copies, even shares; symmetric noise (not shown) parts them.",
    "aki": "Readers are net2net's, so what new entries write does not fit: not exact.",
    "random": "Nothing is inherited.",
}


def draw_operator(name: str) -> Figure:
    """An axis operator: a stream and MLP units, by a fraction and by a whole number."""
    rows = {}
    for new in (6, 8):
        if (name, new) in (("hypercloning", 6), ("random", 8)):  # an error; nothing new to see
            continue
        stream, units = (
            OPERATORS[name].axis(step_of(axis, new)) for axis in ("image.width", "image.mlp_width")
        )
        rows[f"4 to {new}"] = stream_panels(stream) + unit_panels(units)
    return draw_panels(rows, NOTES[name])


def draw_ligo() -> Figure:
    """LiGO's matrices before and after training, here on random pairs."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(32, 3, 8, 8, generator=rng)
    _, tokens = probe(PARENT, count=32)

    def batches(_: Clip) -> Iterator[ImagesAndTokens]:
        return itertools.repeat((images, tokens))

    child = PARENT.with_sizes({"image.width": 6, "image.mlp_width": 6})
    parent, rows = perturbed(Clip(PARENT, seed=1)), {}
    for label, steps in (("start", 0), ("trained", 60)):
        config = GrowthConfig(operator="ligo", learn_steps=steps, learn_rate=0.01)
        plan = learn_plan(plan_growth(parent, child, config), batches)
        stream, units = (plan.maps[axis] for axis in ("image.width", "image.mlp_width"))
        rows[f"4 to 6, {label}"] = stream_panels(stream) + unit_panels(units)
    return draw_panels(rows, "Starts as net2net; writers and readers are trained, gains are not.")


def draw_head_dim() -> Figure:
    """Wider heads."""
    rows = {}
    for new in (6, 8):
        axis_map = SPECIAL_AXES["image.head_dim"](step_of("image.head_dim", new))
        rows[f"4 to {new}"] = [
            Panel("rows of queries", axis_map.expansion("query")),
            Panel("rows of keys", axis_map.expansion("key")),
            Panel("rows of values", axis_map.write),
            Panel("reader (attention output)", axis_map.read),
        ]
    return draw_panels(rows, "Queries are scaled by sqrt(new / old).")


def draw_embed_dim() -> Figure:
    """A wider joint embedding, with and without a shared encoder."""
    shared = SPECIAL_AXES["embed_dim"](step_of("embed_dim", 6))
    plain = PARENT.with_size("shared.depth", 0)
    alone = SPECIAL_AXES["embed_dim"](step_of("embed_dim", 6, plain))
    rows = {
        "with a shared encoder": [
            Panel("writer: c Q", shared.write),
            Panel("reader: Q / c, and fresh\northogonal to Q", shared.read),
            Panel("gain (folded\ninto readers)", shared.gain),
        ],
        "without one": [
            Panel("image projection", alone.write),
            Panel("text projection", alone.expansion("text_side")),
        ],
    }
    return draw_panels(rows, "4 to 6. Q keeps lengths, and c Q maps the vector of ones to ones.")


def draw_patch_size() -> Figure:
    """Pixels along one side of a patch."""
    panels = [
        Panel(f"4 to {new} pixels", SPECIAL_AXES["image.patch_size"](step_of("", new)).write)
        for new in (3, 6, 8)
    ]
    return draw_panels({"one side": panels}, "Both sides of a patch are resized so, one by one.")


def draw_tokens() -> Figure:
    """Positions on the patch grid, square and not."""
    parent, tall = PARENT, PARENT.with_size("image.image_height", 12)
    grown = parent.with_size("image.image_size", 12)
    wider = tall.with_size("image.image_size", 12)
    rows = {
        f"{old.image.grid[0]} x {old.image.grid[1]} to {new.image.grid[0]} x {new.image.grid[1]}": [
            Panel("positions", tokens_map(old, new).write)
        ]
        for old, new in ((parent, grown), (tall, wider))
    }
    figure = draw_panels(
        {"": [panel for panels in rows.values() for panel in panels]},
        "Entry 1 is the class token. Rows and columns of the grid are read row by row.",
    )
    for axes, label in zip(figure.axes, rows, strict=True):
        axes.set_title(f"grid {label}")
    return figure


def tokens_map(old: ClipArch, new: ClipArch) -> AxisMap:
    """How positions are resampled between two architectures."""
    sizes = old.image.num_tokens, new.image.num_tokens
    step = step_of("image.tokens", 0)._replace(
        old=sizes[0], new=sizes[1], parent_arch=old, child_arch=new
    )
    return SPECIAL_AXES["image.tokens"](step)


def draw_appended_rows() -> Figure:
    """Context length and vocabulary."""
    panels = [
        Panel(words, SPECIAL_AXES[axis](step_of(axis, 6)).write)
        for axis, words in (
            ("text.context_length", "text.context_length:\npositions"),
            ("text.vocab_size", "text.vocab_size:\ntoken embeddings"),
        )
    ]
    return draw_panels({"4 to 6": panels}, "")


def draw_norm_pre() -> Figure:
    """A width whose stream a LayerNorm writes."""
    parent = replace(PARENT, image=replace(PARENT.image, norm_pre=True))
    operator = OPERATORS["exact"].axis
    rows = {}
    for label, new, mode in (("refuse, 4 to 8", 8, "refuse"), ("approximate, 4 to 6", 6, None)):
        axis_map = operator(step_of("image.width", new, parent, norm_pre=mode or "approximate"))
        rows[label] = [
            *stream_panels(axis_map),
            Panel("gain of norm_pre", axis_map.expansion("stream_gain")),
        ]
    return draw_panels(rows, "Operator exact. With refuse, 4 to 6 is an error.")


# Lists of blocks.


MODE_STYLES: Mapping[str, Mapping[str, Any]] = {
    "parent's, active": {"facecolor": "#e3eef6"},
    "inserted, active": {"facecolor": "#e0954a"},
    "inserted, silent": {"facecolor": "white", "hatch": "////"},
    "inserted, cancelled": {"facecolor": "white", "hatch": "xxxx"},
    "inserted, gated": {"facecolor": "white", "hatch": "||||"},
}


def style_of(source: BlockSource) -> str:
    """What a block of the child is."""
    origin = "inserted" if source.is_inserted else "parent's"
    return f"{origin}, {source.mode}"


def draw_depth(name: str) -> Figure:
    """A depth operator: where each of the child's blocks comes from."""
    steps = {
        "3 to 5": DepthStep(3, 5),
        "3 to 5, placement: end": DepthStep(3, 5, "end"),
        "3 to 6": DepthStep(3, 6),
        "no block yet, to 2": DepthStep(0, 2),
    }
    sources = {label: DEPTH_OPERATORS[name].sources(step) for label, step in steps.items()}
    if sources["3 to 5"] == sources["3 to 5, placement: end"]:
        del sources["3 to 5, placement: end"]
    figure = Figure(figsize=(5.6, 0.2 + 0.62 * len(sources)), layout="constrained")
    for axes, (label, blocks) in zip(
        figure.subplots(len(sources), 1, squeeze=False)[:, 0], sources.items(), strict=True
    ):
        draw_blocks(axes, label, blocks)
    used = {style_of(source) for blocks in sources.values() for source in blocks}
    handles = [
        Patch(label=label, edgecolor="black", linewidth=0.8, **style)
        for label, style in MODE_STYLES.items()
        if label in used
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    return figure


def draw_blocks(axes: Axes, label: str, blocks: Sequence[BlockSource]) -> None:
    """The child's blocks from the first (left) to the last, each with its sources in the parent."""
    for position, source in enumerate(blocks):
        box = Rectangle(
            (position + 0.05, 0.1), 0.9, 0.8, edgecolor="black", **MODE_STYLES[style_of(source)]
        )
        axes.add_patch(box)
        words = source_words(source)
        background = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
        plain = not MODE_STYLES[style_of(source)].get("hatch")
        axes.text(
            position + 0.5,
            0.5,
            words,
            ha="center",
            va="center",
            fontsize=7,
            bbox=None if plain else background,
        )
    axes.set(xlim=(0, 6), ylim=(0, 1), xticks=[], yticks=[])
    axes.set_ylabel(label.replace(", ", ",\n"), rotation=0, ha="right", va="center")
    axes.spines[:].set_visible(False)


def source_words(source: BlockSource) -> str:
    """The parent's blocks by number, with weights where there are several."""
    if not source.parents:
        return "fresh"
    if len(source.parents) == 1:
        return f"b{source.parents[0][0] + 1}"
    return "\n+ ".join(f"{float(weight):.2g} b{n + 1}" for n, weight in source.parents)


# PIM variants.


class Traced(NamedTuple):
    """An entry whose value is followed as the momentum changes."""

    label: str
    inherited: Inherited
    place: tuple[int, ...]


LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#A0457A", "#000000")


def traced_entries() -> list[Traced]:
    """One entry of each kind: two copies of a unit, a norm, and an inserted block's matrices."""
    step = AxisStep(
        "image.mlp_width", 2, 4, PARENT, PARENT, GrowthConfig(), torch.Generator().manual_seed(3)
    )
    maps = {"image.mlp_width": OPERATORS["net2net"].axis(step)}
    weight = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    fresh = torch.tensor([[-0.6, 0.2, 0.5, 0.1]], dtype=torch.float64)
    spec = parse_axes("1 <- image.mlp_width")
    reader, null = inherit_tensor(weight, None, fresh, spec, maps)
    fan_out = Inherited("mlp.fc2.weight", reader, fresh, null, True, False, False)
    one, other = (torch.full((1,), value, dtype=torch.float64) for value in (0.8, -0.3))
    inner = Inherited("mlp.fc1.weight", one, other, None, True, is_silent=True, is_zero=False)
    zero = inner._replace(value=torch.zeros_like(one), is_zero=True)
    norm = Inherited("norm1.weight", one + 0.5, one, None, False, False, False)
    first, second = (n for n in range(4) if float(maps["image.mlp_width"].read.matrix[n, 0]))
    return [
        Traced("fan-out of a unit", fan_out, (0, first)),
        Traced("fan-out of its copy", fan_out, (0, second)),
        Traced("norm, bias or position", norm, (0,)),
        Traced("inserted block: inner matrix", inner, (0,)),
        Traced("inserted block: output projection", zero, (0,)),
    ]


MOMENTA = [n / 20 for n in range(21)]


def draw_entries(axes: Axes, name: str, entries: Sequence[Traced]) -> None:
    """Values of single entries against the momentum."""
    for number, (label, inherited, place) in enumerate(entries):
        values = [
            float(PIM_VARIANTS[name].blend(inherited, GrowthConfig(pim=name, momentum=m))[place])
            for m in MOMENTA
        ]
        style: dict[str, Any] = {"linestyle": LINE_STYLES[number], "color": LINE_COLORS[number]}
        axes.plot(MOMENTA, values, label=label, linewidth=1.5, **style)
    copies = [
        sum(
            float(
                PIM_VARIANTS[name].blend(entry.inherited, GrowthConfig(pim=name, momentum=m))[
                    entry.place
                ]
            )
            for entry in entries[:2]
        )
        for m in MOMENTA
    ]
    marked: dict[str, Any] = {
        "marker": "o",
        "markevery": 4,
        "markersize": 3.5,
        "color": "#777777",
        "linewidth": 1.0,
    }
    axes.plot(MOMENTA, copies, label="sum of the two fan-outs", **marked)
    against_momentum(axes, "value of the entry")


def against_momentum(axes: Axes, what: str, lowest: float = 0.0) -> None:
    """Axes of a plot against the momentum."""
    axes.set(xlabel="momentum m", ylabel=what, xlim=(lowest - 0.03, 1.03))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e3e3", linewidth=0.6)


def draw_variant(name: str) -> Figure:
    """A PIM variant: which entries it blends."""
    figure = Figure(figsize=(5.6, 2.6), layout="constrained")
    axes = figure.subplots()
    draw_entries(axes, name, traced_entries())
    figure.legend(loc="outside right upper")
    return figure


def draw_ema() -> Figure:
    """The variant that starts from the moving average: as convex, but towards another value."""
    figure = Figure(figsize=(5.6, 2.6), layout="constrained")
    axes = figure.subplots()
    weight = next(entry.inherited for entry in traced_entries() if entry.inherited.is_silent)
    average = weight._replace(value=weight.value - 0.25)
    sources = {"convex: from the weight": weight, "ema: from its moving average": average}
    for number, (label, inherited) in enumerate(sources.items()):
        values = [
            float(PIM_VARIANTS["ema"].blend(inherited, GrowthConfig(pim="ema", momentum=m)))
            for m in MOMENTA
        ]
        style: dict[str, Any] = {"linestyle": LINE_STYLES[number], "color": LINE_COLORS[number]}
        axes.plot(MOMENTA, values, label=label, linewidth=1.5, **style)
        axes.plot([1], values[-1:], marker="o", markersize=5, color=LINE_COLORS[number])
    axes.plot([0], [float(weight.fresh)], "ks", markersize=5, label="fresh value")
    against_momentum(axes, "value of a matrix's entry")
    figure.legend(loc="outside right upper")
    return figure


def draw_budgeted() -> Figure:
    """The variant that searches for its momentum, on a small model with a stand-in for its loss."""
    budget, lowest = 0.15, 0.4
    parent = perturbed(Clip(PARENT, seed=1).double())
    child = PARENT.with_sizes({"image.width": 6, "text.mlp_width": 8})
    tried: list[tuple[float, float]] = []
    whole, fresh = (inherit(parent, child, GrowthConfig(momentum=m)) for m in (1.0, 0.0))

    def loss(model: Clip) -> float:
        change = similarity_change(parent, model)
        if model is not parent:
            tried.append((momentum_of(model, whole, fresh), change))
        return change

    inputs = GrowthInputs(validation_loss=loss)
    found = inherit(parent, child, GrowthConfig(pim="budgeted", budget=budget), inputs=inputs)
    momenta = [m for m in MOMENTA if m >= lowest]
    curve = [
        similarity_change(parent, inherit(parent, child, GrowthConfig(momentum=m))) for m in momenta
    ]
    figure = Figure(figsize=(5.6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(momenta, curve, color="#777777", linewidth=1.2, label="convex blend")
    axes.axhline(budget, color="#D55E00", linestyle="--", label="budget")
    axes.plot(*zip(*tried, strict=True), "o", color="#0072B2", markersize=4, label="measured")
    for number, (momentum, change) in enumerate(tried, start=1):
        offset: dict[str, Any] = {
            "xytext": (0, 6 if number % 2 else -11),
            "textcoords": "offset points",
        }
        axes.annotate(str(number), (momentum, change), ha="center", fontsize=7, **offset)
    taken = momentum_of(found, whole, fresh)
    axes.axvline(taken, color="black", linestyle=":", label=f"taken: m = {taken:.3f}")
    against_momentum(axes, "change of similarities", lowest)
    figure.legend(loc="outside right upper")
    return figure


def momentum_of(model: Clip, whole: Clip, fresh: Clip) -> float:
    """The momentum of a convex blend, from one of its matrices."""
    name = "text.blocks.0.attn.qkv.weight"
    value, top, bottom = (m.state_dict()[name].flatten() for m in (model, whole, fresh))
    line: Tensor = top - bottom
    return float((value - bottom).dot(line) / line.dot(line))


PICTURES: Mapping[str, Callable[[], Figure]] = {
    **{name: functools.partial(draw_operator, name) for name in OPERATORS if name != "ligo"},
    "ligo": draw_ligo,
    "head_dim": draw_head_dim,
    "embed_dim": draw_embed_dim,
    "patch_size": draw_patch_size,
    "tokens": draw_tokens,
    "appended_rows": draw_appended_rows,
    "norm_pre": draw_norm_pre,
    **{f"depth_{name}": functools.partial(draw_depth, name) for name in DEPTH_OPERATORS},
    **{
        f"pim_{name}": functools.partial(draw_variant, name)
        for name in PIM_VARIANTS
        if name not in ("ema", "budgeted")
    },
    "pim_ema": draw_ema,
    "pim_budgeted": draw_budgeted,
}
"""Every picture by its file's name."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every picture, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("docs/images/operators"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name in options.names or PICTURES:
            save(PICTURES[name](), options.out / f"{name}.png")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of few colours: a quarter of the size, and the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    picture = Image.open(buffer).convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
