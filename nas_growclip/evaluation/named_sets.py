"""Evaluate on whatever a user points at: zero-shot folders, folders of shards, built-in sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nas_growclip.data.config import DataConfig
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.sources.table import find_source
from nas_growclip.data.stages import load_tasks
from nas_growclip.data.zero_shot import ZeroShotTask, folder_task
from nas_growclip.evaluation.metrics import evaluate
from nas_growclip.evaluation.zero_shot import zero_shot
from nas_growclip.models.clip import Clip


def evaluate_places(model: Clip, places: Sequence[str], batch_size: int) -> Mapping[str, float]:
    """Zero-shot top-1 on every set and recall on every folder of pairs.

    Args:
        model: The model.
        places: ``scenes``, ``digits``, a zero-shot set in the CLIP_benchmark layout, a folder of
            such sets, or a folder of pair shards.
        batch_size: Images or texts at once; also the loss's number of candidates.

    Raises:
        ValueError: If a place is none of these or holds nothing usable.
    """
    tasks: list[ZeroShotTask] = []
    values: dict[str, float] = {}
    image_size = max(model.arch.image.image_shape)
    for place in places:
        found = tasks_at(place, image_size)
        tasks.extend(found)
        if not found or place == "scenes":
            pairs = pairs_at(place, image_size)
            measured = evaluate(model, pairs, (), ("loss", "retrieval"), batch_size)
            prefix = "" if len(places) == 1 else f"{Path(place).name}/"
            values |= {_prefixed(name, prefix): value for name, value in measured.items()}
    return values | dict(zero_shot(model, tasks, batch_size))


def tasks_at(place: str, image_size: int) -> Sequence[ZeroShotTask]:
    """Zero-shot tasks at a place; none if it is a folder of pairs."""
    if place in ("scenes", "digits"):
        config = DataConfig(source="scenes", stages=(1,), zero_shot=(place,), image_size=image_size)
        return load_tasks(config, None)
    folder = Path(place)
    if not folder.is_dir():
        raise ValueError(
            f"--data must be 'scenes', 'digits' or a folder, but {place!r} is none of them."
        )
    if (folder / "classnames.txt").exists():
        return (folder_task(folder),)
    return tuple(folder_task(path.parent) for path in sorted(folder.glob("*/classnames.txt")))


def pairs_at(place: str, image_size: int) -> ImageTextPairs:
    """Pairs at a place: rendered scenes, or all shards of a folder."""
    if place == "scenes":
        config = DataConfig(source=place, stages=(1,), test_pairs=1024, image_size=image_size)
        return find_source(place)(config, None, "test", None)
    config = DataConfig(source="webdataset", stages=(1,), test=".", test_pairs=0)
    return find_source("webdataset")(config, Path(place), "test", None)


def _prefixed(name: str, prefix: str) -> str:
    is_chance = name.startswith("chance.")
    return f"chance.{prefix}{name.removeprefix('chance.')}" if is_chance else f"{prefix}{name}"
