"""The reference of the Python interface: a page for each room, filled by mkdocstrings."""

import ast
import tomllib
from pathlib import Path

import nas_growclip

PACKAGE = Path(nas_growclip.__file__).parent

INTRODUCTION = """# Python interface

These names of `nas_growclip` are kept stable; they are imported when they are first used.

| name | what |
|---|---|
"""

ROOMS = """
The rooms, from the command line down. A room knows only those below it; each page follows the
docstrings of its modules.

| room | what is in it |
|---|---|
"""


def interface_pages() -> dict[str, str]:
    """Markdown of each page by its name."""
    pages = {f"{room}.md": room_page(room) for room in rooms()}
    return {"index.md": index_page()} | pages


def index_page() -> str:
    """The stable names and the rooms."""
    names = [f"| [`{name}`][{home(name)}.{name}] | {summary_of(name)} |" for name in stable()]
    table = [
        f"| [{room}]({room}.md) | {about(PACKAGE / room / '__init__.py')} |" for room in rooms()
    ]
    return INTRODUCTION + "\n".join(names) + "\n" + ROOMS + "\n".join(table) + "\n"


def room_page(room: str) -> str:
    """One section for each module that has a public name."""
    modules = [path for path in sorted((PACKAGE / room).rglob("*.py")) if path.stem != "__init__"]
    sections = [f"::: {dotted(path)}\n" for path in modules]
    return f"# {room}\n\n{about(PACKAGE / room / '__init__.py')}\n\n" + "\n".join(sections)


def rooms() -> list[str]:
    """The rooms as the layers stand, from the contract that ``lint-imports`` checks."""
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [name.rpartition(".")[2] for line in layers for name in line.split(" | ")]


def stable() -> list[str]:
    """The names that the package exports."""
    return list(nas_growclip.__all__)


def home(name: str) -> str:
    """The module that a stable name comes from."""
    return str(getattr(nas_growclip, name).__module__)


def summary_of(name: str) -> str:
    """The first line of a stable name's docstring."""
    lines = (getattr(nas_growclip, name).__doc__ or "").strip().splitlines()
    return lines[0].replace("``", "`") if lines else ""


def about(module: Path) -> str:
    """A module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return " ".join(text.split()).replace("``", "`")


def dotted(module: Path) -> str:
    """A file's module name."""
    return ".".join(module.relative_to(PACKAGE.parent).with_suffix("").parts)
