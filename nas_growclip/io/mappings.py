"""Read plain mappings (from YAML or JSON) into frozen dataclasses, strictly.

Every unknown key, missing key and wrong type is a ``ValueError`` that names the file, the dotted
path, the value and the remedy. Range checks stay in each dataclass's ``__post_init__``; their
messages gain the place here.
"""

import dataclasses
import functools
import json
import re
import types
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from nas_growclip.io.choices import did_you_mean, require_choice
from nas_growclip.io.formatting import brief

T = TypeVar("T")

OMITTED_AT_DEFAULT: Mapping[str, bool] = {"omitted_at_default": True}
"""Metadata of a dataclass's field that ``to_mapping`` writes only where it is not the default."""

MAX_YAML_BYTES = 2**22
"""Largest YAML file that is read: it is written by hand, and PyYAML takes seconds a megabyte."""

MAX_JSON_BYTES = 2**28
"""Largest JSON file that is read: a manifest may name 100,000 shards and more."""

MAX_YAML_NODES = 200_000
"""Values a YAML document may stand for, with all that its aliases repeat."""

_YAML_ERRORS = (
    yaml.YAMLError,
    ValueError,
    RecursionError,
    # What PyYAML itself stumbles over where a tag does not fit its value:
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)
_NUMBER_AS_TEXT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def read_mapping(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Mapping[str, Any]:
    """Read a YAML or JSON file whose top level is a mapping.

    Raises:
        ValueError: If the file is missing, unreadable, larger than ``max_bytes``, not valid YAML,
            gives a key twice, or is not a mapping.
    """
    is_json = path.suffix == ".json"
    text = read_text(path, max_bytes if is_json else min(max_bytes, MAX_YAML_BYTES))
    try:
        data = json.loads(text, object_pairs_hook=_unique) if is_json else _yaml_value(text)
    except _YAML_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: not valid {path.suffix[1:] or 'YAML'}: {reason}.") from None
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: must be a mapping of keys to values, but got {_kind(data)}.")
    return data


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """Read a text file of UTF-8.

    Raises:
        ValueError: If the file is missing, unreadable or larger than it can be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ValueError(f"{path}: must have at most {max_bytes} bytes, but has more.")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file. Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text: {error}.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, no key given twice."""
    data = dict(pairs)
    if len(data) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {brief(twice)!r} stands twice")
    return data


def _yaml_value(text: str) -> Any:
    """Plain values only, none repeated without end by aliases, no key given twice."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _num_nodes(node, {}) > MAX_YAML_NODES:
            raise ValueError(f"its aliases stand for more than {MAX_YAML_NODES} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _num_nodes(node: yaml.Node, counted: dict[yaml.Node, int]) -> int:
    """Values below a node, every alias counted as what it stands for; long text counts more."""
    if node not in counted:
        counted[node] = MAX_YAML_NODES + 1  # of itself, if it is met again before it is counted
        counted[node] = _own_size(node) + sum(_num_nodes(n, counted) for n in _children(node))
    return counted[node]


def _own_size(node: yaml.Node) -> int:
    return 1 + (len(node.value) // 100 if isinstance(node, yaml.ScalarNode) else 0)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        keys = set[tuple[str, str]]()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    line = key.start_mark.line + 1
                    raise ValueError(f"line {line}: the key {brief(key.value)!r} stands twice")
                keys.add((key.tag, key.value))
            yield from (key, value)


def from_mapping(cls: type[T], data: object, where: str) -> T:
    """Build dataclass ``cls`` from a mapping, checking keys and types.

    Args:
        cls: A dataclass; nested dataclasses, tuples, unions and literals are followed.
        data: What YAML or JSON gave.
        where: File and dotted path so far, for messages.

    Raises:
        ValueError: On an unknown or missing key, a wrong type, or a failed range check.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: must be a mapping, but got {_kind(data)}.")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    for key in data:
        if key not in fields:
            name = brief(key)
            raise ValueError(f"{where}: {name}: unknown key. {_suggest(name, list(fields))}")
    hints = _hints(cls)  # type: ignore[arg-type]  # of a class
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    for name, field in fields.items():
        has_default = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in values and not has_default:
            raise ValueError(f"{where}: {name}: missing key. Add it.")
    try:
        return cls(**values)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(where) else f"{where}: {message}") from None


def read_fields(settings: Any) -> None:
    """Read what a dataclass's fields were given as plain mappings and lists, as from a file.

    For its ``__post_init__``: what is made by hand, as ``GrowthConfig(rewarm={"steps": 9})``, is
    then what a file would give, or refused as there.

    Raises:
        ValueError: On an unknown or missing key, a wrong type, or a failed range check.
    """
    for name, hint in _nested_fields(type(settings)):  # type: ignore[arg-type]  # of a class
        value = getattr(settings, name)
        read = _convert(hint, value, name)
        if read is not value:
            object.__setattr__(settings, name, read)


