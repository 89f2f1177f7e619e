"""How a rendered scene is composed and drawn.

A ``Scene`` is plain structure: ``draw`` renders it and ``scenes`` describes it, so picture and
caption cannot disagree. Coordinates and radii are fractions of the image's side, y points down;
drawing happens ``SUPERSAMPLING`` times larger and is then averaged down.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]
Rgb = tuple[int, int, int]

SUPERSAMPLING = 3

COLOURS: dict[str, Rgb] = {
    "red": (222, 36, 36),
    "blue": (44, 84, 226),
    "green": (48, 172, 62),
    "yellow": (250, 222, 40),
    "purple": (142, 48, 184),
    "orange": (250, 134, 20),
    "white": (252, 252, 252),
    "black": (18, 18, 18),
    "pink": (255, 130, 190),
    "brown": (128, 74, 30),
    "teal": (20, 186, 190),
}
BACKGROUNDS: dict[str, Rgb] = {
    "white": (252, 252, 252),
    "black": (18, 18, 18),
    "grey": (136, 136, 136),
    "beige": (238, 222, 184),
    "light blue": (176, 216, 248),
    "dark green": (18, 78, 42),
    "navy": (22, 28, 92),
    "lavender": (206, 188, 240),
}
PATTERNS = ("plain", "striped", "dotted", "checkered")
TEXTURES = ("solid", "striped", "dotted", "outlined", "checkered")


SIZES = {"small": (0.1, 0.115), "medium": (0.14, 0.155), "large": (0.2, 0.23)}
"""Range of radii."""

COUNTS = ("one", "two", "three", "four")

PLACES: dict[str, Point] = {
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "middle": (0, 0),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
"""Direction from the centre."""

LINE_UPS = ("row", "column", "diagonal", "spread")

INVERSE = {
    "above": "below",
    "below": "above",
    "left of": "right of",
    "right of": "left of",
    "inside": "around",
    "around": "inside",
}
"""Relations of a first group to a second, and the second's to the first."""

HULLS = ("circle", "square", "hexagon", "diamond", "heart", "oval")
"""Shapes with room for a small thing inside."""

Wanted = Mapping[str, str]
"""Attributes a scene must have: background, place, relation, count, or a field of ``Look``."""

ANYTHING: Wanted = {}


def _arc(
    radius: float,
    start: float = 0.0,
    end: float = 360.0,
    middle: Point = (0.0, 0.0),
    points: int = 40,
) -> tuple[Point, ...]:
    """Points on a circle, in degrees from the right, growing clockwise on the screen."""
    angles = (math.radians(start + (end - start) * i / points) for i in range(points + 1))
    return tuple(
        (middle[0] + radius * math.cos(angle), middle[1] + radius * math.sin(angle))
        for angle in angles
    )


def _star() -> tuple[Point, ...]:
    outer, inner = _arc(1.1, -90.0, 270.0, (0.0, 0.08), 5), _arc(0.45, -54.0, 306.0, (0.0, 0.08), 5)
    return tuple(point for both in zip(outer[:5], inner[:5], strict=True) for point in both)


def _heart() -> tuple[Point, ...]:
    turns = [math.tau * i / 40 for i in range(40)]
    return tuple(
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15
            - 0.1,
        )
        for t in turns
    )


