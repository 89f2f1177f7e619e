"""What the processes of ``benchmarks.real_size`` do: make the data, run a stage, evaluate.

Each notes seconds and peak memory part by part, and prints them as JSON. Linux only: a process
resets its own peak by ``/proc/self/clear_refs``.

Command: python benchmarks/real_size_parts.py data|run|evaluate FOLDER [--batch N] [--share S]
"""

import argparse
import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from PIL import Image

from nas_growclip.data.named_sets import open_named_set
from nas_growclip.evaluation.metrics import measure_sets
from nas_growclip.evaluation.zero_shot import class_embeddings
from nas_growclip.experiment.config import load_config
from nas_growclip.experiment.run import run_stages
from nas_growclip.models.checkpoint import WEIGHTS_FILE, load_model
from nas_growclip.training.events import Event
from nas_growclip.training.state import TrainState

NUM_SHARDS, PER_SHARD, NUM_HELD_OUT = 20, 1000, 16
NUM_RETRIEVAL_IMAGES, CAPTIONS_EACH = 1000, 5
SIZE = (256, 256)
DATA = "data"
SAMPLED_EVERY_S = 0.02

EXPERIMENT = """
parent: parent
stage_flops: [1.8e+12]           # four steps of 8 through the parent, and six in other trials
data:
  source: webdataset
  stages: [{shards}]
  train: train
  validation: validation.tar
  test: test.tar
  validation_pairs: 8
  test_pairs: 8
space:
  dimensions:
    image.depth: {{add: [4]}}
    text.mlp_width: {{ratios: [1.5]}}
    image.mlp_width: {{ratios: [1.5]}}
search: {{num_trials: 4, trial_share: 0.5, curve_points: 1}}
train: {{batch_size: {batch}, micro_batch_size: 4, learning_rate: 1.0e-4, warmup_steps: 2}}
metrics: [loss, retrieval]
"""


@dataclass
class Part:
    """What one part of a process took."""

    seconds: float = 0.0
    cpu: float = 0.0
    """Seconds of all its threads together."""
    peak: int = 0
    """Largest resident memory, in bytes."""
    own_peak: int = 0
    """Largest memory of its own, in bytes: pages of mapped files are not in it."""


@dataclass
class Meter:
    """Measures the parts of a process; one that is begun again is gone on with."""

    parts: dict[str, Part] = field(default_factory=dict)
    _name: str = ""
    _start: float = 0.0
    _cpu: float = 0.0
    _own: int = 0

    def __post_init__(self) -> None:
        threading.Thread(target=self._sample, daemon=True).start()

    def begin(self, name: str) -> None:
        """End the part under way, and begin another one."""
        self.end()
        Path("/proc/self/clear_refs").write_text("5")
        self._own, self._name = 0, name
        self._start, self._cpu = time.perf_counter(), time.process_time()

    def end(self) -> None:
        """End the part under way, if there is one."""
        if self._name:
            part = self.parts.setdefault(self._name, Part())
            part.seconds += time.perf_counter() - self._start
            part.cpu += time.process_time() - self._cpu
            part.peak = max(part.peak, memory("VmHWM"))
            part.own_peak = max(part.own_peak, self._own, memory("RssAnon"))
        self._name = ""

    def _sample(self) -> None:
        while True:
            self._own = max(self._own, memory("RssAnon"))
            time.sleep(SAMPLED_EVERY_S)


def memory(name: str) -> int:
    """A line of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@dataclass
class RunObserver:
    """Tells a meter where a run is, and notes what a trial holds and what lies on the disk."""

    meter: Meter
    trials: Path
    held: dict[str, Mapping[str, int]] = field(default_factory=dict)
    """Bytes of each trial's weights, gradients and moments."""
    disk: int = 0
    """Largest size of the trials' folder, in bytes."""
    what: str = "open"

    def __call__(self, event: Event) -> None:
        """Begin the part that follows a moment."""
        self._look_at_disk()
        if event.moment == "trial_begins":
            self.what = event.where.partition(", ")[2]
            self.meter.begin(f"{self.what}: grow, measure")
        elif event.moment == "batch":
            self.meter.begin(f"{self.what}: steps")
        elif event.moment == "step":
            self.held[self.what] = held_bytes(event.state)
            self.meter.begin(f"{self.what}: measure, save")
        elif event.moment == "chosen":
            self.what = "training"
            self.meter.begin("training: read the trial's state")

    def _look_at_disk(self) -> None:
        if self.trials.is_dir():
            sizes = (path.stat().st_size for path in self.trials.iterdir())
            self.disk = max(self.disk, sum(sizes))


