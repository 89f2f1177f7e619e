"""Samples per second of our training loop and of OpenCLIP's own, side by side.

Both train the same model (exported by us, loaded by stock open_clip) on the same batches with the
same number of threads and the same precision: OpenCLIP by its ``train_one_epoch``, its AdamW and
its scheduler; we by ``nas_growclip.training.loop.train``. The two take turns, and the ratio of each
pair of turns is taken, so that a machine that slows down slows both.

With ``--data`` each also reads the shards there by its own loader. Under torchrun the processes
train together, ours as a run does, theirs as OpenCLIP with ``--gather-with-grad --local-loss``.

Command: python -m benchmarks.training_speed [--data SHARDS] [--model tiny|vit_b_32] [--device cuda]
or: torchrun --nproc-per-node 2 -m benchmarks.training_speed [--model tiny|vit_b_32]
"""

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from open_clip.loss import ClipLoss
from open_clip_train import data as open_clip_data
from open_clip_train.scheduler import cosine_lr
from open_clip_train.train import train_one_epoch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from nas_growclip.data.batches import BATCHES_AHEAD, BatchOrder, load_batches
from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.data.encoding import PairBatch, PairEncoder
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.sources.webdataset import shard_pairs
from nas_growclip.interop.exporting import export_open_clip
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.training.loop import train
from nas_growclip.training.process_group import ALONE, ProcessGroup, join_group
from nas_growclip.training.state import TrainConfig, start_training

MODELS = {
    "tiny": ClipArch.preset("tiny").with_sizes({"shared.depth": 0}),
    "vit_s_32": ClipArch.preset("vit_s_16").with_size("image.patch_size", 32),
    "vit_b_32": ClipArch.preset("vit_b_32"),
    "vit_b_16": ClipArch.preset("vit_b_16"),
}


