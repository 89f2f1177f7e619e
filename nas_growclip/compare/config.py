"""One YAML is one comparison: arms that change settings of one experiment, times seeds."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nas_growclip.experiment.config import ExperimentConfig, with_files
from nas_growclip.io.choices import require_choice
from nas_growclip.io.mappings import from_mapping, read_fields, read_mapping, to_mapping
from nas_growclip.io.ranges import above, check_ranges, require_in_range, within

_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Arms of one experiment, each at its own best learning rate, over several seeds.

    Raises:
        ValueError: If a name is unknown or a list is empty.
    """

    experiment: Mapping[str, Any]
    """What all arms share; in YAML also an experiment's file, relative to the comparison's."""
    arms: Mapping[str, Mapping[str, Any]]
    """What each arm changes of it; nested mappings are merged, everything else is replaced."""
    baseline: str
    """The arm that all others are compared with, pair by pair."""
    other_baselines: tuple[str, ...] = ()
    """Arms that end on other data: an arm is compared with the one that ends on its own data."""
    seeds: tuple[int, ...]
    """Every arm runs once with each."""
    num_seeds: Mapping[str, int] = field(default_factory=dict)
    """Arms that run with only the first so many of the seeds."""
    envelope: tuple[str, ...] = ()
    """Arms of fixed size; the best of them at each stage is what regret is measured against."""
    learning_rates: tuple[float, ...] = ()
    """Tried by every arm before its seeds; none leaves each arm's own."""
    tuning_seed: int = 1000
    """Seed of these tries; none of ``seeds``."""
    tuned_by: str = "loss"
    """Metric on ``validation`` after the last stage that chooses among them."""

    def __post_init__(self) -> None:
        read_fields(self)
        self._check_arms()
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: must be all different, but got {list(self.seeds)}.")
        if self.tuning_seed in self.seeds and self.learning_rates:
            raise ValueError(
                f"tuning_seed: must be none of seeds, but got {self.tuning_seed}: a rate chosen "
                "on a seed that is reported would favour it."
            )
        check_ranges(self, learning_rates=above(0))

    def _check_arms(self) -> None:
        for name in ("arms", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name}: must have one entry or more, but is empty.")
        for arm in self.arms:
            if not _ARM_NAME.fullmatch(arm):
                raise ValueError(
                    f"arms: {arm!r} must be made of letters, digits and ._@-, since it names a "
                    "folder."
                )
        require_choice(self.baseline, self.arms, "baseline")
        for name in ("other_baselines", "envelope"):
            for arm in getattr(self, name):
                require_choice(arm, self.arms, name)
        for arm, number in self.num_seeds.items():
            require_choice(arm, self.arms, "num_seeds")
            require_in_range(f"num_seeds.{arm}", number, within(1, len(self.seeds)))

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds that an arm runs with."""
        return self.seeds[: self.num_seeds.get(arm, len(self.seeds))]

    def experiment_of(self, arm: str) -> ExperimentConfig:
        """An arm's experiment.

        Raises:
            ValueError: If what the arm changes makes no valid experiment.
        """
        merged = _merged(self.experiment, self.arms[arm])
        return from_mapping(ExperimentConfig, merged, f"arms: {arm}")

    def to_yaml(self) -> str:
        """The resolved comparison, as kept in its folder."""
        return yaml.safe_dump(to_mapping(self), sort_keys=False)


class ArmRun(NamedTuple):
    """One run of an arm: its learning rate and its seed."""

    arm: str
    learning_rate: float | None
    """None for the arm's own."""
    seed: int

    @property
    def path(self) -> Path:
        """Its run folder, in the comparison's."""
        rate = "" if self.learning_rate is None else f"lr_{self.learning_rate:g}_"
        return Path("runs") / self.arm / f"{rate}seed_{self.seed}"


def tuning_runs(comparison: CompareConfig, arm: str) -> tuple[ArmRun, ...]:
    """The runs that choose an arm's learning rate; none where there is nothing to choose."""
    rates = comparison.learning_rates
    return (
        tuple(ArmRun(arm, rate, comparison.tuning_seed) for rate in rates) if len(rates) > 1 else ()
    )


def run_config(comparison: CompareConfig, arm_run: ArmRun) -> ExperimentConfig:
    """The experiment of an arm's run."""
    config = replace(comparison.experiment_of(arm_run.arm), seed=arm_run.seed)
    if arm_run.learning_rate is None:
        return config
    return replace(config, train=replace(config.train, learning_rate=arm_run.learning_rate))


def load_comparison(path: str | Path) -> CompareConfig:
    """Read a comparison strictly, each arm's experiment too.

    Raises:
        ValueError: If the file or a value in it is bad; the message gives the dotted path.
    """
    file = Path(path)
    data = dict(read_mapping(file))
    if isinstance(data.get("experiment"), str):
        source = file.parent / data["experiment"]
        data["experiment"] = read_mapping(source)
    else:
        source = file
    if isinstance(data.get("experiment"), Mapping):
        data["experiment"] = with_files(data["experiment"], source)
    if isinstance(data.get("arms"), Mapping):
        data["arms"] = {name: _with_files(arm, file) for name, arm in data["arms"].items()}
    comparison = from_mapping(CompareConfig, data, str(file))
    for arm in comparison.arms:
        try:
            comparison.experiment_of(arm)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    return comparison


def _with_files(arm: Any, file: Path) -> Any:
    """An arm's changes with what they name by file; what is no mapping is refused later."""
    return with_files(arm, file) if isinstance(arm, Mapping) else arm or {}


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(base))
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged
