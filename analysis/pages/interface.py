"""The reference of the Python interface: a page for each room, filled by mkdocstrings."""

import ast
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

ORDER = (
    *("cli", "compare", "doctor", "experiment", "report", "interop", "search", "training"),
    *("records", "evaluation", "growth", "data", "models", "io"),
)
"""The rooms as the layers stand; a test compares them with the package."""


def interface_pages() -> dict[str, str]:
    """Markdown of each page by its name."""
    rooms = {f"{room}.md": room_page(room) for room in ORDER}
    return {"index.md": index_page()} | rooms


def index_page() -> str:
    """The stable names and the rooms."""
    names = [f"| [`{name}`][{home(name)}.{name}] | {summary_of(name)} |" for name in stable()]
    rooms = [f"| [{room}]({room}.md) | {about(PACKAGE / room / '__init__.py')} |" for room in ORDER]
    return INTRODUCTION + "\n".join(names) + "\n" + ROOMS + "\n".join(rooms) + "\n"


def room_page(room: str) -> str:
    """One section for each module that has a public name."""
    modules = [path for path in sorted((PACKAGE / room).rglob("*.py")) if path.stem != "__init__"]
    sections = [f"::: {dotted(path)}\n" for path in modules]
    return f"# {room}\n\n{about(PACKAGE / room / '__init__.py')}\n\n" + "\n".join(sections)


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