class OurLoop:
    """Our training, ``steps`` at a time."""

    def __init__(
        self,
        arch: ClipArch,
        batches: Iterator[PairBatch],
        options: Namespace,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.config = TrainConfig(
            batch_size=options.batch, warmup_steps=100, schedule="cosine", compile=options.compile
        )
        self.state = start_training(Clip(arch).to(options.device), self.config)
        self.state.group = group
        self.batches = batches

    def run(self, steps: int) -> None:
        """Train so many steps on."""
        until = self.state.step + steps
        train(self.state, self.batches, self.config, total_steps=100_000, until_step=until)


class TheirLoop:
    """OpenCLIP's training, ``steps`` at a time: an epoch of so many batches."""

    def __init__(
        self,
        model: Any,
        batches: Iterator[Any],
        options: Namespace,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.model = model.to(options.device)
        if group.size > 1:
            self.model = DistributedDataParallel(self.model)
        if options.compile:
            self.model = torch.compile(self.model)
        sides: dict[bool, list[Any]] = {False: [], True: []}
        for name, p in model.named_parameters():
            is_plain = p.ndim < 2 or any(part in name for part in ("bn", "ln", "bias"))
            sides[is_plain].append(p)
        groups = [
            {"params": sides[plain], "weight_decay": 0.0 if plain else 0.1} for plain in sides
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
        self.scheduler = cosine_lr(self.optimizer, 1e-3, 100, 100_000)
        together = {"local_loss": group.size > 1, "gather_with_grad": group.size > 1}
        place = {"rank": group.rank, "world_size": group.size}
        self.loss = ClipLoss(cache_labels=True, **together, **place)
        self.args = SimpleNamespace(
            device=options.device,
            precision="amp_bf16" if options.device == "cuda" else "fp32",
            distill=False,
            accum_freq=1,
            skip_scheduler=False,
            grad_clip_norm=1.0,
            horovod=False,
            distributed=group.size > 1,
            log_local=False,
            log_every_n_steps=100,
            batch_size=options.batch // group.size,
            wandb=False,
            tensorboard=False,
            **place,
        )
        self.batches = batches

    def run(self, steps: int) -> None:
        """Train an epoch of so many steps."""
        loader = _Epoch(itertools.islice(self.batches, steps), steps, self.args.batch_size)
        data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
        train_one_epoch(
            self.model, data, self.loss, 0, self.optimizer, None, self.scheduler, None, self.args
        )


class _Epoch:
    """What ``train_one_epoch`` asks of a loader."""

    def __init__(self, batches: Iterator[Any], steps: int, batch_size: int) -> None:
        self.batches, self.num_batches, self.num_samples = batches, steps, steps * batch_size

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def stock_model(arch: ClipArch) -> Any:
    """Our architecture as open_clip's own model, with the output that its trainer wants."""
    with tempfile.TemporaryDirectory() as folder:
        export_open_clip(Clip(arch), Path(folder))
        return open_clip.create_model(f"local-dir:{folder}", output_dict=True)


def made_batches(model: Clip, options: Namespace, group: ProcessGroup = ALONE) -> list[PairBatch]:
    """This process's part of a few batches of random pixels, on the device.

    So the loops alone are compared.
    """
    generator = torch.Generator().manual_seed(0)
    mine = group.batch_shard.places(options.batch)
    captions = tuple(f"picture number {number}" for number in mine)
    shape = (options.batch, 3, *model.arch.image.image_shape)
    return [
        PairBatch(
            torch.randn(shape, generator=generator)[mine.start : mine.stop],
            model.tokenize(list(captions)),
            captions,
        ).to(torch.device(options.device))
        for _ in range(4)
    ]


def our_shards(folder: str) -> ImageTextPairs:
    config = WebdatasetConfig(stages=(1,), train=folder, shuffle_buffer=1000)
    count = len(sorted(Path(folder).glob("*.tar")))
    return shard_pairs(config, Path(), "train", count)


def their_loader(folder: str, arch: ClipArch, options: Namespace) -> Iterator[Any]:
    shards = sorted(str(path) for path in Path(folder).glob("*.tar"))
    args = SimpleNamespace(
        train_data="::".join(shards),
        train_data_upsampling_factors=None,
        train_num_samples=1000 * len(shards),
        dataset_resampled=False,
        seed=0,
        batch_size=options.batch,
        workers=options.workers,
        world_size=1,
    )
    # WebDataset 1.0 marks the end of a shard, which open_clip 3.3 takes for a broken sample.
    open_clip_data.tar_file_expander = partial(open_clip_data.tar_file_expander, eof_value=None)
    preprocess = open_clip.image_transform(arch.image.image_shape, is_train=False)
    context = arch.text.context_length
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=context)
    info = open_clip_data.get_wds_dataset(args, preprocess, is_train=True, tokenizer=tokenizer)
    for epoch in itertools.count():
        info.set_epoch(epoch)
        yield from info.dataloader


def our_loader(pairs: ImageTextPairs, model: Clip, options: Namespace) -> Iterator[PairBatch]:
    encoder = PairEncoder(model.arch.image, model.tokenize)
    return load_batches(pairs, encoder, BatchOrder(options.batch, seed=0), options.workers)


@dataclass(frozen=True)
class Comparison:
    """Pairs a second of both sides, turn by turn."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, turn by turn."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def cells(self) -> tuple[str, str, str]:
        """Medians of both, and of their ratio with its range."""
        ratios = self.ratios
        return (
            f"{statistics.median(self.ours):,.1f}",
            f"{statistics.median(self.theirs):,.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        )


def compare(
    ours: Callable[[int], object], theirs: Callable[[int], object], options: Namespace
) -> Comparison:
    """Let both take turns."""
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    runs = {"ours": ours, "theirs": theirs}
    for run in runs.values():
        run(options.warmup)
    for turn in range(options.turns):
        order = ("ours", "theirs") if turn % 2 else ("theirs", "ours")
        for side in order:
            if options.workers:  # what was made while the other had its turn, and as much again:
                runs[side](2 * options.workers * BATCHES_AHEAD)  # so its processes are done too
            synchronize(options.device)
            started = time.perf_counter()
            runs[side](options.steps)
            synchronize(options.device)
            seconds = time.perf_counter() - started
            rates[side].append(options.steps * options.batch / seconds)
    return Comparison(tuple(rates["ours"]), tuple(rates["theirs"]))


def synchronize(device: str) -> None:
    """Wait until the device and the other processes have done what they were given."""
    if device == "cuda":
        torch.cuda.synchronize()
    if distributed.is_initialized():
        distributed.barrier()


def drain(batches: Iterator[Any]) -> Callable[[int], object]:
    return lambda steps: list(itertools.islice(batches, steps))


def read_options() -> Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", choices=sorted(MODELS))
    parser.add_argument("--batch", type=int, default=128, help="pairs of all processes together")
    parser.add_argument("--steps", type=int, default=20, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="loading processes of each side")
    parser.add_argument(
        "--data", help="a folder of shards of at least a batch each, to compare with loading too"
    )
    parser.add_argument("--loading-only", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def show(name: str, compared: Comparison, options: Namespace, group: ProcessGroup) -> None:
    """Print a row, once."""
    if group.is_leader:
        print(f"| {name} | {options.batch} | {' | '.join(compared.cells)} |", flush=True)


def seconds_to_replicate(arch: ClipArch, group: ProcessGroup) -> float:
    """What a training of several processes begins with: DistributedDataParallel is set up."""
    model, seconds = Clip(arch), []
    for _ in range(3):
        distributed.barrier()
        started = time.perf_counter()
        replica = group.replicate(model)
        seconds.append(time.perf_counter() - started)
        del replica
    return statistics.median(seconds)


def measure(options: Namespace, group: ProcessGroup) -> None:
    """Compare what the options name, and print the table."""
    arch = MODELS[options.model]
    model = Clip(arch)  # gives tokens and the size of images; each loop trains its own
    if options.data is None:
        made = made_batches(model, options, group)
        ours = itertools.cycle(made)
        theirs = itertools.cycle([(batch.images, batch.tokens) for batch in made])
    else:
        ours = our_loader(our_shards(options.data), model, options)
        theirs = their_loader(options.data, arch, options)
    if group.is_leader:
        words = f"{group.size} x {options.threads} threads, {options.workers} loading processes"
        words += f", {options.device}"
        print(f"{words}; torch {torch.__version__}, open_clip {open_clip.__version__}\n")
        print("| what | batch | ours, pairs/s | open_clip, pairs/s | ratio: median (range) |")
        print("|---|---|---|---|---|")
    if options.data is not None:
        show("loading alone", compare(drain(ours), drain(theirs), options), options, group)
    if options.loading_only:
        return
    replicated = seconds_to_replicate(arch, group) if group.size > 1 else 0.0
    loops = (
        OurLoop(arch, ours, options, group).run,
        TheirLoop(stock_model(arch), theirs, options, group).run,
    )
    name = f"{options.model}, training" + (" with loading" if options.data else "")
    show(name, compare(*loops, options), options, group)
    if replicated and group.is_leader:
        print(f"\nSetting up DistributedDataParallel: {replicated:.3f} s, once a training.")


def main() -> None:
    options = read_options()
    group = join_group(options.device)
    group.check_batch(options.batch)
    if group.size > 1 and (options.data or options.device != "cpu"):
        raise SystemExit("Under torchrun the loops alone are compared, on the CPU.")
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high" if options.device == "cuda" else "highest")
    logging.disable(logging.INFO)
    measure(options, group)
    if not group.is_leader:
        group.receive()
    group.leave()


if __name__ == "__main__":
    main()
