"""A run by several processes under torchrun: one leads, the others train with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nas_growclip.data.batches import PairBatch
from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.stage_training import shared_batches
from nas_growclip.io.progress import hush
from nas_growclip.search.backends import EXPERIMENT_BACKENDS
from nas_growclip.training.checkpoint import unpack_state
from nas_growclip.training.loop import DivergedError, train
from nas_growclip.training.sharding import gather, share_out, state_device
from nas_growclip.training.state import TrainState
from nas_growclip.training.team import Order, Team


def check_team(config: ExperimentConfig, team: Team) -> None:
    """Refuse what several processes cannot do together.

    Raises:
        ValueError: If the batch cannot be shared out, or trials are processes of their own.
    """
    team.check_batch(config.train.batch_size)
    if team.size > 1 and config.search.backend in EXPERIMENT_BACKENDS:
        raise ValueError(
            f"search.backend: {config.search.backend!r} starts trials as processes of their own, "
            f"which {team.size} processes of torchrun cannot share. Use another backend."
        )


def follow(config: ExperimentConfig, data_folder: Path | None, team: Team) -> None:
    """Train as the leader orders until it has nothing left to do.

    Args:
        config: The leader's experiment.
        data_folder: Where the data's relative paths start, on this machine.
        team: This process's place.
    """
    hush()
    follower = Follower(config, open_stages(config.data, data_folder), team)
    while (order := team.hear()) is not None:
        follower.obey(order)


@dataclass
class Follower:
    """What a follower works on."""

    config: ExperimentConfig
    stages: Sequence[DataStage]
    team: Team
    state: TrainState | None = None
    batches: Iterator[PairBatch] | None = None

    def obey(self, order: Order) -> None:
        """Take a training state, or train it up to a step."""
        if "stage" in order:
            self._take(order)
        elif self.state is not None and self.batches is not None:
            try:
                train(
                    self.state,
                    self.batches,
                    self.config.train,
                    total_steps=order["total_steps"],
                    until_step=order["until_step"],
                )
                gather(self.state)
            except DivergedError:
                self.state = None  # the leader sees the same, and says what comes next

    def _take(self, order: Order) -> None:
        config = self.config.train
        self.state = self.batches = None  # makes room for the next ones
        device = torch.device(state_device(config, self.team) or "cpu")
        source = Path("the leader's training state")
        tensors, metadata = self.team.receive(device), order["metadata"]
        state = unpack_state(tensors, metadata, config, source, device)
        state.team = self.team
        self.state = share_out(state, config)
        self.batches = shared_batches(self.config, self.stages[order["stage"]], self.state)
