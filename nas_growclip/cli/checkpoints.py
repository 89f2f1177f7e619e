"""The commands that work on checkpoints: grow, import, export, flops, eval, space."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_growclip.cli.arguments import parse_size, read_arch, read_space, require_new_folder
from nas_growclip.models.arch import PRESETS, ClipArch

if TYPE_CHECKING:
    from nas_growclip.growth.config import GrowthConfig
    from nas_growclip.models.clip import Clip

FLOPS_NOTE = "FLOPs are fvcore FLOPs: one multiply-add is one; for one image-text pair, forward."


def _add_grow(commands: Any) -> None:
    parser = commands.add_parser("grow", help="one inheriting step on a checkpoint")
    parser.add_argument("parent", type=Path, metavar="PARENT", help="checkpoint folder")
    parser.add_argument(
        "--set",
        action="append",
        required=True,
        metavar="DIMENSION=SIZE",
        dest="sizes",
        help="as in image.width=96; may be given again",
    )
    parser.add_argument("--operator", default="exact", help="growth operator (default: exact)")
    parser.add_argument("--depth-operator", default="identity", help="default: identity")
    parser.add_argument("--placement", default="spread", choices=("spread", "end"))
    parser.add_argument("--momentum", type=float, default=1.0, help="PIM's m in [0, 1]")
    parser.add_argument("--pim", default="convex", help="reading of PIM (default: convex)")
    parser.add_argument("--norm-pre", default="refuse", choices=("refuse", "approximate"))
    parser.add_argument("--seed", type=int, default=0, help="seed of fresh entries")
    parser.add_argument("--out", required=True, type=Path, metavar="CHILD")
    parser.set_defaults(command=grow)


def grow(options: argparse.Namespace) -> None:
    """Grow a checkpoint and say what changed and what it costs."""
    sizes = dict(parse_size(text) for text in options.sizes)
    require_new_folder(options.out)
    from nas_growclip.growth.config import GrowthConfig
    from nas_growclip.growth.inherit import inherit
    from nas_growclip.growth.verify import similarity_change
    from nas_growclip.interop.importing import open_checkpoint
    from nas_growclip.models.checkpoint import save_model
    from nas_growclip.models.flops import count_flops

    parent = open_checkpoint(options.parent)
    config = GrowthConfig(
        operator=options.operator,
        depth_operator=options.depth_operator,
        placement=options.placement,
        momentum=options.momentum,
        pim=options.pim,
        norm_pre=options.norm_pre,
    )
    child = inherit(parent, parent.arch.with_sizes(sizes), seed=options.seed, config=config)
    save_model(child, options.out)
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


def _add_import(commands: Any) -> None:
    parser = commands.add_parser(
        "import", help="a checkpoint from an OpenCLIP, OpenAI or Hugging Face CLIP model"
    )
    parser.add_argument(
        "model",
        metavar="MODEL_NAME_OR_CONFIG_JSON",
        help="a model that open_clip knows, its JSON config, a Hugging Face config.json, a folder "
        "with one of them, or hf-hub:OWNER/NAME (downloads)",
    )
    parser.add_argument(
        "weights",
        nargs="?",
        metavar="WEIGHTS",
        help="safetensors file, state dict, or a pretrained tag (downloads); of a folder or of "
        "the hub the ones there",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.set_defaults(command=import_)


def import_(options: argparse.Namespace) -> None:
    """Write a checkpoint of another tool's model and say what it is."""
    require_new_folder(options.out)
    from nas_growclip.interop.importing import import_model
    from nas_growclip.models.checkpoint import save_model
    from nas_growclip.models.flops import count_flops

    model = import_model(options.model, options.weights)
    save_model(model, options.out)
    print(f"{options.out}: {model.num_params} parameters, {count_flops(model.arch)} FLOPs")
    print(FLOPS_NOTE)


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export", help="a folder that OpenCLIP or Hugging Face's CLIPModel loads"
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint folder")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--format", default="open_clip", choices=("open_clip", "hf"), help="default: open_clip"
    )
    parser.set_defaults(command=export)


def export(options: argparse.Namespace) -> None:
    """Write a checkpoint in another tool's format and say how to load it."""
    require_new_folder(options.out)
    from nas_growclip.interop.exporting import FORMATS
    from nas_growclip.interop.importing import open_checkpoint

    FORMATS[options.format](open_checkpoint(options.checkpoint), options.out)
    loads = {
        "open_clip": 'open_clip.create_model_and_transforms("local-dir:{}")',
        "hf": 'transformers.CLIPModel.from_pretrained("{}")',
    }
    print(f"Load it with {loads[options.format].format(options.out)}")


