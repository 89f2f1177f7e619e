"""The reference of the command line: what each command says of itself with ``--help``."""

from collections.abc import Iterator, Mapping
from typing import Any

from nas_growclip.cli.main import make_command

INTRODUCTION = """# Commands

Made from the commands of this version; `growclip COMMAND --help` prints the same. Bad input gives
one line on stderr and exit code 2; a command that was interrupted exits with 130.
"""


def commands_page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([INTRODUCTION, *sections()])


def sections() -> Iterator[str]:
    """One section for each command, in the order of ``growclip --help``."""
    command = make_command()
    with command.make_context("growclip", [], resilient_parsing=True) as context:
        for name, subcommand in command.commands.items():
            with subcommand.make_context(name, [], context, resilient_parsing=True) as own:
                yield f"## {name}\n\n```text\n{subcommand.get_help(own)}\n```\n"


def subcommands() -> Mapping[str, Any]:
    """The commands by name."""
    commands: Mapping[str, Any] = make_command().commands
    return commands
