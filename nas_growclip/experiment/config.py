"""One YAML is one experiment: composition of the parts' own settings, and nothing else."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from nas_growclip.data.config import DataConfig
from nas_growclip.evaluation.metrics import METRICS
from nas_growclip.growth.candidates import scheduled
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.depth import DEPTH_OPERATORS
from nas_growclip.growth.operators import OPERATORS
from nas_growclip.growth.pim import PIM_GROUPS, PIM_VARIANTS
from nas_growclip.growth.space import GrowthSpace, SizeChoices, next_sizes, space_file
from nas_growclip.interop.importing import checkpoint_arch
from nas_growclip.io.choices import require_choice
from nas_growclip.io.mappings import from_mapping, read_fields, read_mapping, to_mapping
from nas_growclip.io.ranges import above, check_ranges
from nas_growclip.models.arch import DIMENSIONS, PRESETS, ClipArch
from nas_growclip.search.backends import BACKENDS, EXPERIMENT_BACKENDS
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.nni.experiment import ASSESSORS, TUNERS
from nas_growclip.search.objective import OBJECTIVES
from nas_growclip.search.optuna.samplers import PRUNERS, SAMPLERS
from nas_growclip.search.trigger import TRIGGERS, TriggerConfig
from nas_growclip.training.rates import base_sizes
from nas_growclip.training.state import TrainConfig

MAX_COUNT = 2**32 - 1
"""Largest whole number that a setting may be; also the largest seed of NumPy's generators."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """A staged experiment.

    Raises:
        ValueError: If a name is in none of the tables or a number is out of range.
    """

    parent: str | ClipArch
    """The first model: a preset's name or an architecture; in YAML also a checkpoint's folder,
    relative to the experiment's or to where the program runs, whose weights are then the start."""
    data: DataConfig
    space: GrowthSpace
    """The growth space; in YAML also a file's path, relative to the experiment's, or the name
    of one that is shipped, as ``tiny``."""
    passes: float = 8.0
    """Stage budget: training FLOPs with which the stage's parent would see every pair so often."""
    stage_flops: tuple[float | None, ...] = ()
    """Training FLOPs of each stage, its search included, in place of ``passes``; null: as there."""
    schedule: tuple[Mapping[str, int], ...] = ()
    """Sizes that each stage grows to, by dimension, in place of a search; ``{}`` grows nothing.

    Stages that are added to a finished run grow by the ``rule``, or are searched.
    """
    rule: Mapping[str, SizeChoices] = field(default_factory=dict)
    """Growth without a search: where the trigger finds that a stage may grow, every dimension here
    takes the nearest of its sizes, all at once. A first model that is not trained yet stays."""
    restart: bool = False
    """Begin each stage from fresh weights in place of the trained ones: retraining from scratch."""
    seed: int = 0
    """Seed of weights, batches and search."""
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    trigger: TriggerConfig = field(default_factory=TriggerConfig)
    parent_checkpoint: str = ""
    """Folder of the first model's weights, where it does not begin with fresh ones."""
    metrics: tuple[str, ...] = ("loss", "retrieval", "zero_shot")
    """Metrics on ``test`` after each stage; the search always measures ``loss``."""

    def __post_init__(self) -> None:
        read_fields(self)
        _check_numbers(to_mapping(self), "")
        check_ranges(self, passes=above(0), stage_flops=above(0))
        self._check_stages()
        _check_names("growth.operator", (self.growth.operator,), OPERATORS)
        _check_names("growth.depth_operator", (self.growth.depth_operator,), DEPTH_OPERATORS)
        _check_names("growth.pim", (self.growth.pim,), PIM_VARIANTS)
        _check_names("growth.pim_exclude", self.growth.pim_exclude, PIM_GROUPS)
        if self.growth.pim == "ema" and not self.train.ema_decay:
            raise ValueError("growth.pim: 'ema' must have train.ema_decay above 0, but it is 0.")
        _check_names("search.backend", (self.search.backend,), (*BACKENDS, *EXPERIMENT_BACKENDS))
        _check_names("search.sampler", (self.search.sampler,), SAMPLERS)
        _check_names("search.pruner", (self.search.pruner,), PRUNERS)
        _check_names("search.nni_tuner", (self.search.nni_tuner,), TUNERS)
        _check_names("search.nni_assessor", (self.search.nni_assessor,), ASSESSORS)
        _check_names("trigger.name", (self.trigger.name,), TRIGGERS)
        _check_names("objective.name", (self.objective.name,), OBJECTIVES)
        _check_names("metrics", self.metrics, METRICS)
        parent_arch = self.parent_arch
        if self.train.rate_rule == "width":
            base = base_sizes(parent_arch, self.train.rate_base)
            object.__setattr__(self, "train", replace(self.train, rate_base=base))
        if self.train.schedule == "trunk" and self.search.trial_share > self._trunk_share:
            raise ValueError(
                f"search.trial_share: must be at most {self._trunk_share:g}, the share of a stage "
                "that train.schedule 'trunk' leaves before its cool-down, but got "
                f"{self.search.trial_share:g}."
            )

    @property
    def _trunk_share(self) -> float:
        return 1 - self.train.cooldown_share

    def _check_stages(self) -> None:
        num_stages = len(self.data.stages)
        least = {"stage_flops": num_stages, "schedule": self.data.num_planned_stages}
        for name, fewest in least.items():
            given = len(getattr(self, name))
            if given and not fewest <= given <= num_stages:
                raise ValueError(
                    f"{name}: must have one entry for each of the {num_stages} stages of "
                    f"data.stages, but got {given}."
                )
        for sizes in self.schedule:
            _check_names("schedule", tuple(sizes), DIMENSIONS)
        _check_names("rule", tuple(self.rule), DIMENSIONS)
        self._check_given_growths()

    def _check_given_growths(self) -> None:
        """Refuse now what would end a run at a later stage."""
        arch, place = self.parent_arch, ""
        try:
            for index, sizes in enumerate(self.schedule):
                place = f"schedule[{index}]"
                arch = scheduled(arch, sizes).apply(arch)
            first = max(len(self.schedule), 0 if self.parent_checkpoint else 1)
            for index in range(first, len(self.data.stages)):
                place = f"rule, at stage {index}"
                arch = next_sizes(self.rule, arch, MAX_COUNT).apply(arch)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None

    @property
    def parent_arch(self) -> ClipArch:
        """The first model's architecture."""
        return ClipArch.preset(self.parent) if isinstance(self.parent, str) else self.parent

    def to_yaml(self) -> str:
        """The resolved configuration, as kept in the run folder."""
        return yaml.safe_dump(to_mapping(self), sort_keys=False)


