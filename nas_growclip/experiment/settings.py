"""Which settings may change between two starts of one run, and how a refusal names the others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.io.mappings import to_mapping

FREE_SETTINGS = frozenset(
    (
        "data.workers",
        "train.checkpoint_steps",
        "train.compile",
        "train.micro_batch_size",
        "search.grace_seconds",
        "search.nni_workers",
    )
)
"""Settings that change no result, but for the last digits, and may always change."""
RECOVERY_SETTINGS = frozenset(
    ("train.learning_rate", "train.warmup_steps", "train.max_grad_norm", "train.divergence_retries")
)
"""Settings that may also change where a stage's training failed."""
NUM_TRIALS = "search.num_trials"
"""May be raised where budgets do not depend on it."""


class Change(NamedTuple):
    """A setting that is not what it was."""

    key: str
    """Dotted."""
    before: object
    now: object

    def __str__(self) -> str:
        return f"{self.key} ({_shown(self.before)} there, {_shown(self.now)} here)"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def changed_settings(before: ExperimentConfig, now: ExperimentConfig) -> tuple[Change, ...]:
    """Every setting that differs, by its dotted key."""
    return tuple(_changes(to_mapping(before), to_mapping(now), ""))


def _changes(before: Any, now: Any, key: str) -> list[Change]:
    if before == now:
        return []
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return [Change(key, before, now)]
    changes = []
    for name in dict.fromkeys((*before, *now)):
        path = f"{key}.{name}" if key else str(name)
        changes += _changes(before.get(name), now.get(name), path)
    return changes


def check_changes(
    run: Path, before: ExperimentConfig, now: ExperimentConfig, *, has_failed: bool
) -> tuple[Change, ...]:
    """Check that a run can resume with another configuration.

    Args:
        run: The run folder, for messages.
        before: The experiment as the run folder holds it.
        now: The experiment as given.
        has_failed: Whether a stage's training failed, so that recovery settings may change too.

    Returns:
        What changes, all of which may.

    Raises:
        ValueError: If a setting differs that must not.
    """
    changes = changed_settings(before, now)
    refused = [c for c in changes if not _may_change(c, now, has_failed=has_failed)]
    if not refused:
        return changes
    num_added = before.data.num_added_stages
    if num_added > now.data.num_added_stages:
        raise ValueError(
            f"{run}: holds {num_added} stages more than the experiment, added since. "
            f"Resume it by `growclip continue {run} --data SHARDS`."
        )
    raise ValueError(
        f"{run}: holds another experiment: it differs in {', '.join(map(str, refused))}. "
        "Choose another --out, or run the experiment it was made with."
    )


def _may_change(change: Change, now: ExperimentConfig, *, has_failed: bool) -> bool:
    if change.key == NUM_TRIALS:
        is_raised = int(str(change.now)) > int(str(change.before))
        return is_raised and not any(now.stage_flops)
    return change.key in FREE_SETTINGS or (has_failed and change.key in RECOVERY_SETTINGS)
