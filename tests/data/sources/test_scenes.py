import re
from itertools import chain
from random import Random

import numpy as np
import pytest
from open_clip.tokenizer import SimpleTokenizer

from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.pairs import Pair
from nas_growclip.data.sources.scene_drawing import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    INVERSE,
    OUTLINES,
    PATTERNS,
    TEXTURES,
    Group,
    Look,
    Scene,
    Setting,
    draw,
    related,
)
from nas_growclip.data.sources.scenes import (
    PLACE_WORDS,
    RELATION_WORDS,
    TASKS,
    WORDS,
    described_scene,
    scene_pairs,
    scene_tasks,
)
from nas_growclip.data.zero_shot import ZeroShotTask

CONFIG = ScenesConfig(stages=(300,))
DESCRIBED = [described_scene(0, "train", i) for i in range(1500)]


def stored(size: int, split: str = "train", config: ScenesConfig = CONFIG) -> list[Pair]:
    pairs = scene_pairs(split, size, seed=config.seed, image_size=config.image_size)
    return list(pairs.epoch(None))


def content(pair: Pair) -> tuple[bytes, str]:
    return pair.image.tobytes(), pair.caption


def one_thing(shape: str, colour: str, texture: str = "solid", pattern: str = "plain") -> Scene:
    look = Look(shape, colour, "large", texture)
    return Scene(Setting("grey", pattern), (Group(look, 0.24, ((0.5, 0.5),)),), "middle")


def says(caption: str, name: str) -> bool:
    words = "|".join(map(re.escape, WORDS.get(name, (name,))))
    return re.search(rf"\b({words})(e?s)?\b", caption) is not None


def vectors(task: ZeroShotTask) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=float).ravel() for image in task.images])


@pytest.fixture(scope="module")
def tasks() -> dict[str, ZeroShotTask]:
    return {task.name: task for task in scene_tasks()}


def test_same_seed_gives_same_bytes_and_another_seed_does_not():
    other = ScenesConfig(stages=(300,), seed=1)
    again = [draw(described_scene(0, "train", i)[0], 32).tobytes() for i in range(20)]
    assert [pair.image.tobytes() for pair in stored(20)] == again
    assert {content(pair) for pair in stored(20)}.isdisjoint(map(content, stored(20, config=other)))


def test_smaller_set_is_the_start_of_a_bigger_one():
    small, big = stored(40), stored(300)
    assert [content(pair) for pair in small] == [content(pair) for pair in big[:40]]


def test_splits_share_no_scene():
    splits = ("train", "validation", "test")
    scenes = [{described_scene(0, split, i)[0] for i in range(300)} for split in splits]
    pictures = [{pair.image.tobytes() for pair in stored(300, split)} for split in splits]
    assert len(set.union(*scenes)) == 900
    assert len(set.union(*pictures)) > 890


def test_epoch_is_a_permutation_fixed_by_its_seed():
    pairs = scene_pairs("train", 300)
    plain, first, again, other = (
        [content(pair) for pair in pairs.epoch(seed)] for seed in (None, 3, 3, 4)
    )
    assert len(plain) == pairs.num_pairs == 300
    assert first == again
    assert first not in (plain, other)
    assert sorted(first) == sorted(plain) == sorted(other)


def test_manifest_names_the_range_and_changes_with_it():
    entries = [scene_pairs("train", size).manifest[0] for size in (40, 300)]
    assert entries[0].name == "scenes/train[0:40] seed=0 32px"
    assert [entry.num_pairs for entry in entries] == [40, 300]
    assert len({entry.sha256 for entry in entries}) == 2


def test_empty_set_is_refused():
    with pytest.raises(ValueError, match=r"size of 1 or more, but got size=0 for 'test'"):
        scene_pairs("test", 0)


@pytest.mark.parametrize("size", [32, 64])
def test_images_have_the_size_asked_for(size: int):
    config = ScenesConfig(stages=(300,), image_size=size)
    image = stored(1, config=config)[0].image
    assert (image.size, image.mode) == ((size, size), "RGB")


def test_every_shape_colour_and_texture_shows_and_differs():
    scenes = chain(
        (one_thing(shape, "red") for shape in OUTLINES),
        (one_thing("heart", colour) for colour in COLOURS),
        (one_thing("star", "blue", texture) for texture in TEXTURES),
        (one_thing("star", "pink", pattern=pattern) for pattern in PATTERNS),
    )
    images = {scene: draw(scene, 32) for scene in scenes}
    assert len({image.tobytes() for image in images.values()}) == len(images)
    for scene, image in images.items():
        bare = draw(Scene(Setting("grey", scene.setting.pattern), (), "middle"), 32)
        assert (image != bare).any(axis=2).sum() > 40, scene


def test_things_stay_in_the_picture():
    for scene, _ in DESCRIBED:
        centres = np.array([c for group in scene.groups for c in group.centres])
        assert centres.min() > 0.08
        assert centres.max() < 0.92


def test_centres_obey_the_relation():
    for scene, _ in DESCRIBED:
        if scene.arrangement in ("above", "below", "left of", "right of"):
            first, second = (np.array(group.centres) for group in scene.groups)
            axis = 1 if scene.arrangement in ("above", "below") else 0
            gap = first[:, axis].max() - second[:, axis].min()
            if scene.arrangement in ("below", "right of"):
                gap = second[:, axis].max() - first[:, axis].min()
            assert gap < -0.4


