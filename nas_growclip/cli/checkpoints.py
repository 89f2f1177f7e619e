"""The commands that make checkpoints of others: grow, import, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_growclip.cli.choices import (
    DEPTH_OPERATORS,
    EXPORT_FORMATS,
    OPERATORS,
    PIM_VARIANTS,
    NormPre,
    Placement,
    listed,
)
from nas_growclip.cli.options import (
    Checkpoint,
    NewFolder,
    parse_size,
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
    "hf": 'transformers.AutoModel.from_pretrained("{}")',
    "siglip2": 'transformers.Siglip2Model.from_pretrained("{}")',
    "transformers": 'transformers.AutoModel.from_pretrained("{}", trust_remote_code=True)',
    "onnx": 'onnxruntime.InferenceSession("{}/image_encoder.onnx"), and text_encoder.onnx likewise',
    "torch": 'torch.export.load("{}/image_encoder.pt2").module(), and text_encoder.pt2 likewise',
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
    child = inherit(model, model.arch.with_sizes(targets), config, seed=seed)
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
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="files of the model's tokenizer, if it is not CLIP's and not on the hub",
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

    imported, provenance = import_with_provenance(model, weights, tokenizer)
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
    """Write a folder that other tools load: OpenCLIP, transformers, ONNX Runtime, PyTorch alone.

    open_clip, hf (CLIPModel or SiglipModel) and siglip2 take what those have; transformers
    (AutoModel, by code in the folder), onnx and torch (torch.export) take any, shared encoder
    included.

    Example:
        growclip export runs/demo/stage_02 --format onnx --out exported
    """
    require_choice(format, EXPORT_FORMATS, "--format")
    require_new_folder(out)
    from nas_growclip.interop.exporting import FORMATS
    from nas_growclip.interop.importing import open_checkpoint

    FORMATS[format](open_checkpoint(checkpoint, is_mapped=True), out)
    print(f"Load it with {LOADS[format].format(out)}")
