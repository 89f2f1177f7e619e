"""Rendered scenes: unlimited image-caption pairs of shapes, the embedded default source.

Scene i of a split follows from (seed, split, i) alone, so a bigger set starts with the smaller
one and splits share nothing. Captions leave things out and vary in wording, but what they say is
true of the picture; colours, shapes and places are easy to learn, while textures, counts and
which colour belongs to which of two or three shapes are not.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.held import HeldImages, HeldPairs, shuffled
from nas_growclip.data.pairs import ImageTextPairs, IsWanted, ManifestEntry, Pair, every_pair
from nas_growclip.data.sources.scene_drawing import (
    ANYTHING,
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    INVERSE,
    OUTLINES,
    SIZES,
    TEXTURES,
    Group,
    Scene,
    Wanted,
    draw,
    lined_up,
    related,
    several,
    single,
)
from nas_growclip.data.sources.split import Split, pair_limit
from nas_growclip.data.zero_shot import ZeroShotTask

VERSION = "scenes-1"
"""Changes whenever the same seed would give other bytes."""

DEFAULT_IMAGE_SIZE = 32
"""Pixels on a side, where no setting says how many."""

CHUNK = 256
"""Scenes rendered and kept together."""

PLACE_WORDS = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle", "in the centre"),
    "top left": ("in the top left corner", "at the upper left"),
    "top right": ("in the top right corner", "at the upper right"),
    "bottom left": ("in the bottom left corner", "at the lower left"),
    "bottom right": ("in the bottom right corner", "at the lower right"),
}
LINE_UP_WORDS = {
    "row": ("in a row", "side by side"),
    "column": ("in a column", "one above the other"),
    "diagonal": ("along a diagonal", "on a diagonal"),
    "spread": ("", "spread out"),
}
RELATION_WORDS = {
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under", "beneath"),
    "left of": ("to the left of", "to the left of", "left of", "next to"),
    "right of": ("to the right of", "to the right of", "right of", "beside"),
    "inside": ("inside", "inside", "within"),
    "around": ("around", "around", "surrounding"),
}
WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "tiny", "little"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "large", "big"),
    "solid": ("solid", "plain"),
    "dotted": ("dotted", "dotted", "spotted"),
    "outlined": ("outlined", "outlined", "hollow"),
    "purple": ("purple", "purple", "purple", "violet"),
    "teal": ("teal", "teal", "teal", "turquoise"),
    "grey": ("grey", "grey", "gray"),
    "beige": ("beige", "beige", "cream"),
    "navy": ("navy", "navy", "dark blue"),
    "lavender": ("lavender", "lavender", "pale purple"),
    "circle": ("circle", "circle", "circle", "disc"),
    "diamond": ("diamond", "diamond", "diamond", "rhombus"),
    "cross": ("cross", "cross", "cross", "plus sign"),
    "ring": ("ring", "ring", "ring", "donut"),
    "crescent": ("crescent", "crescent", "crescent", "moon"),
    "oval": ("oval", "oval", "oval", "ellipse"),
}
"""Synonyms, as often as listed; whatever is missing here is called by its name alone."""


def sized_scenes(
    config: ScenesConfig, folder: Path | None, split: Split, size: int | None = None
) -> ImageTextPairs:
    """Rendered scenes of a split; without a size, as many as the settings say.

    Args:
        config: Seed, image size and numbers of pairs.
        folder: Unused; every source takes it.
        split: Which split.
        size: Number of pairs.

    Raises:
        ValueError: If there would be no pairs.
    """
    if size is None:
        size = config.stages[-1] if split == "train" else pair_limit(config, split) or 0
    return scene_pairs(split, size, seed=config.seed, image_size=config.image_size)


def scene_pairs(
    split: Split, size: int, *, seed: int = 0, image_size: int = DEFAULT_IMAGE_SIZE
) -> ImageTextPairs:
    """Rendered pairs of one split.

    Args:
        split: Splits share no scene streams.
        size: Number of pairs; the first of a bigger set are those of a smaller one.
        seed: Fixes the scenes.
        image_size: Pixels on a side.

    Raises:
        ValueError: If there would be no pairs.
    """
    if size < 1:
        raise ValueError(f"Scenes need a size of 1 or more, but got size={size} for {split!r}.")
    return _RenderedPairs(seed, split, image_size, size)


@dataclass(frozen=True)
class _RenderedPairs:
    seed: int
    split: str
    image_size: int
    num_pairs: int

    @property
    def manifest(self) -> tuple[ManifestEntry, ...]:
        """The rendered range as a single entry."""
        name = f"scenes/{self.split}[0:{self.num_pairs}] seed={self.seed} {self.image_size}px"
        digest = hashlib.sha256(f"{VERSION} {name}".encode()).hexdigest()
        return (ManifestEntry(name, self.num_pairs, digest, {}),)

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """Every wanted pair once; in stored order for None, else shuffled by the seed."""
        order = self.order(seed).tolist()
        return (self._pair(index) for place, index in enumerate(order) if wanted(place))

    def order(self, seed: int | None) -> NDArray[np.int64]:
        """Numbers of an epoch's pairs."""
        return shuffled(self.num_pairs, seed)

    @functools.cached_property
    def held(self) -> HeldPairs:
        """The pairs with their tensors."""
        return HeldPairs(self.num_pairs, self._pair)

    def _pair(self, index: int) -> Pair:
        images, captions = self._chunks[index // CHUNK]
        return Pair(Image.fromarray(images[index % CHUNK]), captions[index % CHUNK])

    @functools.cached_property
    def _chunks(self) -> tuple[tuple[NDArray[np.uint8], tuple[str, ...]], ...]:
        """Held here, so that a set of any size is rendered once; shared with nested sets."""
        return tuple(
            _chunk(self.seed, self.split, self.image_size, first)
            for first in range(0, self.num_pairs, CHUNK)
        )


@functools.lru_cache(maxsize=128)
def _chunk(
    seed: int, split: str, image_size: int, first: int
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    described = [described_scene(seed, split, first + i) for i in range(CHUNK)]
    images = np.stack([draw(scene, image_size) for scene, _ in described])
    return images, tuple(caption for _, caption in described)


def described_scene(seed: int, split: str, index: int) -> tuple[Scene, str]:
    """Scene ``index`` of a split and its caption."""
    rng = Random(f"{seed}/{split}/{index}")
    make = rng.choices((single, several, related, lined_up), (35, 20, 30, 15))[0]
    scene = make(rng, ANYTHING)
    return scene, caption(rng, scene)


def caption(rng: Random, scene: Scene) -> str:
    """A true sentence about a scene; ``rng`` picks what it says and how."""
    subject, plural = _statement(rng, scene)
    setting = _setting(rng, scene)
    existence = "there are " if plural else "there is "
    opener = rng.choice(("", "", "", existence, "a picture of ", "a drawing of ", "an image of "))
    if len(subject.split()) + len(opener.split()) > 16 or rng.random() < 0.4:
        setting = ""
    if setting and opener in ("", existence) and rng.random() < 0.3:
        return f"{setting}, {opener}{subject}"
    return f"{opener}{subject} {setting}".rstrip()


def _statement(rng: Random, scene: Scene) -> tuple[str, bool]:
    """What is said about the groups, and whether it starts with a plural."""
    if len(scene.groups) == 1:
        return _about_one(rng, scene)
    if len(scene.groups) == 2:
        return _about_two(rng, scene)
    return _about_three(rng, scene)


def _about_one(rng: Random, scene: Scene) -> tuple[str, bool]:
    (group,) = scene.groups
    phrase = noun_phrase(rng, group)
    plural = len(group.centres) > 1
    if scene.arrangement in PLACE_WORDS:
        where = rng.choice(PLACE_WORDS[scene.arrangement])
    else:
        where = rng.choice(LINE_UP_WORDS[scene.arrangement]) if plural else ""
    if rng.random() < 0.25:
        where = ""
    return f"{phrase} {where}".rstrip(), plural


def _about_two(rng: Random, scene: Scene) -> tuple[str, bool]:
    first, second = scene.groups
    relation = scene.arrangement
    if rng.random() < 0.5:
        first, second, relation = second, first, INVERSE[relation]
    one, two = noun_phrase(rng, first), noun_phrase(rng, second)
    plural = len(first.centres) > 1
    if rng.random() < 0.15:
        return f"{one} and {two}", plural
    return f"{one} {rng.choice(RELATION_WORDS[relation])} {two}", plural


def _about_three(rng: Random, scene: Scene) -> tuple[str, bool]:
    one, two, three = (noun_phrase(rng, group) for group in scene.groups)
    row = scene.arrangement == "row"
    ends = (one, three) if rng.random() < 0.5 else (three, one)
    forms = (
        f"{one}, {two} and {three}" + (" from left to right" if row else " from top to bottom"),
        f"{ends[0]}, {two} and {ends[1]} " + ("in a row" if row else "in a column"),
        f"{two} between {ends[0]} and {ends[1]}",
        f"{one} {'to the left of' if row else 'above'} {two} and {three}",
    )
    return rng.choice(forms), False


def noun_phrase(rng: Random, group: Group) -> str:
    """Words such as "two small striped red stars"; some attributes are left out."""
    look, plural = group.look, len(group.centres) > 1
    words = []
    if rng.random() < (0.25 if look.size == "medium" else 0.55):
        words.append(_word(rng, look.size))
    if rng.random() < (0.12 if look.texture == "solid" else 0.75):
        words.append(_word(rng, look.texture))
    if rng.random() < 0.93:
        words.append(_word(rng, look.colour))
    noun = _word(rng, look.shape) if rng.random() < 0.87 else "shape"
    words.append(_plural(noun) if plural else noun)
    if plural or rng.random() < 0.08:
        return " ".join((COUNTS[len(group.centres) - 1], *words))
    return " ".join(("an" if words[0][0] in "aeiou" else "a", *words))


def _setting(rng: Random, scene: Scene) -> str:
    setting = scene.setting
    named = setting.pattern != "plain" and rng.random() < 0.6
    pattern = f"{setting.pattern} " if named else ""
    name = pattern + _word(rng, setting.background)
    article = "an" if name[0] in "aeiou" else "a"
    return f"{rng.choice(('on', 'on', 'against'))} {article} {name} background"


def _word(rng: Random, name: str) -> str:
    return rng.choice(WORDS[name]) if name in WORDS else name


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


class _TaskPlan(NamedTuple):
    """How a zero-shot task is made."""

    attribute: str
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    make: Callable[[Random, Wanted], Scene] = single


@functools.lru_cache(maxsize=2)
def scene_tasks(*, seed: int = 0, image_size: int = DEFAULT_IMAGE_SIZE) -> tuple[ZeroShotTask, ...]:
    """Zero-shot tasks about one attribute each, balanced over its classes.

    Args:
        seed: Fixes the scenes.
        image_size: Pixels on a side.
    """
    return tuple(_task(name, plan, seed, image_size) for name, plan in TASKS.items())


def _task(name: str, plan: _TaskPlan, seed: int, image_size: int) -> ZeroShotTask:
    labels = np.arange(len(plan.classes)).repeat(TASK_IMAGES // len(plan.classes)).tolist()
    images = []
    for index, label in enumerate(labels):
        rng = Random(f"{seed}/{name}/{index}")
        scene = plan.make(rng, {plan.attribute: plan.classes[label]})
        images.append(Image.fromarray(draw(scene, image_size)))
    return ZeroShotTask(
        f"scenes/{name}", plan.class_names, plan.templates, HeldImages(images), tuple(labels)
    )


def _circle_and_square(rng: Random, wanted: Wanted) -> Scene:
    circle = {"colour": "red", "shape": "circle", **wanted}
    return related(rng, circle, {"colour": "blue", "shape": "square"})


def _same(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(names), tuple(names)


TASK_IMAGES = 300
"""About how many images a task has: as many for each class."""

TASKS: dict[str, _TaskPlan] = {
    "colour": _TaskPlan(
        "colour",
        *_same(tuple(COLOURS)),
        ("{c} shape", "a large {c} circle", "a small {c} square", "one {c} star"),
    ),
    "shape": _TaskPlan(
        "shape",
        *_same(tuple(OUTLINES)),
        ("one {c}", "a large {c}", "a red {c}", "a blue {c}", "a green {c}"),
    ),
    "size": _TaskPlan(
        "size",
        *_same(tuple(SIZES)),
        ("a {c} shape", "a {c} red circle", "a {c} blue square", "a {c} green star"),
    ),
    "texture": _TaskPlan(
        "texture",
        *_same(TEXTURES),
        ("one {c} shape", "a large {c} red square", "a large {c} blue star"),
    ),
    "count": _TaskPlan(
        "count",
        *_same(COUNTS),
        ("{c} shapes", "{c} red circles", "{c} blue squares", "{c} small green stars"),
        several,
    ),
    "position": _TaskPlan(
        "place",
        tuple(PLACE_WORDS),
        tuple(wordings[0] for wordings in PLACE_WORDS.values()),
        ("a shape {c}", "a red circle {c}", "a blue square {c}", "a green star {c}"),
    ),
    "background": _TaskPlan(
        "background",
        *_same(tuple(BACKGROUNDS)),
        ("a shape on a {c} background", "a red circle on a {c} background"),
    ),
    "relation": _TaskPlan(
        "relation",
        tuple(RELATION_WORDS),
        tuple(wordings[0] for wordings in RELATION_WORDS.values()),
        ("a red circle {c} a blue square", "a picture of a red circle {c} a blue square"),
        _circle_and_square,
    ),
}