@functools.cache
def _hints(cls: type) -> Mapping[str, Any]:
    """Its fields' types: asked for once, where folders hold hundreds of records."""
    return typing.get_type_hints(cls)


@functools.cache
def _nested_fields(cls: type) -> tuple[tuple[str, Any], ...]:
    """The fields that hold more than one plain value, with their types."""
    return tuple((n, hint) for n, hint in _hints(cls).items() if _is_nested(hint))


def _is_nested(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    holds_more = dataclasses.is_dataclass(hint) or origin is tuple
    is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
    return holds_more or is_mapping or any(map(_is_nested, typing.get_args(hint)))


def to_mapping(value: Any) -> Any:
    """Turn a dataclass into plain dicts, lists and scalars that ``from_mapping`` reads back."""
    if dataclasses.is_dataclass(value):
        return {
            f.name: to_mapping(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata.get("omitted_at_default") and getattr(value, f.name) == f.default)
        }
    if isinstance(value, Mapping):
        return {key: to_mapping(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_mapping(item) for item in value]
    return value


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, where)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            require_choice(brief(value), map(str, typing.get_args(hint)), where)
        return value
    if origin is tuple:
        return _convert_tuple(hint, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: must be a mapping, but got {_kind(value)}.")
        key_hint, item_hint = typing.get_args(hint)
        return {
            _convert(key_hint, key, f"{where}: key"): _convert(
                item_hint, item, f"{where}: {brief(key)}"
            )
            for key, item in value.items()
        }
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, where)
    return _convert_scalar(hint, value, where)


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    members = typing.get_args(hint)
    if value is None and type(None) in members:
        return None
    errors = []
    if isinstance(value, Mapping):  # then only a mapping can be meant, and its message helps
        members = tuple(m for m in members if dataclasses.is_dataclass(m)) or members
        if tagged := _tagged(members):
            return from_mapping(_member_meant(*tagged, value, where), value, where)
    for member in members:
        if member is not type(None):
            try:
                return _convert(member, value, where)
            except ValueError as error:
                errors.append(error)
    raise errors[0]


def _tagged(members: tuple[type, ...]) -> tuple[str, dict[str, type]] | None:
    """The field that tells dataclasses of a union apart, and the member for each of its values.

    It is the one whose type is a single text in every member, as in ``source: Literal["csv"]``.
    """
    if len(members) < 2 or not all(dataclasses.is_dataclass(member) for member in members):
        return None
    hints = [_hints(member) for member in members]
    for name, hint in hints[0].items():
        if typing.get_origin(hint) is typing.Literal:
            values = [typing.get_args(of.get(name)) for of in hints]
            if all(len(choices) == 1 for choices in values):
                tags = (choices[0] for choices in values)
                return name, dict(zip(tags, members, strict=True))
    return None


def _member_meant(
    tag: str, members: Mapping[str, type], data: Mapping[Any, Any], where: str
) -> type:
    """The member of a union that a mapping's tag names, if no key of it is another one's."""
    if tag not in data:
        raise ValueError(f"{where}: {tag}: missing key. Add one of {', '.join(members)}.")
    named = data[tag]
    require_choice(named if isinstance(named, str) else brief(named), members, f"{where}: {tag}")
    known = {name: [f.name for f in dataclasses.fields(m)] for name, m in members.items()}
    for key in data:
        owners = [name for name, keys in known.items() if key in keys]
        if owners and named not in owners:
            raise ValueError(
                f"{where}: {brief(key)}: unknown key for {tag} {named!r}; it belongs to {tag} "
                f"{' or '.join(map(repr, owners))}. Take it out, or change {tag}."
            )
    return members[named]


def _convert_tuple(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where}: must be a list, but got {_kind(value)}.")
    item_hints = typing.get_args(hint)
    if len(item_hints) == 2 and item_hints[1] is Ellipsis:
        item_hints = (item_hints[0],) * len(value)
    if len(item_hints) != len(value):
        raise ValueError(f"{where}: must have {len(item_hints)} items, but got {len(value)}.")
    return tuple(
        _convert(item_hint, item, f"{where}[{index}]")
        for index, (item_hint, item) in enumerate(zip(item_hints, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{where}: must be a number up to 1.0e308, but is larger.") from None
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    message = f"{where}: must be {hint.__name__}, but got {_kind(value)}."
    if hint in (int, float) and isinstance(value, str) and _NUMBER_AS_TEXT.fullmatch(value):
        message += f" YAML reads {value} as text: write it with a point, as in 3.0e-4."
    raise ValueError(message)


def _kind(value: object) -> str:
    return f"{type(value).__name__} {brief(value)!r}"


def _suggest(word: str, known: list[str]) -> str:
    return did_you_mean(word, known) or f"Known: {', '.join(sorted(known))}."
