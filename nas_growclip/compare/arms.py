"""A comparison's arms as their records tell of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from nas_growclip.compare.bootstrap import Outcomes
from nas_growclip.compare.folder import CompareFolder
from nas_growclip.records.folder import RunFolder, read_outcomes
from nas_growclip.records.frames import Run, load_run


@dataclass(frozen=True)
class Arm:
    """An arm's complete runs, seed by seed."""

    name: str
    learning_rate: float | None
    runs: Mapping[int, Run]
    """By seed."""

    @property
    def num_stages(self) -> int:
        """Stages of each run."""
        return len(next(iter(self.runs.values())).stages)

    @property
    def last_pairs(self) -> int:
        """Pairs of the last stage."""
        return next(iter(self.runs.values())).stages[-1].num_pairs

    def ends_before(self, other: "Arm") -> bool:
        """Whether it has fewer stages than another arm, and less data in its last one."""
        return self.num_stages < other.num_stages and self.last_pairs < other.last_pairs

    @cached_property
    def _outcomes(self) -> dict[int, list[Outcomes]]:
        """Read once, for all metrics and all arms that it is compared with."""
        return {
            seed: [read_outcomes(RunFolder(run.path).stage(stage.stage)) for stage in run.stages]
            for seed, run in self.runs.items()
        }

    def stage_outcomes(self, seed: int) -> list[Outcomes]:
        """What each stage's model of a run got right."""
        return self._outcomes[seed]

    def outcomes(self, seeds: Sequence[int]) -> list[Outcomes]:
        """What the last stages' models got right."""
        return [self.stage_outcomes(seed)[-1] for seed in seeds]


def common_seeds(arm: Arm, *others: Arm) -> tuple[int, ...]:
    """The seeds that all of them have complete runs of."""
    return tuple(seed for seed in arm.runs if all(seed in other.runs for other in others))


def load_arms(comparison: CompareFolder) -> tuple[Arm, ...]:
    """The arms that have a complete run, in the comparison's order."""
    return tuple(_arms(comparison))


def _arms(comparison: CompareFolder) -> Iterator[Arm]:
    for name in comparison.config.arms:
        try:
            runs = comparison.runs(name)
        except LookupError:
            continue
        done = {
            u.seed: load_run(comparison.out / u.path) for u in runs if comparison.is_complete(u)
        }
        if done:
            yield Arm(name, runs[0].learning_rate, done)
