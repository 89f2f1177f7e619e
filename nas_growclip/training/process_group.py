"""The processes that train one model together under torchrun.

One process, the leader, runs the experiment: it searches, grows, measures and writes. The others
follow: they wait for commands to train, take the leader's training state, and train on their share
of every batch, with all of the model (DistributedDataParallel) or a share of it (``sharding``).
So what is on disk does not depend on how many processes there were.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from nas_growclip.data.batches import BatchShard
from nas_growclip.models.clip import Clip
from nas_growclip.models.losses import ContrastiveLoss
from nas_growclip.training.backpropagation import Backpropagation

Command = Mapping[str, Any]
"""What followers are to do, by name."""

PATIENCE = timedelta(days=7)
"""How long followers wait for a command, such as while the leader measures."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place among those that train together; by default it is alone."""

    rank: int = 0
    size: int = 1
    device: str | None = None
    """The device that torchrun's place gives this process; None where it is alone."""
    commands: Any = None
    """The process group that commands go through, on the CPU."""

    @property
    def is_leader(self) -> bool:
        """Whether this process runs the experiment."""
        return self.rank == 0

    @property
    def batch_shard(self) -> BatchShard:
        """The part of every batch that this process trains on."""
        return BatchShard(self.rank, self.size)

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that cannot be shared out evenly.

        Raises:
            ValueError: If the number of processes does not divide it.
        """
        if batch_size % self.size:
            raise ValueError(
                f"train.batch_size must be divisible by the {self.size} processes that share it, "
                f"but got {batch_size}."
            )

    def replicate(self, model: Clip) -> DistributedDataParallel | None:
        """The model as wrapped by what averages its gradients; None where nothing has to.

        Every process of the group must take part. Gradients lie in the buffers that are averaged,
        so these need no memory of their own.
        """
        if self.size == 1 or isinstance(model, FSDPModule):
            return None
        place = model.logit_scale.device
        return DistributedDataParallel(
            model,
            device_ids=None if place.type == "cpu" else [place],
            gradient_as_bucket_view=True,
        )

    def backpropagation(
        self,
        model: Clip,
        replica: DistributedDataParallel | None,
        part: int,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> Backpropagation:
        """How this process's share of a batch becomes the gradient of the whole batch's loss.

        Args:
            model: The model; every process's has the same weights, or its share of them.
            replica: What ``replicate`` made of it.
            part: Pairs of the whole batch whose activations are held at a time; 0: all.
            autocast: What the towers run under.
        """
        loss_fn = ContrastiveLoss(model.logit_bias is not None, self.rank, self.size)
        share = -(-part // self.size)
        if replica is not None:
            return Backpropagation(
                model, loss_fn, share, autocast, replica, before_last=replica.no_sync
            )
        if self.size == 1:
            return Backpropagation(model, loss_fn, part, autocast)
        return Backpropagation(
            model, loss_fn, share, autocast, after_last=lambda: self._average(model.scalars())
        )

    def mean(self, value: Tensor) -> Tensor:
        """The mean of every process's value."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
            value = value / self.size
        return value

    def _average(self, parameters: Iterable[Tensor]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = self.mean(parameter.grad)

    def broadcast(self, command: object) -> None:
        """Give the followers a command."""
        if self.size > 1:
            distributed.broadcast_object_list([command], src=0, group=self.commands)

    def receive(self) -> Any:
        """Wait for the leader's next command."""
        received: list[Any] = [None]
        distributed.broadcast_object_list(received, src=0, group=self.commands)
        return received[0]

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the followers tensors, for ``receive_tensors``."""
        if self.size == 1:
            return
        self.broadcast({name: (tuple(t.shape), t.dtype) for name, t in tensors.items()})
        for value in tensors.values():
            distributed.broadcast(self._placed(value.detach()), src=0)

    def receive_tensors(self, device: torch.device) -> dict[str, Tensor]:
        """Take the tensors that the leader sends, and put each on a device."""
        received = {}
        for name, (shape, dtype) in self.receive().items():
            value = self._placed(torch.empty(shape, dtype=dtype))
            distributed.broadcast(value, src=0)
            received[name] = value.to(device)
        return received

    def _placed(self, value: Tensor) -> Tensor:
        return value.to(self.device or "cpu").contiguous()

    def leave(self) -> None:
        """End the group: its followers are told that there is nothing left to do.

        Not for errors: followers may be in the middle of a step then, and torchrun ends them when
        it sees the leader's exit code.
        """
        if self.size > 1:
            if self.is_leader:
                self.broadcast(None)
            _joined.clear()
            distributed.destroy_process_group()


PR_SET_PDEATHSIG = 1
"""From Linux's ``sys/prctl.h``."""

ALONE = ProcessGroup()
_joined: list[ProcessGroup] = []


def current_group() -> ProcessGroup:
    """The group that this process has joined; alone if none."""
    return _joined[-1] if _joined else ALONE


def _end_with_parent() -> None:
    """Let this process end when torchrun does, also when that is killed; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def join_group(device: str | None = None) -> ProcessGroup:
    """Take this process's place among those that torchrun started; alone where it did not.

    Args:
        device: ``cpu`` or ``cuda``; by default CUDA where there is a GPU for each process.

    Raises:
        ValueError: If there are fewer GPUs than processes on this machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or not distributed.is_torchelastic_launched():
        return ALONE
    _end_with_parent()
    place = int(os.environ["LOCAL_RANK"])
    uses_gpu = (device or ("cuda" if torch.cuda.is_available() else "cpu")).startswith("cuda")
    if uses_gpu and place >= torch.cuda.device_count():
        raise ValueError(
            f"Each process on a machine must have a GPU, but there are "
            f"{torch.cuda.device_count()}. Start fewer by --nproc-per-node, or add --device cpu."
        )
    if uses_gpu:
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if uses_gpu else "gloo")
    commands = distributed.new_group(backend="gloo", timeout=PATIENCE)
    name = f"cuda:{place}" if uses_gpu else "cpu"
    _joined.append(ProcessGroup(distributed.get_rank(), size, name, commands))
    return _joined[-1]
