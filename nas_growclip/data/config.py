"""Settings of the data: the ``data:`` part of an experiment, one dataclass for each source.

``source`` says which one is meant. Each has only the keys that its source understands; what they
share stands in the two classes that they extend.
"""

from dataclasses import dataclass, field
from typing import Literal

from nas_growclip.data.augment import AugmentConfig
from nas_growclip.io.mappings import read_fields
from nas_growclip.io.ranges import at_least, check_ranges, within

MAX_BAD_SHARE = 0.2
MAX_LEAKED_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class StagedData:
    """What every source understands.

    Raises:
        ValueError: If a size is impossible.
    """

    source: str
    """Name of the source."""
    stages: tuple[int, ...]
    """Cumulative size of each stage, in the source's own unit."""
    validation_pairs: int = 512
    """Rendered pairs for scenes; elsewhere the first so many pairs are used, 0 means all."""
    test_pairs: int = 1024
    """As ``validation_pairs``."""
    zero_shot: tuple[str, ...] = ()
    """Zero-shot tasks: ``scenes``, ``digits``, or folders in the CLIP_benchmark layout."""
    max_bad_share: float = MAX_BAD_SHARE
    """Share of a split's pairs, and of its shards, that may be bad: with more the run stops."""
    in_memory: bool = False
    """Decode every pair once and keep it: for sets that fit (a 64-pixel image takes 12 kB)."""
    workers: int = 0
    """Processes that read, decode and vary training images ahead; the batches stay the same."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random crops and flips of training images."""

    def __post_init__(self) -> None:
        read_fields(self)
        if not self.stages:
            raise ValueError("stages: must list one size or more. Add the first stage's size.")
        for before, after in zip((0, *self.stages), self.stages, strict=False):
            if after <= before:
                raise ValueError(
                    f"stages: cumulative sizes must grow, but got {before} then {after}. "
                    "Give each stage's total, old pairs included."
                )
        check_ranges(
            self,
            max_bad_share=within(0, 1),
            validation_pairs=at_least(0),
            test_pairs=at_least(0),
            workers=at_least(0),
        )

    @property
    def num_added_stages(self) -> int:
        """Stages that were added to a finished run."""
        return 0

    @property
    def num_planned_stages(self) -> int:
        """Stages of the experiment itself, without those that were added since."""
        return len(self.stages) - self.num_added_stages


@dataclass(frozen=True, kw_only=True)
class FileData(StagedData):
    """What the sources understand that read files.

    Raises:
        ValueError: If a size is impossible.
    """

    train: str = ""
    """Files of the pairs to train on, relative to the data folder."""
    validation: str = ""
    """The same for the pairs that steer the search."""
    test: str = ""
    """The same for the pairs that are only reported."""
    test_by_stage: tuple[str, ...] = ()
    """Held-out files of each stage's new data: what a later stage forgets of it.

    Added stages may have none.
    """

    max_leaked_share: float = MAX_LEAKED_SHARE
    """Share of a held-out split whose pictures may be in ``train`` too: with more the run stops."""

    @property
    def files_by_split(self) -> dict[str, str]:
        """What the settings name for each split; empty where they name nothing."""
        by_stage = {f"test_by_stage[{i}]": files for i, files in enumerate(self.test_by_stage)}
        return {"train": self.train, "validation": self.validation, "test": self.test, **by_stage}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, max_leaked_share=within(0, 1))
        given = len(self.test_by_stage)
        if given and not self.num_planned_stages <= given <= len(self.stages):
            raise ValueError(
                f"test_by_stage: must name one set for each of the {len(self.stages)} stages, "
                f"but got {given}."
            )


@dataclass(frozen=True, kw_only=True)
class ScenesConfig(StagedData):
    """Rendered scenes; stages are in pairs.

    Raises:
        ValueError: If a size is impossible.
    """

    source: Literal["scenes"] = "scenes"
    seed: int = 0
    """Seed of the scenes."""
    image_size: int = 32
    """Pixels on a side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, image_size=at_least(1))


@dataclass(frozen=True, kw_only=True)
class AddedShards:
    """Shards that arrived after a run had finished: one stage more."""

    folder: str
    """Where they are, relative to the data folder where they lie in it."""
    shards: tuple[str, ...]
    """Names of the files, in order."""


@dataclass(frozen=True, kw_only=True)
class WebdatasetConfig(FileData):
    """Shards as img2dataset writes them: a folder, a glob or a brace pattern; stages are in shards.

    Raises:
        ValueError: If a size is impossible.
    """

    source: Literal["webdataset"] = "webdataset"
    shuffle_buffer: int = 2000
    """Pairs held to shuffle a stream of shards."""
    caption_suffix: str = "txt"
    """Which member of a key is its caption: ``caption``, or ``json`` to take a value of it."""
    caption_json_key: str = "caption"
    """The name of that value."""
    added: tuple[AddedShards, ...] = ()
    """Shards of the last stages, as ``growclip continue`` added them: one entry a stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, shuffle_buffer=at_least(1))
        added = [(stage.folder, len(stage.shards)) for stage in self.added]
        _check_added(self.stages, added, "shards")

    @property
    def num_added_stages(self) -> int:
        """Stages that were added to a finished run."""
        return len(self.added)


@dataclass(frozen=True, kw_only=True)
class AddedTables:
    """Tables that arrived after a run had finished: one stage more."""

    folder: str
    """Where they are, relative to the data folder where they lie in it."""
    tables: tuple[str, ...]
    """Names of the files, in order."""
    rows: int
    """Rows that they have together."""


@dataclass(frozen=True, kw_only=True)
class CsvConfig(FileData):
    """A table as OpenCLIP reads it; stages are in rows.

    Raises:
        ValueError: If a size is impossible.
    """

    source: Literal["csv"] = "csv"
    csv_separator: str = "\t"
    """Character between two fields."""
    csv_image_key: str = "filepath"
    """Column with the images' paths."""
    csv_caption_key: str = "title"
    """Column with the captions."""
    added: tuple[AddedTables, ...] = ()
    """Tables of the last stages, as ``growclip continue`` added them: one entry a stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        added = [(stage.folder, stage.rows) for stage in self.added]
        _check_added(self.stages, added, "rows")

    @property
    def num_added_stages(self) -> int:
        """Stages that were added to a finished run."""
        return len(self.added)


@dataclass(frozen=True, kw_only=True)
class FilesConfig(FileData):
    """Folders of files, as img2dataset's ``files`` output; stages are in pairs.

    Raises:
        ValueError: If a size is impossible.
    """

    source: Literal["files"] = "files"
    caption_suffix: str = "txt"
    """What a caption's file is called after the image's key: ``caption``, or ``json``."""
    caption_json_key: str = "caption"
    """Of ``json``: the name of the value that is the caption."""


DataConfig = ScenesConfig | WebdatasetConfig | CsvConfig | FilesConfig
"""Where pairs come from and how they arrive in stages."""


def _check_added(stages: tuple[int, ...], added: list[tuple[str, int]], unit: str) -> None:
    """Check that the last stages grow by what was added to them: folder and size of each."""
    num_planned = len(stages) - len(added)
    if num_planned < 1:
        raise ValueError(
            f"added: must leave one stage of the experiment's own or more, but lists "
            f"{len(added)} and there are {len(stages)} stages."
        )
    sizes = stages[num_planned - 1 :]
    for before, after, (folder, size) in zip(sizes, sizes[1:], added, strict=False):
        if after - before != size:
            raise ValueError(
                f"added: stages grow from {before} to {after} {unit}, so {folder!r} must list "
                f"{after - before}, but lists {size}."
            )
