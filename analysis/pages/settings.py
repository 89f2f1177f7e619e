"""The reference of every YAML setting, made from the dataclasses that read the files."""

import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from analysis.pages.fields import Setting, parts_of, settings_of
from nas_growclip.compare.config import CompareConfig
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.growth.depth import DEPTH_OPERATORS
from nas_growclip.growth.operators import OPERATORS
from nas_growclip.growth.pim import PIM_GROUPS, PIM_VARIANTS
from nas_growclip.models.arch import DIMENSIONS, PRESETS
from nas_growclip.search.backends import BACKENDS, EXPERIMENT_BACKENDS
from nas_growclip.search.nni.experiment import ASSESSORS, TUNERS
from nas_growclip.search.objective import OBJECTIVES
from nas_growclip.search.optuna.samplers import PRUNERS, SAMPLERS
from nas_growclip.search.trigger import TRIGGERS

CHOICES = {
    "growth.operator": OPERATORS,
    "growth.depth_operator": DEPTH_OPERATORS,
    "growth.pim": PIM_VARIANTS,
    "growth.pim_exclude": PIM_GROUPS,
    "search.backend": (*BACKENDS, *EXPERIMENT_BACKENDS),
    "search.sampler": SAMPLERS,
    "search.pruner": PRUNERS,
    "search.nni_tuner": TUNERS,
    "search.nni_assessor": ASSESSORS,
    "trigger.name": TRIGGERS,
    "objective.name": OBJECTIVES,
}
"""The names that a setting takes; a test compares them with what the reader accepts."""

INTRODUCTION = f"""# Settings

Made from the code of this version. One YAML is one experiment. A key that is not listed here, a
wrong type and an impossible value are refused, with the dotted key, the value and the remedy.
FLOPs are fvcore FLOPs: one multiply-add is one.

Presets for `parent`: {", ".join(f"`{name}`" for name in PRESETS)}.

Dimensions: {", ".join(f"`{name}`" for name in DIMENSIONS)}.
"""


class Table(NamedTuple):
    """The settings under one dotted key."""

    key: str
    config: type
    choice: str = ""
    """What selects this table where its key has several, as in ``source: csv``."""

    @property
    def anchor(self) -> str:
        """The id of its section in the page."""
        words = f"{self.key}.{self.choice.partition(': ')[2]}".rstrip(".")
        return "".join(c if c.isalnum() or c == "_" else "-" for c in words).rstrip("-")

    @property
    def heading(self) -> str:
        """Its heading."""
        where = f" with `{self.choice}`" if self.choice else ""
        return f"### `{self.key}`{where} {{#{self.anchor}}}"


Tables = Mapping[tuple[str, type], Table]
"""Every table of an experiment, by its key and dataclass."""


def settings_page() -> str:
    """The whole page, as Markdown."""
    known = all_tables()
    experiment, *parts = known.values()
    sections = [f"{part.heading}\n\n{body(part, known)}" for part in parts]
    first = f"## An experiment\n\n{body(experiment, known)}"
    last = f"## A comparison\n\n{body(Table('comparison', CompareConfig), known)}"
    return "\n".join([INTRODUCTION, first, *sections, last])


def all_tables() -> Tables:
    """The tables in the fields' order, each once; a choice is named only where there is one."""
    found: dict[tuple[str, type], Table] = {}
    for table in tables(Table("", ExperimentConfig)):
        found.setdefault((table.key, table.config), table)
    counts = Counter(key for key, _ in found)
    return {at: t if counts[t.key] > 1 else t._replace(choice="") for at, t in found.items()}


def tables(table: Table) -> Iterator[Table]:
    """A table, then those of the dataclasses within it."""
    yield table
    for name, hint in typing.get_type_hints(table.config).items():
        for step, part in parts_of(hint):
            choice = choice_of(part) or table.choice
            yield from tables(Table(dotted(table.key, name) + step, part, choice))


def choice_of(config: type) -> str:
    """The setting that can have but one value, which so selects the dataclass; empty if none."""
    for name, hint in typing.get_type_hints(config).items():
        values = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        if len(values) == 1:
            return f"{name}: {values[0]}"
    return ""


def body(table: Table, known: Tables) -> str:
    """First paragraph of the dataclass's docstring, and a row for each setting."""
    hints = typing.get_type_hints(table.config)
    rows = []
    for setting in settings_of(table.config):
        key = dotted(table.key, setting.name)
        found = [known.get((key + step, part)) for step, part in parts_of(hints[setting.name])]
        rows.append(row(key, setting, [part for part in found if part]))
    head = "| key | type | default | meaning |\n|---|---|---|---|"
    return "\n".join([f"{markdown(paragraph(table.config))}\n", head, *rows, ""])


def row(key: str, setting: Setting, parts: list[Table]) -> str:
    """One line of a table: choices by name, and links to the tables of its parts, come last."""
    names = ", ".join(f"`{name}`" for name in CHOICES.get(key, ()))
    cells = (
        f"`{setting.name}`",
        f"`{setting.type}`",
        setting.default if setting.default in ("", "required") else f"`{setting.default}`",
        meaning_of(setting, parts),
    )
    line = " | ".join(markdown(cell).replace("|", "\\|") for cell in cells)
    line += f" One of {names}." if names else ""
    line += "".join(f" [{link_words(part)}](#{part.anchor})." for part in parts)
    return f"| {line} |"


def meaning_of(setting: Setting, parts: list[Table]) -> str:
    """A setting's docstring; else what its parts say of themselves, or which table it selects."""
    if setting.meaning or parts:
        return setting.meaning or " ".join(paragraph(part.config) for part in parts)
    return "Selects this table." if setting.type == setting.default else ""


def link_words(part: Table) -> str:
    """The text of a link to a table."""
    return f"Keys of {part.choice.partition(': ')[2]}" if part.choice else "Keys"


def dotted(key: str, name: str) -> str:
    """The key of a setting within a section."""
    return f"{key}.{name}" if key else name


def paragraph(config: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((config.__doc__ or "").strip().split("\n\n")[0].split())


def markdown(text: str) -> str:
    """A docstring's double backticks as Markdown's single ones."""
    return text.replace("``", "`")
