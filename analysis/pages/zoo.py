"""Which of OpenCLIP's models can be imported: every configuration, with its pretrained tags.

``docs/reference/zoo.md`` is this page; a test holds it to what the installed OpenCLIP lists.
``python -m analysis.pages.zoo`` writes it again.
"""

import functools
import re
from pathlib import Path
from typing import NamedTuple

import open_clip

from nas_growclip.interop.sources import read_config
from nas_growclip.models.arch import ClipArch

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "zoo.md"

_HEAD = """# OpenCLIP's models

Every model configuration of open_clip {version}, by `growclip import NAME`: {imported} of {configs}
can be imported ({config_share:.0%}), and with them {tags} of {all_tags} pretrained tags
({tag_share:.0%}). What is imported computes open_clip's embeddings to 1e-5 in fp32:
`tests/interop/test_open_clip.py` holds a cut-down model of every combination of traits to that, and
`tests/interop/test_zoo.py` finds each configuration's traits among them. Everything else is refused
by name. This page is written by `python -m analysis.pages.zoo`, and a test keeps it true.

| configuration | tags | imported |
|---|---|---|
"""


class Entry(NamedTuple):
    """One configuration of OpenCLIP."""

    name: str
    tags: tuple[str, ...]
    arch: ClipArch | None
    """What it is imported as; None: it is refused."""
    reason: str
    """Why it is refused, in the words of the refusal."""


@functools.cache
def zoo() -> tuple[Entry, ...]:
    """Every configuration that OpenCLIP brings along, in its order."""
    own = {path.stem for path in (Path(open_clip.__file__).parent / "model_configs").glob("*.json")}
    return tuple(_entry(name) for name in open_clip.list_models() if name in own)


def _entry(name: str) -> Entry:
    tags = tuple(open_clip.list_pretrained_tags_by_model(name))
    try:
        return Entry(name, tags, read_config(name).arch, "")
    except ValueError as error:
        return Entry(name, tags, None, str(error).removeprefix(f"{name}: "))


def zoo_page() -> str:
    """The page."""
    entries, good = zoo(), [entry for entry in zoo() if entry.arch is not None]
    tags, all_tags = (sum(len(e.tags) for e in some) for some in (good, entries))
    head = _HEAD.format(
        version=open_clip.__version__,
        imported=len(good),
        configs=len(entries),
        config_share=len(good) / len(entries),
        tags=tags,
        all_tags=all_tags,
        tag_share=tags / all_tags,
    )
    return head + "".join(map(_row, entries))


def _row(entry: Entry) -> str:
    what = "yes" if entry.arch is not None else f"no: {_short(entry.reason)}"
    return f"| `{entry.name}` | {len(entry.tags) or ''} | {what} |\n"


def _short(reason: str) -> str:
    """The refused setting, without the advice and without long values."""
    first = reason.split(", which cannot be represented")[0].split(" cannot be represented")[0]
    return re.sub(r"=(\{|\[).*", "", first).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(zoo_page())
