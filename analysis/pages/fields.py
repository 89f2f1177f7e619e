"""What a settings dataclass says of itself: its fields, their defaults and their docstrings.

Python keeps no docstring of a field, so the one below a field is read from the source's tree.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from nas_growclip.io.mappings import to_mapping


class Setting(NamedTuple):
    """One row of a table of settings."""

    name: str
    type: str
    default: str
    """As YAML; empty where a part of its own describes it."""
    meaning: str


def settings_of(config: type) -> list[Setting]:
    """The rows of one dataclass, in the order of its fields."""
    hints, docs = typing.get_type_hints(config), field_docs(config)
    return [
        Setting(field.name, type_name(hints[field.name]), default_of(field), docs[field.name])
        for field in dataclasses.fields(config)
        if field.init
    ]


def field_docs(config: type) -> dict[str, str]:
    """The docstring below each field, on one line; empty where there is none.

    Fields that a dataclass inherits have the docstrings of the class that declares them.
    """
    docs = {field.name: "" for field in dataclasses.fields(config)}
    for owner in reversed(config.__mro__):
        if dataclasses.is_dataclass(owner):
            docs |= own_field_docs(owner)
    return docs


def own_field_docs(config: type) -> dict[str, str]:
    """The docstrings below the fields that a class declares itself."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, below in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            docs[field.target.id] = docstring(below)
    return docs


def docstring(statement: ast.stmt) -> str:
    """A bare string's text on one line; empty for any other statement."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def default_of(field: "dataclasses.Field[Any]") -> str:
    """A field's default as YAML; ``required`` where it has none."""
    if field.default is not dataclasses.MISSING:
        return as_yaml(field.default)
    if field.default_factory is dataclasses.MISSING:
        return "required"
    default = field.default_factory()
    return "" if dataclasses.is_dataclass(default) else as_yaml(default)


def as_yaml(value: object) -> str:
    """A default as it would stand in a file, on one line."""
    plain = to_mapping({"value": value})["value"]
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def type_name(hint: Any) -> str:
    """A type as it is written in YAML's terms, as in ``list[int]`` or ``dict[str, float]``.

    A dataclass is a ``dict``: its keys are a table of its own. A literal is its choices.

    Raises:
        TypeError: If no setting has such a type.
    """
    if hint in (bool, int, float, str):
        return str(hint.__name__)
    if hint in (None, types.NoneType, typing.Any):
        return "any" if hint is typing.Any else "null"
    if dataclasses.is_dataclass(hint):
        return "dict"
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(as_yaml(choice) for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(part) for part in inner))
    if origin is tuple:
        return f"list[{type_name(inner[0])}]"
    if origin is Mapping:
        return f"dict[str, {type_name(inner[1])}]"
    raise TypeError(f"{hint}: must be a type that settings have. Add it to type_name.")


def parts_of(hint: Any) -> list[tuple[str, type]]:
    """The dataclasses within a type, each with how a dotted key goes on to it.

    ``""`` for the value itself or one of several, ``[]`` for a list's entries, ``.NAME`` for a
    mapping's values.
    """
    if dataclasses.is_dataclass(hint):
        return [("", typing.cast("type", hint))]
    origin = typing.get_origin(hint)
    step = {tuple: "[]", Mapping: ".NAME"}.get(origin, "")
    return [(step + on, part) for inner in typing.get_args(hint) for on, part in parts_of(inner)]