OUTLINES: dict[str, tuple[Point, ...]] = {
    "circle": _arc(0.95),
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "triangle": ((0, -0.95), (1, 0.85), (-1, 0.85)),
    "star": _star(),
    "heart": _heart(),
    "diamond": ((0, -1.05), (0.8, 0), (0, 1.05), (-0.8, 0)),
    "cross": tuple(
        (x * sx, y * sy)
        for sx, sy, corner in (
            (1, -1, ((0.3, 1), (0.3, 0.3), (1, 0.3))),
            (1, 1, ((1, 0.3), (0.3, 0.3), (0.3, 1))),
            (-1, 1, ((0.3, 1), (0.3, 0.3), (1, 0.3))),
            (-1, -1, ((1, 0.3), (0.3, 0.3), (0.3, 1))),
        )
        for x, y in corner
    ),
    "ring": (*_arc(1.0), *_arc(0.5, 360.0, 0.0)),
    "hexagon": _arc(1.0, 0.0, 300.0, points=5),
    "crescent": (*_arc(1.0, 45.0, 315.0), *_arc(0.75, 290.0, 70.0, (0.45, 0.0))),
    "arrow": ((-1, -0.3), (0, -0.3), (0, -0.9), (1, 0), (0, 0.9), (0, 0.3), (-1, 0.3)),
    "oval": tuple((x, 0.58 * y) for x, y in _arc(1.05)),
}
"""Polygons around (0, 0) that fill about a square from -1 to 1."""


@dataclass(frozen=True)
class Look:
    """How the things of one group look."""

    shape: str
    colour: str
    size: str
    texture: str


@dataclass(frozen=True)
class Group:
    """One thing, or several that look the same."""

    look: Look
    radius: float
    centres: tuple[Point, ...]


@dataclass(frozen=True)
class Setting:
    """What is behind the groups, and the light on everything."""

    background: str
    pattern: str = "plain"
    light: float = 1.0
    """Factor on all colours."""


@dataclass(frozen=True)
class Scene:
    """A background and one to three groups, drawn in this order."""

    setting: Setting
    groups: tuple[Group, ...]
    arrangement: str
    """A place or a line-up (one group), relation of the first to the second, or a line-up."""


class _Room(NamedTuple):
    """What a group may look like, so that it fits and can be seen."""

    against: tuple[Rgb, ...]
    """Colours that its own must stand out from."""
    sizes: tuple[str, ...] = tuple(SIZES)
    shapes: tuple[str, ...] = tuple(OUTLINES)
    textures: tuple[str, ...] = TEXTURES


def single(rng: Random, wanted: Wanted) -> Scene:
    """One thing at one of nine places."""
    setting, room = _stage(rng, wanted)
    look = _look(rng, room, wanted)
    place = wanted.get("place") or rng.choice(tuple(PLACES))
    radius = rng.uniform(*SIZES[look.size])
    reach = min(0.44 - radius, 0.3)
    x, y = (0.5 + reach * way + rng.uniform(-0.04, 0.04) for way in PLACES[place])
    return Scene(setting, (Group(look, radius, ((x, y),)),), place)


def several(rng: Random, wanted: Wanted) -> Scene:
    """Things that look the same: two to four, or as many as wanted."""
    count = COUNTS.index(wanted.get("count") or rng.choice(COUNTS[1:])) + 1
    line_up = rng.choice(LINE_UPS)
    setting, room = _stage(rng, wanted)
    if line_up != "spread":
        room = room._replace(sizes=tuple(SIZES)[: 5 - count])
    look = _look(rng, room, wanted)
    centres = _centres(rng, line_up, count)
    group = Group(look, rng.uniform(*SIZES[look.size]), centres)
    return Scene(setting, (group,), line_up)


def related(rng: Random, wanted: Wanted, other: Wanted = ANYTHING) -> Scene:
    """Two groups of different colours; ``wanted`` is about the first, ``other`` the second."""
    relation = wanted.get("relation") or rng.choices(tuple(INVERSE), (5, 5, 5, 5, 2, 2))[0]
    if relation == "inside":
        return _nested(rng, wanted, other)
    if relation == "around":
        return _nested(rng, other, wanted)
    setting, room = _stage(rng, wanted, other)
    first = _half(rng, room, wanted, relation)
    room = room._replace(against=(*room.against, COLOURS[first.look.colour]))
    second = _half(rng, room, other, INVERSE[relation])
    return Scene(setting, (first, second), relation)


