"""One process of ``test_sharding``: the same steps by DistributedDataParallel and by shares."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from nas_growclip.data.encoding import PairBatch
from nas_growclip.growth.verify import perturbed
from nas_growclip.models.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import install_gates
from nas_growclip.training.checkpoint import pack_state, unpack_state
from nas_growclip.training.loop import train
from nas_growclip.training.process_group import ProcessGroup, join_group
from nas_growclip.training.sharding import gather, shard_state
from nas_growclip.training.state import TrainConfig, TrainState, restore_optimizer, start_training
from tests.support.words import with_words

STEPS, BATCH = 3, 8
ARCH = with_words(
    ClipArch(
        image=ImageArch(depth=2, width=32, mlp_width=48, patch_size=8, image_size=16, head_dim=16),
        text=TextArch(depth=1, width=16, mlp_width=41, context_length=9, head_dim=16),
        shared=SharedArch(depth=1, mlp_width=24, head_dim=16),
        embed_dim=32,
        logit_bias=True,
    )
)


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(
        batch_size=BATCH, warmup_steps=1, max_grad_norm=0.01, ema_decay=0.9, **changes
    )


def grown_state(group: ProcessGroup) -> TrainState:
    """Weights, gates, moments with step counts by entry, an average: the same everywhere."""
    state = start_training(perturbed(Clip(ARCH, seed=1)), config())
    install_gates(state.model, ["image.trunk.blocks.1"], 5)
    generator = torch.Generator().manual_seed(2)
    moments: dict[str, Tensor] = {}
    for name, p in state.model.named_parameters():
        moments[f"exp_avg.{name}"] = 1e-3 * torch.randn(p.shape, generator=generator)
        moments[f"exp_avg_sq.{name}"] = 1e-6 * torch.rand(p.shape, generator=generator)
        moments[f"step_count.{name}"] = torch.randint(0, 9, p.shape, generator=generator)
    restore_optimizer(state, moments)
    state.group = group
    return state


def batches(model: Clip, group: ProcessGroup) -> Iterator[PairBatch]:
    generator = torch.Generator().manual_seed(0)
    size = BATCH // group.size
    mine = slice(group.rank * size, (group.rank + 1) * size)
    captions = tuple(f"picture number {i}" for i in range(BATCH))
    while True:
        images = torch.randn(BATCH, 3, 16, 16, generator=generator)
        yield PairBatch(images[mine], model.tokenize(list(captions))[mine], captions[mine])


def trained(group: ProcessGroup, settings: TrainConfig) -> tuple[dict[str, Tensor], dict[str, int]]:
    """All of the state after some steps, and the bytes that this process trained with."""
    whole = grown_state(group)
    shares = shard_state(whole, settings)
    train(shares, batches(whole.model, group), settings, total_steps=9, until_step=STEPS)
    sizes = {
        "weights": held_bytes(shares.model.parameters()),
        "gradients": held_bytes(p.grad for p in shares.model.parameters() if p.grad is not None),
        "moments": held_bytes(v for s in shares.optimizer.state.values() for v in s.values()),
        "average": held_bytes(shares.ema.values()),
    }
    gather(shares, whole)
    tensors, metadata = pack_state(whole)
    assert int(metadata["step"]) == STEPS
    assert json.loads(metadata["gates"]) == {"image.trunk.blocks.1": 5}
    unpack_state(tensors, metadata, settings, Path("gathered"), torch.device("cpu"))
    gone = weakref.ref(shares.model)
    del shares
    shard_state(whole, settings)
    assert gone() in (None, whole.model)  # shares refer to themselves, and would stay
    return {name: value.detach().clone() for name, value in tensors.items()}, sizes


def held_bytes(tensors: Any) -> int:
    """Bytes of this process's storages; a view counts with all that it keeps alive."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in tensors)
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in local)}
    return sum(storages.values())


def compared(group: ProcessGroup, **settings: Any) -> dict[str, Any]:
    whole, all_bytes = trained(group, config(**settings))
    parts, bytes_held = trained(group, config(**settings, shard=True))
    assert list(whole) == list(parts)
    return {
        "difference": max(float((whole[n] - parts[n]).abs().max()) for n in whole),
        "held": {name: bytes_held[name] / all_bytes[name] for name in all_bytes},
    }


def main(out: Path) -> None:
    group = join_group("cpu")
    results = {
        f"{precision}, parts of {part}": compared(group, precision=precision, micro_batch_size=part)
        for precision in ("fp32", "bf16")
        for part in (0, 6)
    }
    Path(out, f"{group.rank}.json").write_text(json.dumps(results))
    if not group.is_leader:
        group.receive()
    group.leave()
