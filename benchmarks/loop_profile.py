"""What the training loop spends its time on, and whether it waits for a file or a device.

The loop of ``nas_growclip.training.loop.train`` under PyTorch's profiler, as a run calls it: with
batches from shards or made once, and a moving average of the weights. The table has the seconds of
each part; below it stand the reads of a value from the device, for which a GPU would have to be
waited for, and the files opened.

Command: python -m benchmarks.loop_profile [--data SHARDS] [--model tiny|vit_b_32] [--device cuda]
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.training_speed import MODELS, made_batches, our_loader, our_shards
from nas_growclip.data.encoding import PairBatch
from nas_growclip.models.clip import Clip
from nas_growclip.training import loop as training
from nas_growclip.training.backpropagation import Backpropagation
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, TrainState, start_training
from tests.support.profiled import values_read

PARTS = {
    "next batch": "loading, decoding, tokens",
    "backpropagate": "forward, loss, backward",
    "optimizer": "clipping, AdamW",
    "average": "moving average of the weights",
    "check": "is the loss finite (every 20 steps)",
}
WARM_STEPS = 5


def marked(name: str, owner: Any, function: str) -> None:
    """Let a function show under a name in the profile."""
    inner = getattr(owner, function)

    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return inner(*args, **kwargs)

    setattr(owner, function, run)


def marked_batches(batches: Iterator[PairBatch]) -> Iterator[PairBatch]:
    """The batches, each made under a name."""
    while True:
        with record_function("next batch"):
            batch = next(batches)
        yield batch


def prepare(options: argparse.Namespace) -> tuple[TrainState, Iterator[PairBatch], TrainConfig]:
    """A model whose parts show in the profile, after its first steps."""
    model = Clip(MODELS[options.model]).to(options.device)
    if options.data is None:
        batches: Iterator[PairBatch] = itertools.cycle(made_batches(model, options))
    else:
        batches = our_loader(our_shards(options.data), model, options)
    marked("backpropagate", Backpropagation, "__call__")
    marked("optimizer", training, "_optimizer_step")
    marked("average", training, "_average_weights")
    marked("check", training, "_check_finite")
    config = TrainConfig(batch_size=options.batch, ema_decay=0.999)
    state = start_training(model, config)
    train(state, batches, config, total_steps=10**6, until_step=WARM_STEPS)
    return state, batches, config


def table(profiled: profile, steps: int, opened: int) -> str:
    """The parts of a step, in Markdown."""
    seconds = {event.key: event.cpu_time_total / 1e6 for event in profiled.key_averages()}
    whole = seconds["step"]
    parts = {words: seconds.get(key, 0.0) for key, words in PARTS.items()}
    parts["the rest: Python of the loop"] = whole - sum(parts.values())
    parts["the whole step"] = whole
    lines = ["| part | ms a step | share |", "|---|---|---|"]
    for words, value in parts.items():
        lines.append(f"| {words} | {value / steps * 1e3:.2f} | {value / whole:.2%} |")
    looks = next((e.count for e in profiled.key_averages() if e.key == "check"), 0)
    lines.append(f"\nLooks at the loss and the state: {looks} in {steps} steps.")
    lines.append(f"Other values read from the device: {values_read(profiled)}.")
    lines.append(f"Files opened: {opened} in {steps} steps.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", choices=sorted(MODELS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--data", help="a folder of shards; made-up batches if not given")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    state, batches, config = prepare(options)
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if options.device == "cuda" else []
    until = WARM_STEPS + options.steps
    with profile(activities=activities) as profiled:
        opened.clear()
        with record_function("step"):
            train(state, marked_batches(batches), config, total_steps=10**6, until_step=until)
        files = len(opened)
    print(f"{options.model}, batch {options.batch}, {options.device}, {options.threads} threads\n")
    print(table(profiled, options.steps, files))


if __name__ == "__main__":
    main()
