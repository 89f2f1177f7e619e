"""Settings between two starts of one run: which may change, and how the others are named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.settings import (
    FREE_SETTINGS,
    RECOVERY_SETTINGS,
    changed_settings,
    check_changes,
)
from nas_growclip.io.mappings import from_mapping, to_mapping
from tests.support.runs import smoke_config

RUN = Path("runs/mine")


def changed(config: ExperimentConfig, key: str, value: object) -> ExperimentConfig:
    mapping: Any = to_mapping(config)
    *path, last = key.split(".")
    part = mapping
    for name in path:
        part = part[name]
    assert last in part, key
    part[last] = value
    return from_mapping(ExperimentConfig, mapping, "")


def other_value(config: ExperimentConfig, key: str) -> object:
    value: Any = to_mapping(config)
    for name in key.split("."):
        value = value[name]
    return (not value) if isinstance(value, bool) else value + 1


@pytest.mark.parametrize("key", sorted(FREE_SETTINGS))
def test_settings_that_change_no_result_may_change(key: str) -> None:
    before = smoke_config()
    now = changed(before, key, other_value(before, key))
    (change,) = check_changes(RUN, before, now, has_failed=False)
    assert change.key == key


@pytest.mark.parametrize("key", sorted(RECOVERY_SETTINGS))
def test_recovery_settings_may_change_after_a_failure_only(key: str) -> None:
    before = smoke_config()
    now = changed(before, key, other_value(before, key))
    assert check_changes(RUN, before, now, has_failed=True)
    with pytest.raises(ValueError, match=rf"it differs in {key} \("):
        check_changes(RUN, before, now, has_failed=False)


def test_trials_may_be_raised_where_no_budget_hangs_on_them() -> None:
    before = smoke_config()
    more = replace(before, search=replace(before.search, num_trials=9))
    assert check_changes(RUN, before, more, has_failed=False)
    with pytest.raises(ValueError, match=r"search\.num_trials \(9 there, 3 here\)"):
        check_changes(RUN, more, before, has_failed=False)
    priced = (replace(config, stage_flops=(1e9, 1e9)) for config in (before, more))
    with pytest.raises(ValueError, match=r"search\.num_trials \(3 there, 9 here\)"):
        check_changes(RUN, *priced, has_failed=False)


def test_a_refusal_names_every_key_with_both_values() -> None:
    before = smoke_config()
    now = replace(before, passes=5.0, train=replace(before.train, batch_size=16))
    message = (
        rf"^runs/mine: holds another experiment: it differs in passes \({before.passes} there, "
        rf"5\.0 here\), train\.batch_size \({before.train.batch_size} there, 16 here\)\. Choose"
    )
    with pytest.raises(ValueError, match=message):
        check_changes(RUN, before, now, has_failed=True)


def test_the_same_experiment_has_no_changes() -> None:
    assert changed_settings(smoke_config(), smoke_config()) == ()
