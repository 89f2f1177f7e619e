"""Settings of the data: the ``data:`` part of an experiment."""

from dataclasses import dataclass, field

from nas_growclip.data.augment import AugmentConfig

MAX_BAD_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class AddedShards:
    """Shards that arrived after a run had finished: one stage more."""

    folder: str
    """Where they are, relative to the data folder where they lie in it."""
    shards: tuple[str, ...]
    """Names of the files, in order."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where pairs come from and how they arrive in stages.

    Raises:
        ValueError: If a size is impossible.
    """

    source: str
    """A name in ``SOURCES``: ``scenes``, ``webdataset`` or ``csv``."""
    stages: tuple[int, ...]
    """Cumulative size of each stage: pairs for scenes and csv, shards for webdataset."""
    train: str = ""
    """Shards (brace pattern) or CSV file, relative to the data folder; unused by scenes."""
    validation: str = ""
    """The same for the pairs that steer the search."""
    test: str = ""
    """The same for the pairs that are only reported."""
    validation_pairs: int = 512
    """Rendered pairs for scenes; elsewhere the first so many pairs are used, 0 means all."""
    test_pairs: int = 1024
    """As ``validation_pairs``."""
    zero_shot: tuple[str, ...] = ()
    """Zero-shot tasks: ``scenes``, ``digits``, or folders in the CLIP_benchmark layout."""
    seed: int = 0
    """Seed of rendered scenes."""
    max_bad_share: float = MAX_BAD_SHARE
    """Share of a split's pairs, and of its shards, that may be bad: with more the run stops."""
    image_size: int = 32
    """Pixels on a side of rendered scenes."""
    shuffle_buffer: int = 2000
    """Pairs held to shuffle a stream of shards."""
    in_memory: bool = False
    """Decode every pair once and hold it: for sets that fit (a 64-pixel image takes 12 kB)."""
    workers: int = 0
    """Processes that read, decode and vary training images ahead; the batches stay the same."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random crops and flips of training images."""
    test_by_stage: tuple[str, ...] = ()
    """Held-out shards or CSV files of each stage's new data: what a later stage forgets of it.

    Added stages may have none.
    """
    added: tuple[AddedShards, ...] = ()
    """Shards of the last stages, as ``growclip continue`` added them: one entry a stage."""
    csv_separator: str = "\t"
    csv_image_key: str = "filepath"
    csv_caption_key: str = "title"

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages: must list one size or more. Add the first stage's size.")
        for before, after in zip((0, *self.stages), self.stages, strict=False):
            if after <= before:
                raise ValueError(
                    f"stages: cumulative sizes must grow, but got {before} then {after}. "
                    "Give each stage's total, old pairs included."
                )
        self._check_added()
        self._check_test_by_stage()
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share: must be in [0, 1], but got {self.max_bad_share}.")
        for name in ("image_size", "shuffle_buffer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be 1 or more, but got {getattr(self, name)}.")
        for name in ("validation_pairs", "test_pairs", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 or more, but got {getattr(self, name)}.")

    @property
    def num_planned_stages(self) -> int:
        """Stages of the experiment itself, without those that were added since."""
        return len(self.stages) - len(self.added)

    def _check_added(self) -> None:
        if self.added and self.source != "webdataset":
            raise ValueError(
                f"added: must be empty for source {self.source!r}: only shards can be added. "
                "Leave it out."
            )
        if self.added and self.num_planned_stages < 1:
            raise ValueError(
                f"added: must leave one stage of the experiment's own or more, but lists "
                f"{len(self.added)} and there are {len(self.stages)} stages."
            )
        sizes = self.stages[self.num_planned_stages - 1 :]
        for before, after, added in zip(sizes, sizes[1:], self.added, strict=False):
            if after - before != len(added.shards):
                raise ValueError(
                    f"added: stages grow from {before} to {after} shards, so {added.folder!r} must "
                    f"list {after - before}, but lists {len(added.shards)}."
                )

    def _check_test_by_stage(self) -> None:
        if self.test_by_stage and self.source == "scenes":
            raise ValueError(
                "test_by_stage: rendered scenes are alike in every stage, so there is nothing to "
                "hold out by stage. Leave it out, or use another source."
            )
        given = len(self.test_by_stage)
        if given and not self.num_planned_stages <= given <= len(self.stages):
            raise ValueError(
                f"test_by_stage: must name one set for each of the {len(self.stages)} stages, "
                f"but got {given}."
            )
