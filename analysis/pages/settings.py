"""The reference of every YAML setting, made from the dataclasses that read the files."""

import typing
from collections.abc import Iterator
from typing import NamedTuple

from analysis.pages.fields import Setting, parts_of, settings_of
from nas_growclip.compare.config import CompareConfig
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.growth.depth import DEPTH_OPERATORS
from nas_growclip.growth.operators import OPERATORS
from nas_growclip.growth.pim import PIM, PIM_GROUPS
from nas_growclip.models.arch import DIMENSIONS, PRESETS
from nas_growclip.search.backends import BACKENDS, EXPERIMENT_BACKENDS
from nas_growclip.search.nni.experiment import ASSESSORS, TUNERS
from nas_growclip.search.objective import OBJECTIVES
from nas_growclip.search.optuna.samplers import PRUNERS, SAMPLERS
from nas_growclip.search.trigger import TRIGGERS

CHOICES = {
    "growth.operator": OPERATORS,
    "growth.depth_operator": DEPTH_OPERATORS,
    "growth.pim": PIM,
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
    """The settings under one dotted key; several tables of one key are a choice among them."""

    key: str
    config: type

    @property
    def choice(self) -> tuple[str, str] | None:
        """The setting that selects this one among several, and its value, as in source: csv."""
        for name, hint in typing.get_type_hints(self.config).items():
            values = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
            if len(values) == 1:
                return name, str(values[0])
        return None

    @property
    def anchor(self) -> str:
        """The id of its section in the page."""
        key = f"{self.key}.{self.choice[1]}" if self.choice else self.key
        return "".join(c if c.isalnum() or c == "_" else "-" for c in key).rstrip("-")

    @property
    def heading(self) -> str:
        """Its heading, with the choice it stands for."""
        where = " with `{}: {}`".format(*self.choice) if self.choice else ""
        return f"### `{self.key}`{where} {{#{self.anchor}}}"


def settings_page() -> str:
    """The whole page, as Markdown."""
    experiment, *parts = dict.fromkeys(tables(Table("", ExperimentConfig)))
    sections = [f"{part.heading}\n\n{body(part)}" for part in parts]
    comparison = body(Table("comparison", CompareConfig))
    return "\n".join(
        [
            INTRODUCTION,
            f"## An experiment\n\n{body(experiment)}",
            *sections,
            f"## A comparison\n\n{comparison}",
        ]
    )


def tables(table: Table) -> Iterator[Table]:
    """A table, then those of the dataclasses within it, in the fields' order."""
    yield table
    for name, hint in typing.get_type_hints(table.config).items():
        for part in within(dotted(table.key, name), hint):
            yield from tables(part)


def within(key: str, hint: object) -> list[Table]:
    """The tables of a setting's own type."""
    return [Table(key + step, part) for step, part in parts_of(hint)]


def body(table: Table) -> str:
    """First paragraph of the dataclass's docstring, and a row for each setting."""
    hints = typing.get_type_hints(table.config)
    rows = [
        row(dotted(table.key, s.name), s, within(dotted(table.key, s.name), hints[s.name]))
        for s in settings_of(table.config)
    ]
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
    return f"Keys of {part.choice[1]}" if part.choice else "Keys"


def dotted(key: str, name: str) -> str:
    """The key of a setting within a section."""
    return f"{key}.{name}" if key else name


def paragraph(config: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((config.__doc__ or "").strip().split("\n\n")[0].split())


def markdown(text: str) -> str:
    """A docstring's double backticks as Markdown's single ones."""
    return text.replace("``", "`")
