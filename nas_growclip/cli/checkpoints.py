"""The commands that work on checkpoints: grow, import, export, flops, eval, space."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_growclip.cli.choices import (
    DEPTH_OPERATORS,
    EXPORT_FORMATS,
    OPERATORS,
    PIM_VARIANTS,
    SPACE_FORMATS,
    NormPre,
    Placement,
    listed,
)
from nas_growclip.cli.options import (
    ARCH_HELP,
    AsJson,
    Checkpoint,
    Device,
    NewFolder,
    parse_size,
    read_arch,
    read_space,
    require_at_least_one,
    require_new_folder,
)
from nas_growclip.io.choices import require_choice

if TYPE_CHECKING:
    from nas_growclip.growth.config import GrowthConfig
    from nas_growclip.models.arch import ClipArch
    from nas_growclip.models.clip import Clip

FLOPS_NOTE = "FLOPs are fvcore FLOPs: one multiply-add is one; for one image-text pair, forward."

LOADS = {
    "open_clip": 'open_clip.create_model_and_transforms("local-dir:{}")',
    "hf": 'transformers.CLIPModel.from_pretrained("{}")',
}
"""How each export is loaded."""


def grow(
    parent: Annotated[Path, typer.Argument(metavar="PARENT", help="checkpoint folder")],
    sizes: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="DIMENSION=SIZE", help="as in image.width=96; may be given again"
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="CHILD", help="a new or empty folder")],
    operator: Annotated[
        str, typer.Option(metavar=listed(OPERATORS), help="growth operator")
    ] = "exact",
    depth_operator: Annotated[
        str, typer.Option(metavar=listed(DEPTH_OPERATORS), help="where new blocks come from")
    ] = "identity",
    placement: Annotated[
        Placement, typer.Option(help="where new blocks stand: between the parent's, or behind them")
    ] = "spread",
    momentum: Annotated[float, typer.Option(metavar="M", help="PIM's m in [0, 1]")] = 1.0,
    pim: Annotated[str, typer.Option(metavar=listed(PIM_VARIANTS), help="PIM variant")] = "convex",
    norm_pre: Annotated[
        NormPre, typer.Option(help="what to do where a norm_pre parent cannot grow exactly")
    ] = "refuse",
    seed: Annotated[int, typer.Option(metavar="N", help="seed of fresh entries")] = 0,
) -> None:
    """Grow a checkpoint: one inheriting step.

    Prints what changed, which steps keep the function, and what the child costs.

    Example:
        growclip grow runs/demo/stage_00 --set image.width=96 --set text.depth=4 --out child
    """
    targets = dict(parse_size(text) for text in sizes)
    require_choice(operator, OPERATORS, "--operator")
    require_choice(depth_operator, DEPTH_OPERATORS, "--depth-operator")
    require_choice(pim, PIM_VARIANTS, "--pim")
    require_new_folder(out)
    from nas_growclip.growth.config import GrowthConfig
    from nas_growclip.growth.inherit import inherit
    from nas_growclip.interop.importing import open_checkpoint
    from nas_growclip.models.checkpoint import save_model

    config = GrowthConfig(
        operator=operator,
        depth_operator=depth_operator,
        placement=placement,
        momentum=momentum,
        pim=pim,
        norm_pre=norm_pre,
    )
    model = open_checkpoint(parent)
    child = inherit(model, model.arch.with_sizes(targets), seed=seed, config=config)
    save_model(child, out)
    _print_growth(model, child, config)


def _print_growth(parent: "Clip", child: "Clip", config: "GrowthConfig") -> None:
    from nas_growclip.growth.verify import similarity_change
    from nas_growclip.models.flops import count_flops

    for line in describe_growth(parent.arch, child.arch, config):
        print(line)
    change = similarity_change(parent, child)
    print(f"similarities of random images and texts change by at most {change:.1e}")
    for name, model in (("parent", parent), ("child", child)):
        print(f"{name}: {model.num_params} parameters, {count_flops(model.arch)} FLOPs")
    print(FLOPS_NOTE)


def describe_growth(parent: "ClipArch", child: "ClipArch", config: "GrowthConfig") -> list[str]:
    """A line for each step: sizes, and whether it keeps the function."""
    from nas_growclip.growth.claims import step_claims

    return [
        f"{dimension} {old} -> {new}: {'exact' if is_exact else 'not exact'} ({condition})"
        for dimension, old, new, is_exact, condition in step_claims(parent, child, config)
    ]


def import_(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_NAME_OR_CONFIG_JSON",
            help="a model that open_clip knows, its JSON config, a Hugging Face config.json, a "
            "folder with one of them, or hf-hub:OWNER/NAME (downloads)",
        ),
    ],
    out: NewFolder,
    weights: Annotated[
        str | None,
        typer.Argument(
            metavar="WEIGHTS",
            help="safetensors file, state dict, the index or folder of one in parts, or a "
            "pretrained tag (downloads); of a folder or of the hub the ones there",
        ),
    ] = None,
) -> None:
    """Write a checkpoint of an OpenCLIP, OpenAI or Hugging Face CLIP model, as it was trained.

    Example:
        growclip import ViT-B-32 open_clip_model.safetensors --out parent
    """
    require_new_folder(out)
    from nas_growclip.interop.importing import import_with_provenance
    from nas_growclip.models.checkpoint import save_model
    from nas_growclip.models.flops import count_flops

    imported, provenance = import_with_provenance(model, weights)
    save_model(imported, out)
    for line in provenance:
        print(line)
    print(f"{out}: {imported.num_params} parameters, {count_flops(imported.arch)} FLOPs")
    print(FLOPS_NOTE)


def export(
    checkpoint: Checkpoint,
    out: NewFolder,
    format: Annotated[
        str, typer.Option(metavar=listed(EXPORT_FORMATS), help="whose format")
    ] = "open_clip",
) -> None:
    """Write a folder that OpenCLIP or Hugging Face's CLIPModel loads.

    Example:
        growclip export runs/demo/stage_02 --format hf --out exported
    """
    require_choice(format, EXPORT_FORMATS, "--format")
    require_new_folder(out)
    from nas_growclip.interop.exporting import FORMATS
    from nas_growclip.interop.importing import open_checkpoint

    FORMATS[format](open_checkpoint(checkpoint), out)
    print(f"Load it with {LOADS[format].format(out)}")


def flops(
    arch: Annotated[str, typer.Argument(metavar="ARCH_OR_CHECKPOINT", help=ARCH_HELP)],
    as_json: AsJson = False,
) -> None:
    """Print FLOPs and parameters by encoder.

    Example:
        growclip flops vit_b_32
    """
    read = read_arch(arch)
    from nas_growclip.models.flops import count_flops, flops_by_encoder, params_by_encoder

    by_encoder, params = flops_by_encoder(read), params_by_encoder(read)
    if as_json:
        print(json.dumps({"flops": dict(by_encoder), "params": dict(params)}, indent=2))
        return
    print(f"{'encoder':<8} {'FLOPs':>16} {'parameters':>14}")
    for encoder, count in by_encoder.items():
        print(f"{encoder:<8} {count:>16,} {params[encoder]:>14,}")
    print(f"{'total':<8} {count_flops(read):>16,} {sum(params.values()):>14,}")
    print(FLOPS_NOTE)


def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[
        list[str],
        typer.Option(
            metavar="DIR|FILE.csv|scenes|digits",
            help="a zero-shot or retrieval set (CLIP_benchmark layout, class folders), a folder of "
            "pairs (shards or files), a CSV file, scenes or digits; may be given again",
        ),
    ],
    batch_size: Annotated[int, typer.Option(metavar="N", help="images at a time")] = 128,
    device: Device = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print one CLIP_benchmark record for each data set")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="write these records, one file for each data set"),
    ] = None,
) -> None:
    """Measure zero-shot top-1 and retrieval recall; every number beside its chance level.

    Example:
        growclip eval runs/demo/stage_02 --data digits --data scenes
    """
    require_at_least_one("--batch-size", batch_size)
    from nas_growclip.experiment.stage_setup import find_device
    from nas_growclip.interop.importing import open_checkpoint

    model = open_checkpoint(checkpoint, find_device(device))
    if as_json or out is not None:
        names = (checkpoint.resolve().name, str(checkpoint))
        _write_records(model, data, names, batch_size, as_json=as_json, out=out)
        return
    from nas_growclip.evaluation.named_sets import evaluate_named_sets

    values = evaluate_named_sets(model, data, batch_size)
    print(f"{'metric':<44} {'value':>8} {'chance':>8}")
    for name, measure in values.items():
        print(f"{name:<44} {measure.value:>8.4f} {measure.chance:>8.4f}")


def _write_records(
    model: "Clip",
    data: Sequence[str],
    names: tuple[str, str],
    batch_size: int,
    *,
    as_json: bool,
    out: Path | None,
) -> None:
    """CLIP_benchmark's records, printed or one file each, as its ``build`` takes them."""
    from nas_growclip.evaluation.benchmark import benchmark_records
    from nas_growclip.io.files import make_folder, write_atomically

    records = benchmark_records(model, data, names, batch_size)
    if as_json:
        print(json.dumps(records, indent=2))
    if out is not None:
        make_folder(out)
        for record in records:
            name = f"{record['dataset'].replace('/', '_')}_{record['task']}.json"
            write_atomically(out / name, (json.dumps(record) + "\n").encode())
            print(out / name, file=sys.stderr)


def space(
    parent: Annotated[str, typer.Argument(metavar="PARENT", help=ARCH_HELP)],
    pairs: Annotated[int, typer.Option(metavar="N", help="pairs that the stage trains on")],
    format: Annotated[
        str,
        typer.Option(
            metavar=listed(SPACE_FORMATS),
            help="optuna: distributions, their conditions and the candidates; "
            "nni: a search space for nnictl",
        ),
    ],
    space: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml",
            help="growth space, as in search_spaces/; default: that of PARENT's run, if PARENT is "
            "a stage's folder in a run folder",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="default: print it")] = None,
) -> None:
    """Print or write the growth space at a data size, as another tool's search space.

    Example:
        growclip space tiny --pairs 4000 --format nni --space search_spaces/tiny.yaml
    """
    arch, growth_space = read_arch(parent), read_space(space, parent)
    from nas_growclip.io.files import write_atomically
    from nas_growclip.search.export_space import space_document

    document = space_document(arch, pairs, growth_space, format)
    if out is None:
        print(document, end="")
        return
    write_atomically(out, document.encode())
    print(f"Growth space: {out}")
