"""A run that is killed at any moment ends as an undisturbed one: a small form of the campaign."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from nas_growclip.experiment.config import ExperimentConfig
from tests.support.killing import (
    BOTH,
    PHASES,
    START_OR_END,
    Campaign,
    differences,
    experiment,
    phase_of,
    repetitions,
)
from tests.support.processes import ending, forked, session_members

pytestmark = pytest.mark.usefixtures("one_thread")


def small() -> ExperimentConfig:
    config = experiment()
    return replace(
        config,
        data=replace(config.data, stages=(64, 96), zero_shot=()),
        search=replace(config.search, num_trials=2),
        passes=2.0,
    )


@pytest.mark.slow
def test_kills_leave_no_trace(tmp_path: Path) -> None:
    campaign = Campaign(small(), tmp_path / "campaign", seed=3)
    campaign.go(2)
    assert campaign.faults == []
    assert len(campaign.kills) == 2
    # What the campaign looks for is seen where it is there.
    run, reference = tmp_path / "campaign" / "killed_00" / "run", campaign.reference
    (run / "stage_00" / ".x.tmp").write_text("half")
    (run / "stage_01" / "model.safetensors").write_bytes(
        (run / "stage_00" / "model.safetensors").read_bytes()
    )
    with (run / "trials.jsonl").open("a") as file:
        file.write((run / "trials.jsonl").read_text().splitlines()[0] + "\n")
    assert differences(run, reference) == [
        "stage_00/.x.tmp is left over",
        "stage_01/model.safetensors differs",
        "trials.jsonl differs",
    ]
    assert repetitions(run, campaign.config) == ["(0, 'none') is recorded 2 times"]


def test_a_phase_is_told_by_what_is_running() -> None:
    for phase, functions in PHASES.items():
        running = functions if phase in BOTH else functions[:1]
        assert phase_of("".join(f"in {name}\n" for name in ("main", *running))) == phase
    assert phase_of("in main\nin open_stages\n") == START_OR_END


def test_a_process_that_is_left_over_is_found() -> None:
    def leave_one_behind() -> None:
        os.setsid()
        if os.fork() == 0:
            signal.pause()

    child = forked(leave_one_behind)
    assert ending(child) == 0
    (orphan,) = session_members(child)
    os.kill(orphan, signal.SIGKILL)
