"""The command line, ``growclip``. Heavy libraries are imported inside a command only."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_growclip.models.arch import PRESETS, ClipArch

if TYPE_CHECKING:
    from nas_growclip.growth.config import GrowthConfig
    from nas_growclip.growth.space import GrowthSpace
    from nas_growclip.models.clip import Clip

FLOPS_NOTE = "FLOPs are fvcore FLOPs: one multiply-add is one; for one image-text pair, forward."

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; bad input gives one line on stderr and exit code 2.

    A command may return another exit code; None is 0.
    """
    options = make_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        check_launcher(command)
        return command(options) or 0
    except (ValueError, OSError) as error:
        print(f"growclip: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("growclip: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


def check_launcher(command: Callable[[argparse.Namespace], int | None]) -> None:
    """Refuse to do several times at once what one process does alone.

    Raises:
        ValueError: If torchrun starts a command that is not ``run``.
    """
    is_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if command is not run and is_torchrun and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("torchrun can start `growclip run` only. Start this command by itself.")


def make_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="growclip", description="Grow CLIP models over growing data."
    )
    parser.add_argument("--version", action="version", version=version("nas_growclip"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_run,
        _add_continue,
        _add_study,
        _add_worker,
        _add_report,
        _add_grow,
        _add_flops,
        _add_eval,
        _add_doctor,
    ):
        add(commands)
    _add_space(commands)
    _add_rescore(commands)
    _add_import(commands)
    _add_export(commands)
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    """Where the data is and where to train: the same for every command that trains."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="where data paths start")
    _add_device(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="torch device; default: cuda if there is one, else cpu")


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run", help="run a staged experiment; the same command again resumes it"
    )
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", type=Path)
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="run folder")
    _add_place(parser)
    parser.add_argument("--seed", type=int, help="replaces the experiment's seed")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run a staged experiment and print its table and its report's path."""
    from nas_growclip.io.mappings import read_mapping

    read_mapping(options.experiment)  # a bad file is told before the slow imports
    from nas_growclip.experiment.config import load_config
    from nas_growclip.experiment.follower import check_team, follow
    from nas_growclip.experiment.run import is_complete, run_experiment
    from nas_growclip.report import print_summary
    from nas_growclip.training.sharding import state_device
    from nas_growclip.training.team import join_team

    config = load_config(options.experiment, options.seed)
    team = join_team(options.device)
    check_team(config, team)
    if not team.is_leader:
        follow(config, options.data, team)
        return
    was_complete = is_complete(config, options.out)
    device = state_device(config.train, team) or options.device
    records = run_experiment(config, options.out, data_folder=options.data, device=device)
    team.leave()
    print_summary(records)
    if was_complete:
        print(f"The run in {options.out} was complete already; nothing was trained.")
    print(f"Report: {options.out / 'report' / 'index.html'}")


def _add_continue(commands: Any) -> None:
    parser = commands.add_parser(
        "continue", help="add a stage to a finished run when more shards arrive; resumes too"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="SHARDS",
        help="folder with the new shards: the run's own one, extended, or another",
    )
    parser.add_argument(
        "--old-data",
        type=Path,
        metavar="DIR",
        help="where the run's own data paths start; default: where the run has found it",
    )
    _add_device(parser)
    parser.add_argument(
        "--flops",
        type=float,
        metavar="F",
        help="training FLOPs of the stage; default: as the run has it, for the pairs there are now",
    )
    parser.set_defaults(command=continue_)


def continue_(options: argparse.Namespace) -> None:
    """Add a stage to a finished run; print its table, what was added and the report's path."""
    if options.flops is not None and not 0 < options.flops < math.inf:
        raise ValueError(f"--flops must be above 0, but got {options.flops:g}.")
    from nas_growclip.records.entries import config_path

    config_path(options.run)  # a bad folder is told before the slow imports
    from nas_growclip.experiment.extend import continue_run
    from nas_growclip.report import print_summary

    continued = continue_run(
        options.run,
        options.data,
        old_data=options.old_data,
        device=options.device,
        flops=options.flops,
    )
    print_summary(continued.records)
    print(continued.what)
    print(f"Report: {options.run / 'report' / 'index.html'}")


def _add_study(commands: Any) -> None:
    parser = commands.add_parser(
        "study", help="arms of one experiment over seeds, compared; the same command resumes it"
    )
    parser.add_argument("study", metavar="STUDY.yaml", type=Path)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="study's folder")
    _add_place(parser)
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes at a time (default: 1)"
    )
    parser.set_defaults(command=study)


def study(options: argparse.Namespace) -> None:
    """Run what is left of a study, print its table and where its results are."""
    if options.workers < 1:
        raise ValueError(f"--workers must be 1 or more, but got {options.workers}.")
    from nas_growclip.io.mappings import read_mapping

    read_mapping(options.study)  # a bad file is told before the slow imports
    from nas_growclip.compare.config import load_study
    from nas_growclip.compare.runner import run_study

    results = run_study(
        load_study(options.study),
        options.out,
        data_folder=options.data,
        device=options.device,
        workers=options.workers,
    )
    print((results / "arms.md").read_text(encoding="utf-8"))
    print(f"Results: {results}")


def _add_worker(commands: Any) -> None:
    parser = commands.add_parser(
        "worker", help="take part in the searches of a run that goes on elsewhere"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    _add_place(parser)
    parser.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="leave after so long without work; default: stay until the run is complete",
    )
    parser.set_defaults(command=worker)


