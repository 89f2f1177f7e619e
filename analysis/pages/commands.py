"""The reference of the command line, made from the commands that parse it."""

from typing import Any

from nas_growclip.cli.main import make_command

INTRODUCTION = """# Commands

Made from the commands of this version; `growclip COMMAND --help` prints the same. Bad input gives
one line on stderr and exit code 2; a command that was interrupted exits with 130.
"""


def commands_page() -> str:
    """The whole page, as Markdown."""
    commands = make_command().commands
    return "\n".join([INTRODUCTION, *(section(name, commands[name]) for name in commands)])


def section(name: str, command: Any) -> str:
    """One command: what it does, an example, its arguments and options as in ``--help``."""
    with command.make_context(f"growclip {name}", [], resilient_parsing=True) as context:
        text = command.get_help(context)
    options, _, example = text.partition("\n  Example:\n")
    usage, body = options.split("\n", 1)
    listing = usage + "\n\n" + body[first_list(body) :].rstrip()
    return (
        f"## {name}\n\n{command.help}\n\n"
        f"```console\n{unindented(example)}\n```\n\n"
        f"```text\n{listing}\n```\n"
    )


def first_list(text: str) -> int:
    """Where a help's lists start: at its arguments, or at its options if it has none."""
    return min(at for at in map(text.find, ("Arguments:\n", "Options:\n")) if at >= 0)


def unindented(text: str) -> str:
    """Lines without what they are indented by."""
    return "\n".join(line.strip() for line in text.strip().splitlines())
