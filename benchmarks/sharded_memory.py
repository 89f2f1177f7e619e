"""Memory of one process and time of a step: whole copies of a training state against its shares.

Under torchrun the copies are trained by DistributedDataParallel and the shares by fully_shard, in
turns. Bytes are those of the tensors that a process holds at the end of a step. The peak is that
of resident memory during steps (Linux) above what the process had before there was a state, so
activations, buckets and gathered blocks count too. The state from which shares were made is gone,
as it is in all processes but the leader.

Command: torchrun --nproc-per-node 2 -m benchmarks.sharded_memory [--model vit_b_32] [--batch 8]
With --turns 7 times are measured instead: memory is given back at once otherwise, which is slow.
"""

import argparse
import ctypes
import gc
import itertools
import statistics
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from nas_growclip.data.encoding import PairBatch
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.tokenizers import tokenized
from nas_growclip.training.events import at
from nas_growclip.training.loop import train
from nas_growclip.training.process_group import ProcessGroup, join_group
from nas_growclip.training.sharding import shard_state
from nas_growclip.training.state import TrainConfig, TrainState, start_training

WAYS = ("copies", "shares")
M_MMAP_THRESHOLD = -3
"""From glibc's ``malloc.h``."""
SIZES = ("weights", "gradients", "moments", "peak")


def made_batches(arch: ClipArch, group: ProcessGroup, batch: int) -> Iterator[PairBatch]:
    """This process's share of one random batch, again and again."""
    size = batch // group.size
    generator = torch.Generator().manual_seed(group.rank)
    captions = tuple(f"picture number {number}" for number in range(size))
    images = torch.randn(size, 3, *arch.image.image_shape, generator=generator)
    tokens = tokenized(list(captions), arch.text.context_length)
    return itertools.repeat(PairBatch(images, tokens, captions))


def measured(group: ProcessGroup, way: str, options: Namespace) -> tuple[dict[str, float], float]:
    """Gigabytes of this process by what they hold, and the median seconds of a step."""
    before = released_memory()
    config = TrainConfig(batch_size=options.batch, warmup_steps=1, shard=way == "shares")
    arch = ClipArch.preset(options.model)
    state = start_training(Clip(arch), config)
    state.group = group
    state = shard_state(state, config)
    batches = made_batches(arch, group, options.batch)
    train(state, batches, config, total_steps=1000, until_step=1)  # makes the moments
    released_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    ends: list[float] = []
    train(
        state,
        batches,
        config,
        total_steps=1000,
        until_step=1 + options.steps,
        observer=at("step", lambda event: ends.append(time.perf_counter())),
    )
    peak = memory_line("VmHWM") - before
    sizes = {name: size / 1e9 for name, size in (held(state) | {"peak": peak}).items()}
    return sizes, statistics.median(b - a for a, b in itertools.pairwise(ends))


def held(state: TrainState) -> dict[str, int]:
    parameters = list(state.model.parameters())
    moments = itertools.chain.from_iterable(s.values() for s in state.optimizer.state.values())
    return {
        "weights": num_bytes(parameters),
        "gradients": num_bytes(p.grad for p in parameters if p.grad is not None),
        "moments": num_bytes(moments),
    }


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages that tensors keep alive in this process."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in tensors)
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in local)}
    return sum(storages.values())


def released_memory() -> int:
    """Resident bytes once everything that is free was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return memory_line("VmRSS")


def memory_line(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def largest(group: ProcessGroup, sizes: dict[str, float]) -> list[float]:
    """Each size in the process where it is largest."""
    values = torch.tensor([sizes[name] for name in SIZES])
    if group.size > 1:
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values.tolist()


def weighed(group: ProcessGroup, options: Namespace) -> list[str]:
    """A table of gigabytes."""
    # By default glibc keeps what is freed for later, which is not what is measured here.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**18)
    rows = {way: largest(group, measured(group, way, options)[0]) for way in WAYS}
    head = [f"| GB in one process | {' | '.join(SIZES)} |", "|---|---|---|---|---|"]
    return head + [
        f"| {way} | {' | '.join(f'{v:.2f}' for v in row)} |" for way, row in rows.items()
    ]


def timed(group: ProcessGroup, options: Namespace) -> list[str]:
    """Seconds of a step, and their ratio turn by turn."""
    pairs = [[measured(group, way, options)[1] for way in WAYS] for _ in range(options.turns)]
    medians = [statistics.median(seconds) for seconds in zip(*pairs, strict=True)]
    ratios = [shares / copies for copies, shares in pairs]
    words = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return [
        f"seconds a step: {medians[0]:.2f} by copies, {medians[1]:.2f} by shares; ratio {words}"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_b_32")
    parser.add_argument("--batch", type=int, default=8, help="pairs of all processes together")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=0, help="turns of each way to time")
    options = parser.parse_args()
    group = join_group("cpu")
    torch.set_num_threads(1)
    lines = timed(group, options) if options.turns else weighed(group, options)
    if group.is_leader:
        print(f"{options.model}, batch {options.batch}, {group.size} processes", *lines, sep="\n")
    else:
        group.receive()
    group.leave()


if __name__ == "__main__":
    main()
