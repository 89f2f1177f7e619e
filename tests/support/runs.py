"""A small experiment that ends in seconds, for the end-to-end tests."""

import sys
from dataclasses import replace
from pathlib import Path

from nas_growclip.experiment.config import ExperimentConfig, load_config
from nas_growclip.search.config import SearchConfig
from tests.support.words import with_words

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "experiments" / "smoke.yaml"
RECORDS = ("trials.jsonl", "stages.jsonl")


def smoke_config(**changes: object) -> ExperimentConfig:
    """``experiments/smoke.yaml`` with a small vocabulary: a run takes half the time."""
    return replace(with_small_vocabulary(load_config(SMOKE)), **changes)


def with_small_vocabulary(config: ExperimentConfig) -> ExperimentConfig:
    """An experiment whose parent has a vocabulary of a few hundred tokens."""
    return replace(config, parent=with_words(config.parent_arch))


def small_config(**changes: object) -> ExperimentConfig:
    """Two stages of four and six steps, two trials each, without a study to draw pictures of.

    For claims about runs that no search and no benchmark has a part in.
    """
    data = replace(smoke_config().data, stages=(64, 96), zero_shot=())
    search = SearchConfig(backend="exhaustive", num_trials=2, trial_share=0.3, curve_points=2)
    return smoke_config(**{"data": data, "search": search, "passes": 2.0} | changes)


def one_stage(config: ExperimentConfig) -> ExperimentConfig:
    """Only an experiment's first stage."""
    return replace(config, data=replace(config.data, stages=config.data.stages[:1]))


def records_of(run: Path) -> dict[str, str]:
    return {name: (run / name).read_text() for name in RECORDS}


def by_two_processes(*module: str) -> list[str]:
    """The command that runs a module, with its arguments, under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    return [*torchrun, "--standalone", "--nproc-per-node=2", "-m", *module]