def lined_up(rng: Random, wanted: Wanted) -> Scene:
    """Three things of different colours in a row or a column; ``wanted`` is about the first."""
    line_up = rng.choice(("row", "column"))
    setting, room = _stage(rng, wanted)
    room = room._replace(sizes=("small", "medium"))
    groups: list[Group] = []
    for centre in _centres(rng, line_up, 3):
        look = _look(rng, room, ANYTHING if groups else wanted)
        groups.append(Group(look, rng.uniform(*SIZES[look.size]), (centre,)))
        room = room._replace(against=(*room.against, COLOURS[look.colour]))
    return Scene(setting, tuple(groups), line_up)


def _nested(rng: Random, inner: Wanted, outer: Wanted) -> Scene:
    setting, room = _stage(rng, inner, outer)
    sides = room._replace(sizes=("large",), shapes=HULLS, textures=("solid", "outlined"))
    hull = _look(rng, sides, outer)
    seen = (*room.against, COLOURS[hull.colour])
    content = _look(rng, room._replace(sizes=("small",), against=seen), inner)
    centre = (rng.uniform(0.38, 0.62), rng.uniform(0.38, 0.62))
    groups = (
        Group(hull, rng.uniform(0.27, 0.32), (centre,)),
        Group(content, rng.uniform(*SIZES["small"]), (centre,)),
    )
    return Scene(setting, groups, "around")


def _half(rng: Random, room: _Room, wanted: Wanted, side: str) -> Group:
    """A group in the upper, lower, left or right half; more than one across the half."""
    count = 1 if wanted else rng.choices((1, 2, 3), (6, 2, 1))[0]
    look = _look(rng, room._replace(sizes=tuple(SIZES)[: 4 - count]), wanted)
    sign = -1 if side in ("above", "left of") else 1
    deep = 0.5 + sign * 0.25 + rng.uniform(-0.02, 0.02)
    drift = rng.uniform(-0.15, 0.15) if count == 1 else 0.0
    along = [(i + 0.5) / count + drift for i in range(count)]
    upright = side in ("above", "below")
    centres = tuple((at, deep) if upright else (deep, at) for at in along)
    return Group(look, rng.uniform(*SIZES[look.size]), centres)


def _centres(rng: Random, line_up: str, count: int) -> tuple[Point, ...]:
    if line_up == "spread":
        corners = [(x, y) for x in (0.26, 0.74) for y in (0.26, 0.74)]
        return tuple(
            (x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02))
            for x, y in rng.sample(corners, count)
        )
    along = [(i + 0.5) / count for i in range(count)]
    across = rng.uniform(0.3, 0.7)
    if line_up == "row":
        return tuple((at, across) for at in along)
    if line_up == "column":
        return tuple((across, at) for at in along)
    return tuple(zip(along, along if across < 0.5 else along[::-1], strict=True))


def _stage(rng: Random, *wanted: Wanted) -> tuple[Setting, _Room]:
    """A setting and the room it leaves."""
    colours = tuple(COLOURS[want["colour"]] for want in wanted if "colour" in want)
    fitting = [name for name, rgb in BACKGROUNDS.items() if _stands_out(rgb, colours)]
    background = wanted[0].get("background") or rng.choice(fitting)
    pattern = rng.choice(PATTERNS) if rng.random() < 0.35 else "plain"
    setting = Setting(background, pattern, rng.uniform(0.92, 1.0))
    return setting, _Room((BACKGROUNDS[background],))


def _look(rng: Random, room: _Room, wanted: Wanted) -> Look:
    texture = wanted.get("texture") or (
        "solid" if rng.random() < 0.5 else rng.choice(room.textures)
    )
    size = wanted.get("size") or rng.choice(room.sizes)
    if size == "small" and texture != "solid":
        if "texture" in wanted:
            size = rng.choice([name for name in room.sizes if name != "small"])
        else:
            texture = "solid"
    shapes = [name for name in room.shapes if _shows(texture, name)]
    shape = wanted.get("shape") or _tailed(rng, shapes)
    if not _shows(texture, shape):
        texture = "solid"
    colours = [name for name, rgb in COLOURS.items() if _stands_out(rgb, room.against)]
    return Look(shape, wanted.get("colour") or _tailed(rng, colours), size, texture)


