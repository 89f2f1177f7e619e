"""How fast do small models train and evaluate, and how much of a step is not PyTorch's?

Models 16, 32 and 64 wide train on rendered scenes held in memory, in batches of 128 by one thread,
as a run does; then each is evaluated on 1,500 pairs and the nine zero-shot tasks of scenes and
digits. What of a step is not inside PyTorch's operators is the step's time less that of the
outermost operators under the profiler.

Command: python -m benchmarks.small_models [--steps 60] [--turns 5]
"""

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.rate_transfer import arch_of
from nas_growclip.data.batches import BatchOrder, load_batches
from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.encoding import PairBatch, PairEncoder
from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.evaluation.metrics import evaluate
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, TrainState, start_training

WIDTHS = (16, 32, 64)
BATCH = 128
METRICS = ("loss", "retrieval", "zero_shot")


class Row:
    """One model under training."""

    def __init__(self, width: int, data: DataStage) -> None:
        self.width, self.data = width, data
        self.config = TrainConfig(batch_size=BATCH)
        self.state: TrainState = start_training(Clip(arch_of(width, 1)), self.config)
        encoder = PairEncoder(self.state.model.arch.image, self.state.model.tokenize)
        self.batches: Iterator[PairBatch] = load_batches(data.train, encoder, BatchOrder(BATCH, 0))
        self.step_seconds: list[float] = []
        self.evaluation_seconds: list[float] = []

    def steps(self, count: int) -> float:
        """Seconds of so many steps."""
        started = time.perf_counter()
        until = self.state.step + count
        train(self.state, self.batches, self.config, total_steps=10**6, until_step=until)
        return time.perf_counter() - started

    def evaluate(self) -> float:
        """Seconds of one evaluation."""
        started = time.perf_counter()
        evaluate(self.state.model, self.data.test, self.data.zero_shot, METRICS, BATCH)
        return time.perf_counter() - started

    def outside_operators(self, count: int) -> float:
        """Share of the steps that no operator of PyTorch runs in."""
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            seconds = self.steps(count)
        inside = sum(
            event.cpu_time_total
            for event in profiled.events()
            if event.cpu_parent is None and not event.name.startswith(("profiler", "ProfilerStep"))
        )
        return max(0.0, 1 - inside / 1e6 / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = ScenesConfig(
        stages=(4096,), validation_pairs=8, test_pairs=1500, zero_shot=("scenes", "digits")
    )
    (data,) = open_stages(config, None)
    rows = [Row(width, data) for width in WIDTHS]
    for row in rows:
        row.steps(40)  # a whole epoch, in which everything is scaled and tokenized
        row.evaluate()
    for _ in range(options.turns):
        for row in rows:
            row.step_seconds.append(row.steps(options.steps) / options.steps)
            row.evaluation_seconds.append(row.evaluate())
    print("| width | FLOPs a pair | ms a step | pairs/s | outside operators | evaluation, s |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        seconds = statistics.median(row.step_seconds)
        cells = [
            row.width,
            f"{count_flops(row.state.model.arch) / 1e6:.2f} M",
            f"{seconds * 1e3:.1f}",
            f"{BATCH / seconds:.0f}",
            f"{row.outside_operators(20):.1%}",
            f"{statistics.median(row.evaluation_seconds):.2f}",
        ]
        print(f"| {' | '.join(map(str, cells))} |")
    print("\nFLOPs are fvcore FLOPs: one multiply-add is one; one pair, forward.")


if __name__ == "__main__":
    main()