def test_captions_name_only_what_is_there():
    for scene, caption in DESCRIBED:
        looks = [group.look for group in scene.groups]
        things = re.sub(r"(on|against) an? [a-z ]+ background", "", caption)
        there = {value for look in looks for value in (look.shape, look.size, look.texture)}
        for name in (*OUTLINES, *TEXTURES, "small", "medium", "large"):
            assert name in there or not says(things, name), (caption, name)
        for name in COLOURS:
            assert name in {look.colour for look in looks} or not says(things, name), caption
        counted = {len(group.centres) for group in scene.groups}
        for number, word in enumerate(COUNTS, start=1):
            without_phrase = things.replace("one above the other", "")
            assert number in counted or not says(without_phrase, word), caption


def test_captions_name_the_right_background_and_place():
    for scene, caption in DESCRIBED:
        background = re.search(r"(?:on|against) an? ([a-z ]+) background", caption)
        if background:
            assert says(background[1], scene.setting.background), caption
        for place, wordings in PLACE_WORDS.items():
            if any(re.search(rf"{wording}\b", caption) for wording in wordings):
                assert scene.arrangement == place, caption


def test_captions_relate_the_right_things():
    seen = 0
    for scene, caption in DESCRIBED:
        for relation, wordings in RELATION_WORDS.items():
            told = re.search(rf"(.*) (?:{'|'.join(wordings)}) (.*)", caption)
            colours = [group.look.colour for group in scene.groups]
            if not told or len(colours) != 2 or not says(told[1], colours[0]):
                continue
            if told[0].count("background") or says(told[1], colours[1]):
                continue
            near = told[0] if "next to" in caption or "beside" in caption else None
            assert near or scene.arrangement == relation, caption
            seen += 1
    assert seen > 50


def test_captions_are_mostly_unique_and_short():
    captions = [caption for _, caption in DESCRIBED]
    tokenizer = SimpleTokenizer()
    lengths = np.array([len(tokenizer.encode(caption)) + 2 for caption in captions])
    assert len(set(captions)) > 0.97 * len(captions)
    assert np.quantile(lengths, 0.99) <= 32
    assert lengths.max() <= 40


def test_relation_is_the_inverse_of_its_inverse():
    assert all(INVERSE[INVERSE[relation]] == relation for relation in RELATION_WORDS)


def test_related_honours_both_wishes():
    scene = related(Random(0), {"relation": "inside", "colour": "red"}, {"colour": "blue"})
    assert [group.look.colour for group in scene.groups] == ["blue", "red"]


@pytest.mark.parametrize("name", TASKS)
def test_task_is_balanced_and_worded(tasks: dict[str, ZeroShotTask], name: str):
    task = tasks[f"scenes/{name}"]
    per_class = np.bincount(task.labels)
    assert len(per_class) == len(task.class_names) == len(set(task.class_names))
    assert per_class.min() == per_class.max() >= 20
    assert all("{c}" in template for template in task.templates)
    assert len({image.tobytes() for image in task.images}) == len(task.images)


@pytest.mark.parametrize("name", TASKS)
def test_task_words_occur_in_captions(name: str):
    told = " ".join(caption for _, caption in DESCRIBED)
    for class_name in TASKS[name].class_names:
        assert re.search(rf"\b{class_name}s?\b", told), class_name


def test_background_labels_match_the_most_frequent_colour(tasks: dict[str, ZeroShotTask]):
    task = tasks["scenes/background"]
    palette = np.array(list(BACKGROUNDS.values()))
    pixels = vectors(task).reshape(len(task.images), -1, 3)
    middle = np.median(pixels, axis=1)
    nearest = ((middle[:, None] - palette) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == np.array(task.labels)).mean() > 0.9


@pytest.mark.parametrize(("name", "accuracy"), [("position", 0.8), ("relation", 0.8)])
def test_place_labels_match_where_the_picture_differs_from_its_background(
    tasks: dict[str, ZeroShotTask], name: str, accuracy: float
):
    task = tasks[f"scenes/{name}"]
    pixels = vectors(task).reshape(len(task.images), 32, 32, 3)
    if name == "relation":
        signed = pixels[..., 0] - pixels[..., 2]
        channels = np.stack([signed > 120, signed < -120], axis=1).astype(float)
    else:
        usual = np.median(pixels, axis=(1, 2), keepdims=True)
        channels = (np.abs(pixels - usual).sum(axis=3) > 150)[:, None].astype(float)
    features = blurred(channels)
    labels = np.array(task.labels)
    half = np.arange(len(labels)) % 2 == 0
    means = np.stack([features[half & (labels == c)].mean(0) for c in range(labels.max() + 1)])
    told = ((features[~half, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (told == labels[~half]).mean() > accuracy


def blurred(channels: np.ndarray) -> np.ndarray:
    """Means over cells of eight pixels, scaled to length one."""
    cells = channels.reshape(*channels.shape[:2], 4, 8, 4, 8).mean(axis=(3, 5))
    flat = cells.reshape(len(channels), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
