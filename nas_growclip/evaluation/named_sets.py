"""Evaluate on whatever a user points at: zero-shot folders, folders of shards, built-in sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nas_growclip.data.named_sets import NamedSet, find_named_sets, open_named_set
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.sources.scenes import scene_pairs, scene_tasks
from nas_growclip.data.sources.table import is_table, open_place
from nas_growclip.data.zero_shot import digits_task
from nas_growclip.evaluation.metrics import PAIR_METRICS, evaluate, measure_sets
from nas_growclip.models.clip import Clip
from nas_growclip.records.entries import Measure

NUM_SCENES = 1024
"""Rendered pairs that ``scenes`` is measured on."""


def evaluate_named_sets(
    model: Clip, named_sets: Sequence[str], batch_size: int
) -> Mapping[str, Measure]:
    """Zero-shot top-1 of classification sets, recalls of retrieval sets and of pairs.

    Args:
        model: The model.
        named_sets: ``scenes``, ``digits``, a zero-shot or retrieval set in the CLIP_benchmark
            layout, a folder of such sets, a folder of class folders, a folder of pairs (shards or
            files), or a CSV file.
        batch_size: Images or texts at once; also the loss's number of candidates.

    Raises:
        ValueError: If a set is none of these or holds nothing usable.
    """
    tasks: list[NamedSet] = []
    values: dict[str, Measure] = {}
    image_size = max(model.arch.image.image_shape)
    for named in named_sets:
        found = tasks_at(named, image_size)
        tasks.extend(found)
        if not found or named == "scenes":
            pairs = pairs_at(named, image_size)
            measured = evaluate(model, pairs, (), PAIR_METRICS, batch_size)
            prefix = "" if len(named_sets) == 1 else f"{Path(named).name}/"
            values |= {f"{prefix}{name}": measure for name, measure in measured.items()}
    return values | dict(measure_sets(model, tasks, batch_size, {}))


def tasks_at(named: str, image_size: int) -> Sequence[NamedSet]:
    """Zero-shot tasks and retrieval sets of that name; none if it is pairs."""
    if named in ("scenes", "digits"):
        return scene_tasks(image_size=image_size) if named == "scenes" else (digits_task(),)
    folder = Path(named)
    if is_table(folder):
        return ()
    if not folder.is_dir():
        raise ValueError(
            f"--data must be 'scenes', 'digits', a folder or a CSV file, but {named!r} is none of "
            "them."
        )
    return tuple(open_named_set(path) for path in find_named_sets(folder))


def pairs_at(named: str, image_size: int) -> ImageTextPairs:
    """Pairs of a named set: rendered scenes, or all of a folder or a table."""
    if named == "scenes":
        return scene_pairs("test", NUM_SCENES, image_size=image_size)
    return open_place(Path(named))
