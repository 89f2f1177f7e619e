"""The commands that measure and describe models: flops, eval, space."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_growclip.cli.checkpoints import FLOPS_NOTE
from nas_growclip.cli.choices import (
    SPACE_FORMATS,
    listed,
)
from nas_growclip.cli.options import (
    ARCH_HELP,
    AsJson,
    Checkpoint,
    Device,
    read_arch,
    read_space,
    require_at_least_one,
)

if TYPE_CHECKING:
    from nas_growclip.models.clip import Clip


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
    for names, reason in growth_space.left_out(arch, pairs).items():
        print(f"{names}: left out: {reason}", file=sys.stderr)
    if out is None:
        print(document, end="")
        return
    write_atomically(out, document.encode())
    print(f"Growth space: {out}")
