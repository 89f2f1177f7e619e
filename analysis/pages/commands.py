"""The reference of the command line: what each command says of itself with ``--help``."""

import argparse
from collections.abc import Iterator

from nas_growclip.cli.main import make_parser

INTRODUCTION = """# Commands

Made from the parser of this version; `growclip COMMAND --help` prints the same. Bad input gives one
line on stderr and exit code 2; a command that was interrupted exits with 130.
"""


def commands_page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([INTRODUCTION, *sections(make_parser())])


def sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    """One section for each command, in the parser's order."""
    for name, command in subcommands(parser).items():
        yield f"## {name}\n\n```text\n{command.format_help()}```\n"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """A parser's commands by name."""
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)