def _shows(texture: str, shape: str) -> bool:
    """An outlined circle would be a ring."""
    return texture != "outlined" or shape not in ("circle", "ring")


@functools.lru_cache(maxsize=4096)
def _stands_out(colour: Rgb, against: tuple[Rgb, ...]) -> bool:
    return all(
        sum((a - b) ** 2 for a, b in zip(colour, rgb, strict=True)) > 10_000 for rgb in against
    )


def _tailed(rng: Random, names: Sequence[str]) -> str:
    """The first name about three times as often as the last of ten."""
    return rng.choices(names, [1 / (1 + 0.2 * i) for i in range(len(names))])[0]


def draw(scene: Scene, size: int) -> NDArray[np.uint8]:
    """Render a scene.

    Returns:
        Array of shape (size, size, 3).
    """
    side = size * SUPERSAMPLING
    canvas = _background(scene.setting.background, scene.setting.pattern, side).copy()
    for group in scene.groups:
        look, radius = group.look, round(group.radius * side)
        stroke = max(1, round(0.045 * side)) if look.texture == "outlined" else 0
        mask = _mask(look.shape, radius, stroke)
        fill = _fill(look.colour, look.texture, side).crop((0, 0, *mask.size))
        for x, y in group.centres:
            corner = (round(x * side) - mask.width // 2, round(y * side) - mask.height // 2)
            canvas.paste(fill, corner, mask)
    lit = scene.setting.light * np.asarray(canvas.reduce(SUPERSAMPLING))
    return lit.astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _background(name: str, pattern: str, side: int) -> Image.Image:
    colour = BACKGROUNDS[name]
    gap = _mixed(colour, 0 if sum(colour) > 400 else 255, 0.2)
    return _patterned(colour, gap, pattern, (side, side / 6))


@functools.lru_cache(maxsize=256)
def _fill(colour: str, texture: str, side: int) -> Image.Image:
    rgb = COLOURS[colour]
    gap = _mixed(rgb, 255 if sum(rgb) < 480 else 0, 0.65)
    return _patterned(rgb, gap, texture, (side, side / 8))


def _mixed(colour: Rgb, grey: int, share: float) -> Rgb:
    red, green, blue = (round((1 - share) * part + share * grey) for part in colour)
    return red, green, blue


def _patterned(colour: Rgb, gap: Rgb, pattern: str, extent: tuple[int, float]) -> Image.Image:
    """A square of a colour with gaps; ``extent`` is its side and the pattern's period."""
    side, period = extent
    image = Image.new("RGB", (side, side), colour)
    if pattern in _IN_GAP:
        y, x = np.mgrid[:side, :side] % period / period
        gaps = Image.fromarray(_IN_GAP[pattern](x, y))
        image.paste(gap, (0, 0), gaps.convert("L"))
    return image


_IN_GAP: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]] = {
    "striped": lambda _, y: y > 0.6,
    "dotted": lambda x, y: (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.09,
    "checkered": lambda x, y: (x < 0.5) ^ (y < 0.5),
}
"""Where a pattern's gaps are within one period, both coordinates from 0 to 1."""


@functools.lru_cache(maxsize=2048)
def _mask(shape: str, radius: int, stroke: int) -> Image.Image:
    """Where a thing covers the canvas; a stroke above 0 leaves only so wide an outline."""
    middle = radius + radius // 8 + 1
    mask = Image.new("L", (2 * middle + 1, 2 * middle + 1))
    points = [(middle + radius * x, middle + radius * y) for x, y in OUTLINES[shape]]
    ImageDraw.Draw(mask).polygon(points, fill=255)
    if stroke:
        mask.paste(0, (0, 0), mask.filter(ImageFilter.MinFilter(2 * stroke + 1)))
    return mask
