"""The reference of every YAML setting, made from the dataclasses that read the files."""

import typing
from collections.abc import Iterator

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


def settings_page() -> str:
    """The whole page, as Markdown."""
    experiment = sections("", ExperimentConfig)
    comparison = section("comparison", CompareConfig, "## A comparison")
    return "\n".join([INTRODUCTION, *experiment, *comparison])


def sections(key: str, config: type) -> Iterator[str]:
    """A dataclass's section, then those of the dataclasses within it, in the fields' order."""
    heading = f"### `{key}` {{#{anchor(key)}}}" if key else "## An experiment"
    yield from section(key, config, heading)
    for name, hint in typing.get_type_hints(config).items():
        for step, part in parts_of(hint):
            yield from sections(dotted(key, name) + step, part)


def section(key: str, config: type, heading: str) -> Iterator[str]:
    """One dataclass: heading, first paragraph of its docstring, table of its settings."""
    hints = typing.get_type_hints(config)
    yield f"{heading}\n\n{markdown(paragraph(config))}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for setting in settings_of(config):
        yield row(dotted(key, setting.name), setting, parts_of(hints[setting.name]))
    yield ""


def row(key: str, setting: Setting, parts: list[tuple[str, type]]) -> str:
    """One line of a table: choices by name, and links to the tables of its parts, come last."""
    names = ", ".join(f"`{name}`" for name in CHOICES.get(key, ()))
    cells = (
        f"`{setting.name}`",
        f"`{setting.type}`",
        setting.default if setting.default in ("", "required") else f"`{setting.default}`",
        setting.meaning or " ".join(paragraph(part) for _, part in parts),
    )
    line = " | ".join(markdown(cell).replace("|", "\\|") for cell in cells)
    line += f" One of {names}." if names else ""
    line += "".join(f" [Keys](#{anchor(key + step)})." for step, _ in parts)
    return f"| {line} |"


def dotted(key: str, name: str) -> str:
    """The key of a setting within a section."""
    return f"{key}.{name}" if key else name


def anchor(key: str) -> str:
    """The id of a key's section in the page."""
    return "".join(letter if letter.isalnum() or letter == "_" else "-" for letter in key).rstrip(
        "-"
    )


def paragraph(config: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((config.__doc__ or "").strip().split("\n\n")[0].split())


def markdown(text: str) -> str:
    """A docstring's double backticks as Markdown's single ones."""
    return text.replace("``", "`")
