"""Short texts beside markers, each put where it covers neither a marker nor another text."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

GAP = 5.0
"""Points between a marker's middle and its text."""

_SIDES = (
    ((0.0, 1.0), "center", "bottom"),
    ((0.0, -1.0), "center", "top"),
    ((0.6, 1.0), "right", "bottom"),
    ((-0.6, 1.0), "left", "bottom"),
    ((0.6, -1.0), "right", "top"),
    ((-0.6, -1.0), "left", "top"),
    ((1.0, 0.0), "left", "center"),
    ((-1.0, 0.0), "right", "center"),
)
"""Where a text may stand from its marker, the first that is free; alignments follow."""


class Label(NamedTuple):
    """A text that belongs to a point of a panel, in the panel's units."""

    x: float
    y: float
    texts: tuple[str, ...]
    """What to write; a later one where an earlier one finds no room."""
    color: str


def write_labels(
    panel: Axes, labels: Sequence[Label], markers: Sequence[tuple[float, float]] = ()
) -> None:
    """Write what finds room; the panel's figure must have its layout.

    Args:
        panel: The panel.
        labels: What to write; the first ones have the first choice.
        markers: Other points that no text may cover, in the panel's units.
    """
    if not labels:
        return
    own = [(label.x, label.y) for label in labels]
    others = [point for point in markers if point not in own]
    taken = [_around(x, y) for x, y in panel.transData.transform([*own, *others])]
    for place, label in enumerate(labels):
        box = _write(panel, label, [*taken[:place], *taken[place + 1 :]])
        if box is not None:
            taken.append(box)


def _write(panel: Axes, label: Label, taken: Iterable[Bbox]) -> Bbox | None:
    """Write a label where it is free; gives its place, or None where there is none."""
    blocked = list(taken)
    for words in label.texts:
        text = panel.annotate(
            words,
            (label.x, label.y),
            xytext=(0, GAP),
            textcoords="offset points",
            fontsize=7,
            color=label.color,
            bbox={"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none", "alpha": 0.6},
        )
        for (right, up), horizontal, vertical in _SIDES:
            text.set(position=(GAP * right, GAP * up), ha=horizontal, va=vertical)
            box = text.get_window_extent()
            if _is_within(panel, box) and not any(box.overlaps(other) for other in blocked):
                return box
        text.remove()
    return None


def _is_within(panel: Axes, box: Bbox) -> bool:
    frame = panel.get_window_extent()
    return bool(
        box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
    )


def _around(x: float, y: float, half: float = 6.0) -> Bbox:
    """A marker's box, in pixels of a figure of ``DPI``."""
    return Bbox.from_extents(x - half, y - half, x + half, y + half)
