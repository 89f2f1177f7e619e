"""A training state shared out over the processes of a group, by PyTorch's fully_shard (FSDP2).

Each process holds its share of every weight, gradient, moment and average, and gathers one
transformer block at a time to compute with. Growing, measuring and saving know nothing of it: they
see the whole state, which the leader keeps on the CPU and which the shares are gathered into.
"""

import copy
import gc
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import set_gates
from nas_growclip.training.process_group import ProcessGroup
from nas_growclip.training.state import TrainConfig, TrainState, make_optimizer


def is_sharded(config: TrainConfig, group: ProcessGroup) -> bool:
    """Whether each process of the group trains a share of the state; one alone has all of it."""
    return config.shard and group.size > 1


def state_device(config: TrainConfig, group: ProcessGroup) -> str | None:
    """Where whole training states lie; None where the group does not say."""
    return "cpu" if is_sharded(config, group) else group.device


def shard_state(state: TrainState, config: TrainConfig) -> TrainState:
    """What this process trains on: its share of a state, or the state itself if none is sharded.

    Without communication: every process must have the same whole state, which is left as it is.
    The learning curve stays with it.
    """
    group = state.group
    if not is_sharded(config, group):
        return state
    gc.collect()  # earlier shares, which refer to themselves and would stay on the GPU
    model = _sharded(copy.deepcopy(state.model), group)
    parts = dict(model.named_parameters())
    optimizer = make_optimizer(model, config)
    shares = replace(state, model=model, optimizer=optimizer, curve=[], ema={})
    for name, whole in state.model.named_parameters():
        if moments := state.optimizer.state.get(whole):
            shares.optimizer.state[parts[name]] = {
                key: _share(value, parts[name], group) for key, value in moments.items()
            }
    shares.ema = {name: _share(value, parts[name], group) for name, value in state.ema.items()}
    return shares


@torch.no_grad()
def gather(shares: TrainState, whole: TrainState | None = None) -> None:
    """Bring what was trained together again; every process of the group must take part.

    Args:
        shares: As ``shard_state`` gave it; where that was the state itself there is nothing to do.
        whole: Takes the weights, moments, average and step; None where others keep them.
    """
    if not isinstance(shares.model, FSDPModule):
        return
    parameters = dict(whole.model.named_parameters()) if whole else {}
    for name, part in shares.model.named_parameters():
        weights = _gathered(part)
        moments = {key: _gathered(value) for key, value in shares.optimizer.state[part].items()}
        if whole is not None:
            parameter = parameters[name]
            parameter.copy_(weights)
            whole.optimizer.state[parameter] = {
                key: value.to(parameter.device) for key, value in moments.items()
            }
    for name, share in shares.ema.items():
        average = _gathered(share)
        if whole is not None:
            whole.ema[name].copy_(average)
    if whole is not None:
        whole.step = shares.step
        set_gates(whole.model, shares.step - 1)


def _sharded(model: Clip, group: ProcessGroup) -> Clip:
    """The model with each block, and the rest, shared out; fully_shard has no room for scalars."""
    device = torch.device(group.device or "cpu")
    mesh = init_device_mesh(device.type, (group.size,))
    for blocks in (model.image.trunk.blocks, model.text.blocks, model.shared.blocks):
        for block in blocks:
            fully_shard(block, mesh=mesh)
    scalars = model.scalars()
    for scalar in scalars:
        scalar.data = scalar.data.to(device)
    fully_shard(model, mesh=mesh, ignored_params=set(scalars))
    return model


def _share(value: Tensor, part: Tensor, group: ProcessGroup) -> Tensor:
    """This process's rows of a whole tensor, as a parameter's share has them."""
    if not isinstance(part, DTensor) or not value.ndim:
        return value.to(part.device, copy=True)
    start = group.rank * -(-len(value) // group.size)
    rows = value[start : start + len(part.to_local())].contiguous()
    return DTensor.from_local(
        rows.to(part.device, copy=True),
        part.device_mesh,
        part.placements,
        shape=part.shape,
        stride=part.stride(),
    )


def _gathered(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value.detach().clone()
