"""The command line, ``growclip``. Heavy libraries are imported inside a command only."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nas_growclip.cli.checkpoints import (
    _add_eval,
    _add_export,
    _add_flops,
    _add_grow,
    _add_import,
    _add_space,
)
from nas_growclip.cli.runs import (
    _add_compare,
    _add_continue,
    _add_report,
    _add_rescore,
    _add_run,
    _add_worker,
    run,
)

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
        _add_compare,
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


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="look for what breaks in practice; exit code 1 if there is a problem"
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run folder to look at")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=doctor)


def doctor(options: argparse.Namespace) -> int:
    """Check this machine, and a run folder if given; 1 if there is a problem, else 0."""
    from nas_growclip.doctor.checks import describe, diagnose
    from nas_growclip.doctor.machine import Place

    findings = diagnose(Place(run=options.run))
    if options.json:
        rows = [{"name": name, **vars(finding)} for name, finding in findings.items()]
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(describe(findings)))
    return int(any(finding.status == "problem" for finding in findings.values()))
