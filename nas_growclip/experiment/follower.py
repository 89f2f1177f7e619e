"""A run by several processes under torchrun: one leads, the others train with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nas_growclip.data.encoding import PairBatch
from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.stage_training import sharded_batches
from nas_growclip.io.logs import log_errors_only
from nas_growclip.search.backends import EXPERIMENT_BACKENDS
from nas_growclip.training.checkpoint import unpack_state
from nas_growclip.training.loop import DivergedError, train
from nas_growclip.training.process_group import Command, ProcessGroup
from nas_growclip.training.sharding import gather, shard_state, state_device
from nas_growclip.training.state import TrainState


def check_group(config: ExperimentConfig, group: ProcessGroup) -> None:
    """Refuse what several processes cannot do together.

    Raises:
        ValueError: If the batch cannot be shared out, or trials are processes of their own.
    """
    group.check_batch(config.train.batch_size)
    if group.size > 1 and config.search.backend in EXPERIMENT_BACKENDS:
        raise ValueError(
            f"search.backend: {config.search.backend!r} starts trials as processes of their own, "
            f"which {group.size} processes of torchrun cannot share. Use another backend."
        )


def follow(config: ExperimentConfig, data_folder: Path | None, group: ProcessGroup) -> None:
    """Train as the leader orders until it has nothing left to do.

    Args:
        config: The leader's experiment.
        data_folder: Where the data's relative paths start, on this machine.
        group: This process's place.
    """
    log_errors_only()
    follower = Follower(config, open_stages(config.data, data_folder), group)
    while (command := group.receive()) is not None:
        follower.obey(command)


@dataclass
class Follower:
    """What a follower works on."""

    config: ExperimentConfig
    stages: Sequence[DataStage]
    group: ProcessGroup
    state: TrainState | None = None
    batches: Iterator[PairBatch] | None = None

    def obey(self, command: Command) -> None:
        """Take a training state, or train it up to a step."""
        if "stage" in command:
            self._take(command)
        elif self.state is not None and self.batches is not None:
            try:
                train(
                    self.state,
                    self.batches,
                    self.config.train,
                    total_steps=command["total_steps"],
                    until_step=command["until_step"],
                )
                gather(self.state)
            except DivergedError:
                self.state = None  # the leader sees the same, and says what comes next

    def _take(self, command: Command) -> None:
        config = self.config.train
        self.state = self.batches = None  # makes room for the next ones
        device = torch.device(state_device(config, self.group) or "cpu")
        source = Path("the leader's training state")
        tensors, metadata = self.group.receive_tensors(device), command["metadata"]
        state = unpack_state(tensors, metadata, config, source, device)
        state.group, state.rewarm = self.group, self.config.growth.rewarm
        self.state = shard_state(state, config)
        self.batches = sharded_batches(self.config, self.stages[command["stage"]], self.state)
