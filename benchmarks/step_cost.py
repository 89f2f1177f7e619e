"""What a training step costs in time and memory as batch, depth and width grow.

Each row changes one thing of the ``tiny`` architecture. Time is of whole optimizer steps, rows in
turns, so that a machine that slows down slows all. Memory is what training holds: weights,
gradients and AdamW's moments by their bytes; activations as what autograd saves for the backward
pass, counted by storage; on CUDA also the allocator's peak.

Command: python -m benchmarks.step_cost [--device cuda] [--micro 32]
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from nas_growclip.data.encoding import PairBatch
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, TrainState, start_training

MIB = 2**20
ROWS: dict[str, tuple[int, dict[str, int]]] = {
    "batch 64": (64, {}),
    "batch 128": (128, {}),
    "batch 256": (256, {}),
    "batch 512": (512, {}),
    "depth x 2": (128, {"image.depth": 4, "text.depth": 4, "shared.depth": 2}),
    "depth x 4": (128, {"image.depth": 8, "text.depth": 8, "shared.depth": 4}),
    "width x 2": (
        128,
        {
            "image.width": 128,
            "image.mlp_width": 512,
            "text.width": 128,
            "text.mlp_width": 512,
            "shared.mlp_width": 512,
            "embed_dim": 128,
        },
    ),
}


class Row:
    """One model under training on one batch."""

    def __init__(self, name: str, options: argparse.Namespace, micro: int = 0) -> None:
        self.batch, sizes = ROWS[name]
        self.name = f"{name}, in parts of {micro}" if micro else name
        self.arch = ClipArch.preset("tiny").with_sizes(sizes)
        self.config = TrainConfig(batch_size=self.batch, micro_batch_size=micro)
        self.state = start_training(Clip(self.arch).to(options.device), self.config)
        self.batches = itertools.cycle([self.made_batch()])
        self.seconds: list[float] = []

    def made_batch(self) -> PairBatch:
        """Random pixels, made once."""
        generator = torch.Generator().manual_seed(0)
        captions = tuple(f"picture number {number}" for number in range(self.batch))
        height, width = self.arch.image.image_shape
        images = torch.randn(self.batch, 3, height, width, generator=generator)
        return PairBatch(images, self.state.model.tokenize(list(captions)), captions)

    def steps(self, count: int) -> None:
        """Train on, and keep the time of one step."""
        started = time.perf_counter()
        until = self.state.step + count
        train(self.state, self.batches, self.config, total_steps=10**6, until_step=until)
        if self.state.model.logit_scale.is_cuda:
            torch.cuda.synchronize()
        self.seconds.append((time.perf_counter() - started) / count)

    def cells(self) -> Iterator[str]:
        """The row of the table."""
        seconds = statistics.median(self.seconds)
        flops = 3 * count_flops(self.arch) * self.batch
        yield from (self.name, f"{flops / 1e9:.2f}", f"{seconds * 1e3:.1f}")
        yield f"{self.batch / seconds:.0f}"
        yield f"{flops / seconds / 1e9:.1f}"
        yield from (f"{state_bytes(self.state) / MIB:.1f}", f"{self.activation_bytes() / MIB:.1f}")

    def activation_bytes(self) -> int:
        """What autograd holds at most at the end of a forward pass, without the parameters."""
        owned = {p.untyped_storage().data_ptr() for p in self.state.model.parameters()}
        held: dict[int, int] = {}
        most = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal most
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in owned:
                held[storage.data_ptr()] = storage.nbytes()
                most = max(most, sum(held.values()))
            return tensor

        def unpack(tensor: Tensor) -> Tensor:
            held.clear()  # a backward pass began: what comes next is another forward pass's
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            self.steps(1)
        return most


def state_bytes(state: TrainState) -> int:
    """Weights, gradients and moments."""
    weights = sum(p.nbytes for p in state.model.parameters())
    moments = sum(
        value.nbytes
        for kept in state.optimizer.state.values()
        for value in kept.values()
        if isinstance(value, Tensor)
    )
    return 2 * weights + moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro", type=int, default=64, help="pairs of a part, for one more row")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [Row(name, options) for name in ROWS]
    rows.append(Row("batch 512", options, options.micro))
    for row in rows:
        row.steps(2)
        row.seconds.clear()
    for _ in range(options.turns):
        for row in rows:
            row.steps(options.steps)
    print(f"{options.threads} threads, {options.device}; torch {torch.__version__}\n")
    print(
        "| tiny with | training GFLOPs a step | ms a step | pairs/s | GFLOPs/s "
        "| weights, gradients, moments, MiB | activations, MiB |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row.cells())} |")


if __name__ == "__main__":
    main()
