"""Evaluation in constant memory: a large zero-shot set, and many pairs.

``images``: writes 50,000 JPEGs of 500 x 375 pixels as a zero-shot set in CLIP_benchmark's layout
(the bytes of a few pictures, each copy with a comment of its own) and evaluates it by the command
line. ``pairs``: ranks 100,000 random pairs of embeddings 512 wide. Each prints seconds and the
largest resident set of its process.
"""

import argparse
import io
import resource
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nas_growclip.evaluation.embeddings import EmbeddedPairs
from nas_growclip.evaluation.metrics import contrastive_loss
from nas_growclip.evaluation.retrieval import benchmark_recalls, rank, recalls
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import save_model
from nas_growclip.models.clip import Clip

NUM_IMAGES, NUM_CLASSES, NUM_DISTINCT = 50_000, 1000, 16
PER_SHARD = 10_000
SIZE = (500, 375)
NUM_PAIRS, WIDTH = 100_000, 512


def write_set(folder: Path) -> None:
    """The set, in five shards; the pictures are as hard to decode as photographs are."""
    test = folder / "test"
    test.mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(f"thing {i}" for i in range(NUM_CLASSES)))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    (test / "nshards.txt").write_text(str(NUM_IMAGES // PER_SHARD))
    pictures = [picture(seed) for seed in range(NUM_DISTINCT)]
    for shard in range(NUM_IMAGES // PER_SHARD):
        with tarfile.open(test / f"{shard}.tar", "w") as archive:
            for number in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
                image = with_comment(pictures[number % NUM_DISTINCT], f"number {number}")
                add_member(archive, f"s{number:07d}.cls", str(number % NUM_CLASSES).encode())
                add_member(archive, f"s{number:07d}.jpg", image)


def picture(seed: int) -> bytes:
    """A JPEG of noise that grows smoother towards its details, as in photographs; some 60 kB."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).resize(
                SIZE, Image.Resampling.BICUBIC
            ),
            dtype=np.float32,
        )
        for side in (4, 16, 64, 256)
    ]
    pixels = np.average(layers, axis=0, weights=(8, 4, 2, 1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture in other bytes: a COM segment after the first marker."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[2:]


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Put a file into a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def images(out: Path) -> None:
    """Evaluate the set by ``growclip eval`` and print what it took."""
    if not (out / "wds_many").exists():
        write_set(out / "wds_many")
    save_model(Clip(ClipArch.preset("tiny")), out / "model")
    size = sum(path.stat().st_size for path in (out / "wds_many" / "test").iterdir())
    command = [sys.executable, "-m", "nas_growclip", "eval", str(out / "model")]
    started = time.monotonic()
    subprocess.run([*command, "--data", str(out / "wds_many")], check=True)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{NUM_IMAGES:,} images of {size / NUM_IMAGES / 1e3:.0f} kB: {peak:.2f} GiB, ", end="")
    print(f"{seconds:.0f} s ({1e3 * seconds / NUM_IMAGES:.2f} ms an image, checked and measured)")


def pairs(captions_of_image: int) -> None:
    """Rank random embeddings and print what it took."""
    rng = torch.Generator().manual_seed(0)
    rows = torch.arange(NUM_PAIRS) // captions_of_image
    sides = [torch.randn(n, WIDTH, generator=rng) for n in (int(rows.max()) + 1, NUM_PAIRS)]
    for side in sides:
        side.div_(side.norm(dim=1, keepdim=True))
    captions = tuple(f"caption {i}" for i in range(NUM_PAIRS))
    embedded = EmbeddedPairs(sides[0], sides[1], captions, rows, (1.0,))
    started, cpu = time.monotonic(), time.process_time()
    rankings = rank(embedded)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    measures = {**recalls(rankings), **benchmark_recalls(rankings)}
    measures["loss"] = contrastive_loss(embedded, 1024)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{len(sides[0]):,} images, {NUM_PAIRS:,} texts, {WIDTH} wide: {peak:.2f} GB, ", end="")
    print(f"{seconds:.0f} s ({cpu:.0f} s CPU) to rank both ways")
    for key, measure in measures.items():
        print(f"  {key:<28} {measure.value:.5f} (chance {measure.chance:.5f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("images", "pairs"))
    parser.add_argument("--captions", type=int, default=1, help="captions of each image of pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation_memory"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "images":
        images(options.out)
    else:
        pairs(options.captions)


if __name__ == "__main__":
    main()
