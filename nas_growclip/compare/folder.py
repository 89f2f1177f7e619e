"""A comparison's folder: which runs there are, which have ended, and each arm's learning rate."""

import json
from collections.abc import Iterator
from pathlib import Path

from nas_growclip.compare.config import (
    ArmRun,
    CompareConfig,
    load_comparison,
    run_config,
    tuning_runs,
)
from nas_growclip.experiment.run import is_complete
from nas_growclip.io.files import make_folder, write_atomically
from nas_growclip.io.mappings import read_mapping, to_mapping
from nas_growclip.records.folder import read_stages

COMPARISON_FILE = "comparison.yaml"
EARLIER_FILE = "study.yaml"
"""Its name in folders of 0.1.0."""
ARMS_FILE = "arms.json"
"""What each arm changes, of all arms that were ever run in the folder."""
FAILURE_FILE = "failure.json"
"""In a run's folder: why it cannot be completed; it is not tried again while this is there."""


class CompareFolder:
    """A comparison and the folder that holds its runs.

    Args:
        config: The comparison.
        out: Its folder; made if it is not there, resumed if it is.

    Raises:
        ValueError: If the folder holds another comparison or cannot be written.
    """

    def __init__(self, config: CompareConfig, out: str | Path) -> None:
        self.config = config
        self.out = Path(out)
        self._complete: set[ArmRun] = set()
        self._prepare_folder()

    @property
    def is_finished(self) -> bool:
        """Whether every run has ended."""
        return not any(True for _ in self.open_runs())

    def chosen_rate(self, arm: str) -> float | None:
        """The learning rate of an arm's runs; None for its own.

        Raises:
            LookupError: If the tries that choose it have not all ended, or all of them failed.
        """
        runs = tuning_runs(self.config, arm)
        if not runs:
            return self.config.learning_rates[0] if self.config.learning_rates else None
        if not all(self.has_ended(arm_run) for arm_run in runs):
            raise LookupError(arm)
        sign = 1 if self.config.tuned_by.endswith("loss") else -1
        results = {
            u.learning_rate: sign * self._tuning_result(u) for u in runs if self.is_complete(u)
        }
        if not results:
            raise LookupError(f"every learning rate of arm {arm!r} failed")
        return min(results, key=lambda rate: results[rate])

    def has_failed(self, arm: str) -> bool:
        """Whether every learning rate of an arm was tried and failed: it has no runs then."""
        runs = tuning_runs(self.config, arm)
        tried = all(self.has_ended(arm_run) for arm_run in runs)
        return bool(runs) and tried and not any(self.is_complete(arm_run) for arm_run in runs)

    def runs(self, arm: str) -> tuple[ArmRun, ...]:
        """An arm's runs that are reported, seed by seed; LookupError as ``chosen_rate``."""
        rate = self.chosen_rate(arm)
        return tuple(ArmRun(arm, rate, seed) for seed in self.config.seeds_of(arm))

    def has_ended(self, arm_run: ArmRun) -> bool:
        """Whether a run is complete or was given up."""
        return (self.out / arm_run.path / FAILURE_FILE).exists() or self.is_complete(arm_run)

    def is_complete(self, arm_run: ArmRun) -> bool:
        """Whether a run is complete."""
        if arm_run not in self._complete:
            if not is_complete(run_config(self.config, arm_run), self.out / arm_run.path):
                return False
            self._complete.add(arm_run)
        return True

    def _tuning_result(self, arm_run: ArmRun) -> float:
        return read_stages(self.out / arm_run.path)[-1].validation[self.config.tuned_by].value

    def open_runs(self) -> Iterator[ArmRun]:
        """Runs that have not ended and may be run now: rates first, then seed by seed."""
        arms = tuple(self.config.arms)
        for arm in arms:
            yield from (u for u in tuning_runs(self.config, arm) if not self.has_ended(u))
        for index in range(len(self.config.seeds)):
            for arm in arms:
                try:
                    runs = self.runs(arm)
                except LookupError:
                    continue
                yield from (u for u in runs[index : index + 1] if not self.has_ended(u))

    def _prepare_folder(self) -> None:
        path = self.out / COMPARISON_FILE
        text = self.config.to_yaml()
        if not path.exists():
            if (self.out / EARLIER_FILE).exists():
                raise ValueError(
                    f"{self.out}: was written before comparisons had this name. Rename its "
                    f"{EARLIER_FILE} to {COMPARISON_FILE}; then it resumes."
                )
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise ValueError(
                    f"{self.out}: must be a new or empty folder or a comparison's folder, but is "
                    "neither. Choose another --out."
                )
            make_folder(self.out)
            write_atomically(path, text.encode())
            self._note_arms()
            return
        _check_same_comparison(self.config, load_comparison(path), self.out)
        write_atomically(path, text.encode())
        self._note_arms()

    def _note_arms(self) -> None:
        """Keep what every arm was that ever ran here, those that are left out now too.

        Raises:
            ValueError: If an arm of that name was another one.
        """
        path = self.out / ARMS_FILE
        arms = to_mapping(self.config)["arms"]
        known = dict(read_mapping(path)) if path.exists() else {}
        changed = [name for name, arm in known.items() if arms.get(name, arm) != arm]
        if changed:
            raise _another_comparison(self.out, [f"arms: {name}" for name in changed])
        write_atomically(path, (json.dumps(known | arms, indent=2) + "\n").encode())


def _check_same_comparison(wanted: CompareConfig, kept: CompareConfig, out: Path) -> None:
    """What all arms share must be as it was; arms and seeds may be added or left out."""
    new, old = to_mapping(wanted), to_mapping(kept)
    fixed = ("experiment", "learning_rates", "tuning_seed", "tuned_by")
    changed = [name for name in fixed if new[name] != old[name]]
    if changed:
        raise _another_comparison(out, changed)


def _another_comparison(out: Path, changed: list[str]) -> ValueError:
    return ValueError(
        f"{out}: holds another comparison: it differs in {', '.join(changed)}. Choose another "
        "--out, or run the comparison it was made with; arms and seeds may be added or left out."
    )
