"""The strict reader: every mistake is named with its place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_growclip.io.mappings import from_mapping, read_fields, read_mapping, to_mapping


@dataclass(frozen=True)
class Inner:
    rate: float
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    mode: Literal["fast", "slow"] = "fast"
    limit: int | None = None
    table: dict[str, Inner] = field(default_factory=dict)
    preset: str | Inner = "none"


def test_round_trip_through_plain_values() -> None:
    value = Outer("a", Inner(0.5, (1, 2)), "slow", 3, {"k": Inner(1.0)}, Inner(2.0))
    assert from_mapping(Outer, to_mapping(value), "f.yaml") == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner": {"rat": 1.0}}, r"f\.yaml: inner: rat: unknown key. Did you mean 'rate'\?"),
        ({"inner": {}}, r"f\.yaml: inner: rate: missing key"),
        ({"inner": {"rate": "3e-4"}}, r"inner: rate: must be float.*as in 3\.0e-4"),
        ({"inner": {"rate": 1, "steps": 4}}, r"inner: steps: must be a list, but got int '4'"),
        ({"inner": {"rate": 1, "steps": ["x"]}}, r"inner: steps\[0\]: must be int"),
        ({"mode": "fats"}, r"mode: must be one of fast, slow, but got 'fats'. Did you mean 'fast'"),
        ({"limit": 1.5}, r"limit: must be int, but got float '1.5'"),
        ({"limit": True}, r"limit: must be int, but got bool 'True'"),
        ({"table": {"k": {"rate": None}}}, r"table: k: rate: must be float, but got NoneType"),
        ({"preset": {"speed": 1}}, r"preset: speed: unknown key"),
        ({"name": ["a"]}, r"name: must be str, but got list"),
    ],
)
def test_mistakes_are_named_with_their_place(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(Outer, {"name": "a", "inner": {"rate": 1.0}} | change, "f.yaml")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"a: [1", r"a\.yaml: not valid yaml"),
        ("a.json", b"{", r"a\.json: not valid json"),
        ("a.yaml", b"- 1\n", r"must be a mapping of keys to values, but got list"),
        ("a.yaml", b"", r"must be a mapping of keys to values, but got NoneType"),
        ("a.yaml", b"\xff\xfe\x00", r"cannot be read as text|not valid yaml"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_mapping(tmp_path / name)


@dataclass(frozen=True, kw_only=True)
class Circle:
    kind: Literal["circle"] = "circle"
    radius: int = 1


@dataclass(frozen=True, kw_only=True)
class Square:
    kind: Literal["square"] = "square"
    side: int = 1
    angle: int = 0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    shape: Circle | Square


def test_a_tag_tells_dataclasses_of_a_union_apart() -> None:
    drawing = from_mapping(Drawing, {"shape": {"kind": "square", "side": 3}}, "a.yaml")
    assert drawing.shape == Square(side=3)
    assert from_mapping(Drawing, to_mapping(drawing), "a.yaml") == drawing


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"side": 3}, r"a\.yaml: shape: kind: missing key\. Add one of circle, square"),
        ({"kind": "sqare"}, r"shape: kind: must be one of .* got 'sqare'\. Did you mean 'square'"),
        ({"kind": ["square"]}, r"shape: kind: must be one of circle, square, but got"),
        (
            {"kind": "circle", "side": 3},
            r"a\.yaml: shape: side: unknown key for kind 'circle'; it belongs to kind 'square'\. ",
        ),
        ({"kind": "circle", "xyz": 3}, r"a\.yaml: shape: xyz: unknown key\. Known: kind, radius"),
        ({"kind": "square", "side": "x"}, r"a\.yaml: shape: side: must be int, but got str 'x'"),
        ("circle", r"a\.yaml: shape: must be a mapping, but got str 'circle'"),
    ],
)
def test_mistakes_in_a_union_are_named(shape: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(Drawing, {"shape": shape}, "a.yaml")


@dataclass(frozen=True, kw_only=True)
class ByHand:
    name: str = ""
    inner: Any = Inner(1.0)
    """Typed below, so that the tests' own check of types comes after the reading."""
    sizes: Any = ()
    table: Any = field(default_factory=dict)
    shape: Any = Circle()

    def __post_init__(self) -> None:
        read_fields(self)


ByHand.__annotations__ |= {
    "inner": Inner | None,
    "sizes": tuple[int, ...],
    "table": Mapping[str, Inner],
    "shape": Circle | Square,
}


def test_what_is_made_by_hand_is_read_as_from_a_file() -> None:
    made = ByHand(
        inner={"rate": 2},
        sizes=[1, 2],
        table={"k": {"rate": 0.5, "steps": [3]}},
        shape={"kind": "square", "side": 3},
    )
    assert made == ByHand(
        inner=Inner(2.0), sizes=(1, 2), table={"k": Inner(0.5, (3,))}, shape=Square(side=3)
    )
    assert ByHand(inner=None).inner is None
    inner = Inner(1.0)
    assert ByHand(inner=inner).inner is inner


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inner": {"rat": 1.0}}, r"^inner: rat: unknown key\. Did you mean 'rate'\?"),
        ({"inner": 3}, r"^inner: must be a mapping, but got int '3'"),
        ({"sizes": 4}, r"^sizes: must be a list, but got int '4'"),
        ({"table": {"k": {}}}, r"^table: k: rate: missing key"),
        ({"shape": {"kind": "circle", "side": 1}}, r"^shape: side: unknown key for kind 'circle'"),
    ],
)
def test_mistakes_made_by_hand_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ByHand(**fields)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml: no such file"):
        read_mapping(tmp_path / "nowhere.yaml")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.sampled_from(["name", "inner", "mode", "limit", "table", "x"]), plain))
def test_any_mapping_is_read_or_refused_with_its_place(data: dict[str, object]) -> None:
    try:
        message = str(from_mapping(Outer, data, "f.yaml"))
    except ValueError as error:
        message = str(error)
    assert message.startswith(("Outer(", "f.yaml"))
