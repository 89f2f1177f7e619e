"""The command line, ``growclip``. Heavy libraries are imported inside a command only."""

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from nas_growclip.cli.checkpoints import export, grow, import_
from nas_growclip.cli.doctor import doctor
from nas_growclip.cli.init import init
from nas_growclip.cli.measures import evaluate, flops, space
from nas_growclip.cli.nni import nni
from nas_growclip.cli.nni_trial import nni_trial
from nas_growclip.cli.runs import calibrate, compare, continue_, report, rescore, run, worker
from nas_growclip.cli.slurm import submit
from nas_growclip.io.versions import own_version

BAD_INPUT = 2
INTERRUPTED = 130

COMMANDS: Mapping[str, Callable[..., int | None]] = {
    "init": init,
    "run": run,
    "continue": continue_,
    "compare": compare,
    "worker": worker,
    "submit": submit,
    "report": report,
    "rescore": rescore,
    "calibrate": calibrate,
    "grow": grow,
    "import": import_,
    "export": export,
    "flops": flops,
    "eval": evaluate,
    "space": space,
    "nni": nni,
    "nni-trial": nni_trial,
    "doctor": doctor,
}
"""Every command under its name: a typed function whose docstring is its help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; bad input gives one line on stderr and exit code 2.

    A command may return another exit code; None is 0.
    """
    try:
        return _invoke(sys.argv[1:] if arguments is None else arguments)
    except typer.TyperException as error:
        return _refuse(_usage_message(error))
    except (ValueError, OSError) as error:
        return _refuse(str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("growclip: interrupted; the same command resumes from here.", file=sys.stderr)
        return INTERRUPTED


def _invoke(arguments: Sequence[str]) -> int:
    check_launcher(arguments[0] if arguments else "")
    command = make_command()
    try:
        with command.make_context("growclip", list(arguments)) as context:
            code: int | None = command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return code or 0


def _usage_message(error: typer.TyperException) -> str:
    """What is wrong with a command line, and which help says more."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "growclip"
    return f"{error.format_message().rstrip('.')}. See {command} --help."


def _refuse(message: str) -> int:
    print(f"growclip: error: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


def make_command() -> Any:
    """Every command with its options, as typer makes it of the functions."""
    app = typer.Typer(
        help="Grow CLIP models over growing data.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options_of_all)
    for name, function in COMMANDS.items():
        text, example = described(function)
        summary = text.partition("\n")[0].removesuffix(".")
        app.command(name, help=text, short_help=summary, epilog=example)(function)
    return typer.main.get_command(app)


def described(function: Callable[..., object]) -> tuple[str, str]:
    """A command's help and its example, from its docstring; what is raised is left out."""
    text, _, example = (inspect.getdoc(function) or "").partition("\nExample:\n")
    lines = [line for line in example.partition("\n\n")[0].splitlines() if line]
    return text.strip(), "\b\nExample:\n" + "\n".join(f"  {line.strip()}" for line in lines)


def _print_version(is_asked: bool) -> bool:
    if is_asked:
        print(own_version())
        raise typer.Exit
    return is_asked


def _options_of_all(
    shows_version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options that stand before a command."""


def check_launcher(command: str) -> None:
    """Refuse to do several times at once what one process does alone.

    Raises:
        ValueError: If torchrun starts a command that is not ``run``.
    """
    is_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if command != "run" and is_torchrun and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("torchrun can start `growclip run` only. Start this command by itself.")
