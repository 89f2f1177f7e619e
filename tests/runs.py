"""A small experiment that ends in seconds, for the end-to-end tests."""

from dataclasses import replace
from pathlib import Path

from nas_growclip.config import ExperimentConfig, load_config

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "experiments" / "smoke.yaml"
RECORDS = ("trials.jsonl", "stages.jsonl")


def smoke_config(**changes: object) -> ExperimentConfig:
    return replace(load_config(SMOKE), **changes)


def records_of(run: Path) -> dict[str, str]:
    return {name: (run / name).read_text() for name in RECORDS}
