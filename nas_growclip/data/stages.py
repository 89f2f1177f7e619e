"""Data that arrives in stages: each stage holds all pairs seen so far and the new ones.

``validation`` steers the search, ``test`` and the zero-shot tasks are only reported.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nas_growclip.data.config import DataConfig
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.zero_shot import ZeroShotTask


@dataclass(frozen=True, kw_only=True)
class DataStage:
    """One stage's data."""

    index: int
    train: ImageTextPairs
    validation: ImageTextPairs
    test: ImageTextPairs
    zero_shot: tuple[ZeroShotTask, ...]

    @property
    def num_pairs(self) -> int:
        """Usable training pairs, old and new."""
        return self.train.num_pairs
