"""A small experiment that ends in seconds, for the end-to-end tests."""

import sys
from dataclasses import replace
from pathlib import Path

from nas_growclip.experiment.config import ExperimentConfig, load_config

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "experiments" / "smoke.yaml"
RECORDS = ("trials.jsonl", "stages.jsonl")


def smoke_config(**changes: object) -> ExperimentConfig:
    return replace(load_config(SMOKE), **changes)


def records_of(run: Path) -> dict[str, str]:
    return {name: (run / name).read_text() for name in RECORDS}


def by_two_processes(*module: str) -> list[str]:
    """The command that runs a module, with its arguments, under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    return [*torchrun, "--standalone", "--nproc-per-node=2", "-m", *module]