def worker(options: argparse.Namespace) -> None:
    """Try candidates for a run, until it is complete."""
    from nas_growclip.experiment.worker import work

    work(
        options.run,
        data_folder=options.data,
        device=options.device,
        patience=options.patience,
    )


def _add_report(commands: Any) -> None:
    parser = commands.add_parser("report", help="tables and figures from run folders")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: the first run's report folder"
    )
    parser.set_defaults(command=report)


def report(options: argparse.Namespace) -> None:
    """Write tables, figures and the page; print each run's table."""
    from nas_growclip.records.entries import load_run
    from nas_growclip.report import print_summary, write_report

    runs = [load_run(path) for path in options.runs]
    page = write_report(runs, options.out or options.runs[0] / "report")
    for records in runs:
        print_summary(records)
    print(f"Report: {page}")


def _add_rescore(commands: Any) -> None:
    parser = commands.add_parser(
        "rescore", help="score a run's finished stages again, without training"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder; nothing in it changes")
    parser.add_argument("--objective", metavar="NAME", help="replaces the run's objective")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="COEFFICIENT=NUMBER",
        dest="coefficients",
        help="as in capacity_exponent=0.7; may be given again",
    )
    parser.add_argument(
        "--data-ratio",
        type=float,
        default=1.0,
        metavar="R",
        help="as if each stage had had R times its data (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=rescore)


def rescore(options: argparse.Namespace) -> None:
    """Print recorded and new scores of each stage's candidates, and what is chosen then and now."""
    from nas_growclip.records.entries import load_run
    from nas_growclip.report import print_rescored
    from nas_growclip.report.rescoring import objective_config, rescore_run, rescoring_row

    changes: dict[str, str | float] = dict(map(parse_coefficient, options.coefficients))
    if options.objective is not None:
        changes["name"] = options.objective
    records = load_run(options.run)
    config = objective_config(records, changes)
    rescorings = rescore_run(records, config, data_ratio=options.data_ratio)
    if options.json:
        print(json.dumps([rescoring_row(records, stage) for stage in rescorings], indent=2))
    else:
        print_rescored(records, rescorings, config)


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
    from nas_growclip.models.flops import count_flops
    from nas_growclip.training.checkpoint import save_model

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
    from nas_growclip.models.flops import count_flops
    from nas_growclip.training.checkpoint import save_model

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
    from nas_growclip.evaluation.named_sets import evaluate_places

    values = evaluate_places(model, options.data, options.batch_size)
    print(f"{'metric':<44} {'value':>8} {'chance':>8}")
    for name, value in values.items():
        if not name.startswith("chance."):
            chance = values.get(f"chance.{name}", float("nan"))
            print(f"{name:<44} {value:>8.4f} {chance:>8.4f}")


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


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="look for what breaks in practice; exit code 1 if there is a problem"
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run folder to look at")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=doctor)


def doctor(options: argparse.Namespace) -> int:
    """Check this machine, and a run folder if given; 1 if there is a problem, else 0."""
    from nas_growclip.doctor.checks import Place, describe, diagnose

    findings = diagnose(Place(run=options.run))
    if options.json:
        rows = [{"name": name, **vars(finding)} for name, finding in findings.items()]
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(describe(findings)))
    return int(any(finding.status == "problem" for finding in findings.values()))


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


def read_space(path: Path | None, parent: str) -> "GrowthSpace":
    """A growth space from its file, else from the run that a parent is a stage of.

    Raises:
        ValueError: If the file is bad, or none is given and the parent is of no run.
    """
    from nas_growclip.growth.space import GrowthSpace
    from nas_growclip.io.mappings import from_mapping, read_mapping

    if path is not None:
        return from_mapping(GrowthSpace, read_mapping(path), str(path))
    config = Path(parent).resolve().parent / "config.yaml"
    if parent in PRESETS or not Path(parent).is_dir() or not config.is_file():
        raise ValueError(
            f"--space must be given unless PARENT is a stage's folder in a run folder, "
            f"but got PARENT={parent!r}. Give a file, as in --space search_spaces/tiny.yaml."
        )
    return from_mapping(GrowthSpace, read_mapping(config).get("space"), f"{config}: space")


def parse_size(text: str) -> tuple[str, int]:
    """Read ``image.width=96``.

    Raises:
        ValueError: If it has another form.
    """
    dimension, equals, size = text.partition("=")
    if not equals or not size.isdecimal():
        raise ValueError(f"--set must be DIMENSION=SIZE, as in image.width=96, but got {text!r}.")
    return dimension, int(size)


def parse_coefficient(text: str) -> tuple[str, float]:
    """Read ``capacity_exponent=0.7``.

    Raises:
        ValueError: If it has another form.
    """
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"--set must be COEFFICIENT=NUMBER, as in capacity_exponent=0.7, but got {text!r}."
        )
    return name, number


def read_arch(text: str) -> ClipArch:
    """An architecture from a preset's name, a file, or a checkpoint folder.

    Raises:
        ValueError: If it is none of them.
    """
    path = Path(text)
    if text in PRESETS:
        return ClipArch.preset(text)
    if (path / "arch.json").is_file():
        return ClipArch.load(path / "arch.json")
    if path.is_dir():
        from nas_growclip.interop.importing import checkpoint_arch

        return checkpoint_arch(path)
    if path.is_file():
        return ClipArch.load(path)
    raise ValueError(
        f"{text!r} must be a preset ({', '.join(PRESETS)}), a file or a checkpoint folder, "
        "but is none of them."
    )


def require_new_folder(path: Path) -> None:
    """Refuse to write into a folder that holds something.

    Raises:
        ValueError: If it does.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--out must be a new or empty folder, but {path} holds something.")
