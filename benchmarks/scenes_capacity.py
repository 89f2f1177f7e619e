"""Do the rendered scenes leave room for a larger model and for more data?

Trains two sizes on two amounts of data for the same number of steps and prints what each reaches
on ``test``. A task on which the small model with little data is already as good as the large one
with much data would teach nothing about growing.

Command: python -m benchmarks.scenes_capacity [--steps 2000] [--seed 0] [--threads 2]
"""

import argparse
import subprocess

import torch

from nas_growclip import Clip, ClipArch, count_flops
from nas_growclip.data.batches import training_batches
from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.encoding import PairEncoder
from nas_growclip.data.stages import open_stages
from nas_growclip.evaluation.metrics import evaluate
from nas_growclip.io.progress import track
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, start_training

WIDTHS = (64, 128)
PAIRS = (4000, 16000)
COLUMNS = ("loss", "zero_shot_top1", "i2t_recall@1", "t2i_recall@1")


def arch_of_width(width: int) -> ClipArch:
    """The tiny preset at another width, MLPs in proportion."""
    towers = ("image", "text")
    sizes = {f"{tower}.width": width for tower in towers}
    sizes |= {f"{tower}.mlp_width": 4 * width for tower in (*towers, "shared")}
    return ClipArch.preset("tiny").with_sizes(sizes | {"embed_dim": width})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = ScenesConfig(stages=PAIRS, zero_shot=("scenes",))
    config = TrainConfig(batch_size=64)
    print(f"commit {_commit()}, seed {options.seed}, {options.steps} steps of 64 pairs")
    print("| width | pairs | FLOPs | train loss | " + " | ".join(COLUMNS) + " |")
    print("|---" * (4 + len(COLUMNS)) + "|")
    stages = open_stages(data, None)
    for width in WIDTHS:
        for stage in stages:
            model = Clip(arch_of_width(width), seed=options.seed)
            encoder = PairEncoder(model.arch.image, model.tokenize)
            batches = training_batches(stage.train, encoder, 64, seed=options.seed)
            shown = track(batches, total=options.steps, label=f"{width} wide, {stage.num_pairs}")
            state = start_training(model, config)
            train(state, shown, config, total_steps=options.steps, until_step=options.steps)
            shown.close()
            metrics = ("loss", "retrieval", "zero_shot")
            test = evaluate(model, stage.test, stage.zero_shot, metrics, 64)
            seen = evaluate(model, stages[0].train, (), ("loss",), 64)
            cells = [f"{test[c].value:.3f} ({test[c].chance:.3f})" for c in COLUMNS]
            flops = count_flops(model.arch)
            row = [
                width,
                stage.num_pairs,
                f"{flops / 1e6:.1f} M",
                f"{seen['loss'].value:.3f}",
                *cells,
            ]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print(
        "\nChance in brackets. FLOPs are fvcore FLOPs: one multiply-add is one; one pair, forward."
    )


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