def held_bytes(state: TrainState | None) -> Mapping[str, int]:
    """Bytes of weights, gradients and moments."""
    assert state is not None
    parameters = list(state.model.parameters())
    moments = [value for values in state.optimizer.state.values() for value in values.values()]
    return {
        "weights": sum(p.nbytes for p in parameters),
        "gradients": sum(p.grad.nbytes for p in parameters if p.grad is not None),
        "moments": sum(value.nbytes for value in moments if value.ndim),
    }


def make_data(folder: Path, batch: int, share: float) -> dict[str, Any]:
    """Write 20,000 pairs to train on, and held-out ones."""
    rng = np.random.default_rng(0)
    for shard in range(NUM_SHARDS):
        _write_shard(folder / "train" / f"{shard:05d}.tar", PER_SHARD, 1, rng)
    for split in ("validation", "test"):
        _write_shard(folder / f"{split}.tar", NUM_HELD_OUT, 1, rng)
    return {}


def retrieval_set(folder: Path, num_images: int) -> Path:
    """A set shaped like Flickr's, in CLIP_benchmark's layout; made if it is not there."""
    if not folder.exists():
        _write_shard(folder / "test" / "0.tar", num_images, CAPTIONS_EACH, np.random.default_rng(1))
        (folder / "dataset_type.txt").write_text("retrieval\n")
        (folder / "test" / "nshards.txt").write_text("1\n")
    return folder


def _write_shard(path: Path, num_images: int, captions: int, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in range(num_images):
            lines = "\n".join(_caption(rng) for _ in range(captions))
            for suffix, data in (("jpg", _picture(rng)), ("txt", lines.encode())):
                info = tarfile.TarInfo(f"{number:06d}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def _picture(rng: np.random.Generator) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _caption(rng: np.random.Generator) -> str:
    """Some 14 words, as Flickr's captions have."""
    first, second, third = rng.choice(IMAGENET_CLASSNAMES, 3)
    return f"a {first} stands in front of a {second} while a {third} is seen behind it"


def run(folder: Path, batch: int, share: float) -> dict[str, Any]:
    """Search among four candidates, train the chosen one on, measure and save it."""
    file = folder / "experiment.yaml"
    file.write_text(EXPERIMENT.format(shards=NUM_SHARDS, batch=batch))
    meter, out = Meter(), folder / "run"
    imported, imported_own = memory("VmRSS"), memory("RssAnon")
    observer = RunObserver(meter, out / "stage_00" / "trials")
    meter.begin("open data and parent")
    run_stages(load_config(file), out, data_folder=folder.parent / DATA, observer=observer)
    meter.end()
    left = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        "parts": {name: asdict(part) for name, part in meter.parts.items()},
        "imported": imported,
        "imported_own": imported_own,
        "parent": (folder / "parent" / WEIGHTS_FILE).stat().st_size,
        "held": observer.held,
        "disk": observer.disk,
        "left": left,
    }


def evaluate(folder: Path, batch: int, share: float) -> dict[str, Any]:
    """Class embeddings of ImageNet's prompts, and recalls of a set shaped like Flickr's."""
    model, meter = load_model(folder / "child").eval(), Meter()
    names = IMAGENET_CLASSNAMES[: round(share * len(IMAGENET_CLASSNAMES))]
    templates = [template("{c}") for template in OPENAI_IMAGENET_TEMPLATES]
    num_images = round(share * NUM_RETRIEVAL_IMAGES)
    pairs = retrieval_set(folder.parent / f"wds_{num_images}_images", num_images)
    meter.begin("zero-shot prompts")
    class_embeddings(model, names, templates, batch)
    meter.begin("retrieval")
    values = measure_sets(model, [open_named_set(pairs)], batch, {})
    meter.end()
    return {
        "parts": {name: asdict(part) for name, part in meter.parts.items()},
        "prompts": len(names) * len(templates),
        "images": num_images,
        "values": {name: measure.value for name, measure in values.items()},
    }


WHAT: Mapping[str, Callable[[Path, int, float], dict[str, Any]]] = {
    "data": make_data,
    "run": run,
    "evaluate": evaluate,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=8, help="pairs, or texts and images, at once")
    parser.add_argument("--share", type=float, default=1.0, help="share of the prompts and the set")
    options = parser.parse_args()
    print(json.dumps(WHAT[options.what](options.folder, options.batch, options.share)))


if __name__ == "__main__":
    main()