def _add_flops(commands: Any) -> None:
    parser = commands.add_parser("flops", help="FLOPs and parameters by encoder")
    parser.add_argument(
        "arch",
        metavar="ARCH_OR_CHECKPOINT",
        help=f"a preset ({', '.join(PRESETS)}), a YAML or JSON file, or a checkpoint folder",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=flops)


def flops(options: argparse.Namespace) -> None:
    """Print FLOPs and parameters by encoder."""
    arch = read_arch(options.arch)
    from nas_growclip.models.flops import count_flops, flops_by_encoder, params_by_encoder

    by_encoder, params = flops_by_encoder(arch), params_by_encoder(arch)
    if options.json:
        print(json.dumps({"flops": dict(by_encoder), "params": dict(params)}, indent=2))
        return
    print(f"{'encoder':<8} {'FLOPs':>16} {'parameters':>14}")
    for encoder, count in by_encoder.items():
        print(f"{encoder:<8} {count:>16,} {params[encoder]:>14,}")
    print(f"{'total':<8} {count_flops(arch):>16,} {sum(params.values()):>14,}")
    print(FLOPS_NOTE)


def _add_eval(commands: Any) -> None:
    parser = commands.add_parser("eval", help="zero-shot top-1 and retrieval recall")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="DIR",
        help="a zero-shot set (CLIP_benchmark layout), a folder of pair shards, "
        "'scenes' or 'digits'; may be given again",
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--json", action="store_true", help="print one CLIP_benchmark record for each data set"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write these records, one file for each data set"
    )
    parser.set_defaults(command=evaluate)


def evaluate(options: argparse.Namespace) -> None:
    """Measure a checkpoint on zero-shot sets and pairs; every number beside its chance level."""
    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be 1 or more, but got {options.batch_size}.")
    from nas_growclip.interop.importing import open_checkpoint

    model: Clip = open_checkpoint(options.checkpoint, options.device)
    if options.json or options.out is not None:
        _write_records(model, options)
        return
    from nas_growclip.evaluation.named_sets import evaluate_named_sets

    values = evaluate_named_sets(model, options.data, options.batch_size)
    print(f"{'metric':<44} {'value':>8} {'chance':>8}")
    for name, measure in values.items():
        print(f"{name:<44} {measure.value:>8.4f} {measure.chance:>8.4f}")


def _write_records(model: "Clip", options: argparse.Namespace) -> None:
    """CLIP_benchmark's records, printed or one file each, as its ``build`` takes them."""
    from nas_growclip.evaluation.benchmark import benchmark_records
    from nas_growclip.io.files import make_folder, write_atomically

    names = (options.checkpoint.resolve().name, str(options.checkpoint))
    records = benchmark_records(model, options.data, names, options.batch_size)
    if options.json:
        print(json.dumps(records, indent=2))
    if options.out is not None:
        make_folder(options.out)
        for record in records:
            name = f"{record['dataset'].replace('/', '_')}_{record['task']}.json"
            write_atomically(options.out / name, (json.dumps(record) + "\n").encode())
            print(options.out / name, file=sys.stderr)


def _add_space(commands: Any) -> None:
    parser = commands.add_parser(
        "space", help="the growth space at a data size, as another tool's search space"
    )
    parser.add_argument(
        "parent",
        metavar="PARENT",
        help=f"a preset ({', '.join(PRESETS)}), a YAML or JSON file, or a checkpoint folder",
    )
    parser.add_argument(
        "--pairs", required=True, type=int, metavar="N", help="pairs that the stage trains on"
    )
    parser.add_argument(
        "--format",
        required=True,
        help="optuna: distributions, their conditions and the candidates; "
        "nni: a search space for nnictl",
    )
    parser.add_argument(
        "--space",
        type=Path,
        metavar="FILE.yaml",
        help="growth space, as in search_spaces/; "
        "default: that of PARENT's run, if PARENT is a stage's folder in a run folder",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: print it")
    parser.set_defaults(command=space)


def space(options: argparse.Namespace) -> None:
    """Print or write the growth space from a parent at a data size."""
    parent, growth_space = read_arch(options.parent), read_space(options.space, options.parent)
    from nas_growclip.io.files import write_atomically
    from nas_growclip.search.export_space import space_document

    document = space_document(parent, options.pairs, growth_space, options.format)
    if options.out is None:
        print(document, end="")
        return
    write_atomically(options.out, document.encode())
    print(f"Growth space: {options.out}")