def load_config(path: str | Path, seed: int | None = None) -> ExperimentConfig:
    """Read an experiment strictly.

    Args:
        path: A YAML file.
        seed: Replaces the file's seed.

    Raises:
        ValueError: If the file or a value in it is bad; the message gives the dotted path.
    """
    file = Path(path)
    data = with_files(read_mapping(file), file)
    config = from_mapping(ExperimentConfig, data, str(file))
    return config if seed is None else replace(config, seed=seed)


def with_files(data: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """An experiment's mapping with what it names by file in place of the names.

    Args:
        data: The mapping; ``space`` may be a file or the name of one that is shipped, ``parent``
            a checkpoint's folder.
        file: Where it stands: what relative paths start from. A checkpoint may also be relative to
            where the program runs.

    Raises:
        ValueError: If a file or folder is missing or bad.
    """
    read, folder = dict(data), file.parent
    if isinstance(read.get("space"), str):
        read["space"] = read_mapping(space_file(read["space"], folder))
    parent = read.get("parent")
    if isinstance(parent, str) and parent not in PRESETS:
        places = [path for path in (folder / parent, Path(parent)) if path.is_dir()]
        if not places:
            raise ValueError(
                f"{file}: parent: {parent!r} must be a preset ({', '.join(PRESETS)}), an "
                "architecture or a checkpoint's folder, but there is no such folder in "
                f"{str(folder)!r} or here. Import or name it."
            )
        read["parent"] = checkpoint_arch(places[0]).to_dict()
        read["parent_checkpoint"] = str(places[0].resolve())
    return read


def _check_numbers(value: object, key: str) -> None:
    """Refuse numbers that no setting can have, wherever they stand."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_numbers(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_numbers(item, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}: must be a finite number, but got {value}.")
    elif isinstance(value, int) and not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{key}: must be from 0 to {MAX_COUNT}, but got {value:#x}.")


def _check_names(key: str, names: Iterable[str], table: Iterable[str]) -> None:
    for name in names:
        require_choice(name, table, key)
