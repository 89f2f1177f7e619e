"""Zero-shot classification tasks: images with labels, class names and prompt templates."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class ZeroShotTask:
    """A classification set that is solved by class prompts alone.

    Templates hold ``{c}``, which the class name replaces.
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    images: tuple[Image.Image, ...]
    labels: tuple[int, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Images left out, by reason."""

    @property
    def chance(self) -> float:
        """Expected top-1 of a model that guesses uniformly."""
        return 1 / len(self.class_names)
