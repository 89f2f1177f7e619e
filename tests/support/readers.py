"""Every reader of files with a valid document, and ways to damage documents."""

import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from PIL import Image
from safetensors.torch import save

from nas_growclip.compare.config import load_comparison
from nas_growclip.data.sources.decoding import decode_image
from nas_growclip.data.sources.tar import read_members
from nas_growclip.experiment.config import load_config
from nas_growclip.growth.space import GrowthSpace
from nas_growclip.interop.sources import read_config
from nas_growclip.interop.weights import read_weights
from nas_growclip.io.mappings import from_mapping, read_mapping
from nas_growclip.models.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.checkpoint import load_model, save_model
from nas_growclip.models.clip import Clip
from nas_growclip.records.folder import read_stages, read_timings, read_trials, stage_lines
from nas_growclip.training.checkpoint import load_state, save_state
from nas_growclip.training.state import TrainConfig, start_training
from tests.support.runs import ROOT

TINY = ClipArch(
    image=ImageArch(depth=1, width=16, mlp_width=16, patch_size=8, image_size=8, head_dim=8),
    text=TextArch(depth=1, width=8, mlp_width=8, context_length=4, head_dim=8),
    shared=SharedArch(depth=0, mlp_width=8, head_dim=8),
    embed_dim=16,
)


class Reader(NamedTuple):
    """One way in: a file's name, what is valid in it, and what reads it."""

    file: str
    valid: Callable[[Path], bytes]
    """A valid document; what it needs beside it is put into the folder."""
    read: Callable[[Path], object]
    """Reads the file in the folder."""


def experiment(folder: Path) -> bytes:
    return (ROOT / "experiments" / "smoke.yaml").read_bytes()


def comparison(folder: Path) -> bytes:
    experiment = read_mapping(ROOT / "experiments" / "smoke.yaml")
    arms = {"grown": {}, "fixed": {"search": {"num_trials": 1}}}
    document = {"experiment": dict(experiment), "arms": arms, "baseline": "fixed", "seeds": [1, 2]}
    return yaml.safe_dump(document | {"learning_rates": [1.0e-3, 3.0e-3]}).encode()


def space(folder: Path) -> bytes:
    return (ROOT / "search_spaces" / "tiny.yaml").read_bytes()


def read_space(path: Path) -> object:
    growth_space = from_mapping(GrowthSpace, read_mapping(path), str(path))
    return growth_space.candidates(TINY, 1000)


def arch(folder: Path) -> bytes:
    return TINY.to_json().encode()


def foreign_config(folder: Path) -> bytes:
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8, "head_width": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    document = {"embed_dim": 64, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    return json.dumps(document).encode()


def hugging_face_config(folder: Path) -> bytes:
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 1}
    shape |= {"num_hidden_layers": 1, "hidden_act": "quick_gelu", "projection_dim": 64}
    vision, text = {"image_size": 32, "patch_size": 8}, {"max_position_embeddings": 77}
    document = {"model_type": "clip", "projection_dim": 64}
    document |= {"vision_config": shape | vision, "text_config": shape | text}
    return json.dumps(document).encode()


def weights(folder: Path) -> bytes:
    save_model(Clip(TINY, seed=1), folder)
    return (folder / "model.safetensors").read_bytes()


MEASURED = {"value": 1.5, "chance": 4.2}


def state(folder: Path) -> bytes:
    save_state(start_training(Clip(TINY, seed=1), TrainConfig()), folder / "state.safetensors")
    return (folder / "state.safetensors").read_bytes()


def read_state(path: Path) -> object:
    return load_state(path, TrainConfig(), torch.device("cpu"))


def foreign_weights(folder: Path) -> bytes:
    return save({"a": torch.zeros(3, 2), "b": torch.ones(4, dtype=torch.bfloat16)})


def pickled_weights(folder: Path) -> bytes:
    torch.save({"state_dict": {"a": torch.zeros(3, 2)}, "epoch": 3}, folder / "weights.pt")
    return (folder / "weights.pt").read_bytes()


def trials(folder: Path) -> bytes:
    step = {"dimension": "image.width", "old": 16, "new": 32}
    trial = {"stage": 0, "number": 1, "candidate": {"steps": [step], "momentum": None}}
    trial |= {"arch": TINY.to_dict(), "flops": 10**9}
    trial |= {"params": 10**6, "state": "complete", "metrics": {"loss": 1.5}}
    trial |= {"curve": [[128, 3.5], [256, 2.5]], "score": 0.25, "terms": {"advantage": 0.25}}
    return f"{json.dumps(trial)}\n{json.dumps(trial | {'number': 2, 'score': None})}\n".encode()


def stages(folder: Path) -> bytes:
    stage = {"stage": 0, "num_pairs": 100, "skipped": {"empty caption": 1}, "chosen": {}}
    stage |= {"parent": TINY.to_dict(), "arch": TINY.to_dict(), "chosen_trial": 0, "reason": "it"}
    stage |= {"flops": 10**9, "flops_by_encoder": {"image": 10**9}, "params": 10**6}
    stage |= {
        "metrics": {"loss": MEASURED},
        "validation": {"loss": MEASURED},
        "curve": [[128, 3.5]],
    }
    stage |= {"pairs_seen": 200, "search_flops": 0, "train_flops": 10**12}
    return f"{json.dumps(stage | {'cumulative_flops': 10**12})}\n".encode()


def timings(folder: Path) -> bytes:
    return b'{"stage": 0, "what": "training", "seconds": 1.5}\n' * 2


def shard(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("0.png", "0.txt", "n" * 150 + ".png"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


def read_shard(path: Path) -> object:
    return sum(1 for _ in read_members(path, Counter()))


def image(folder: Path) -> bytes:
    Image.effect_noise((9, 7), 50).save(folder / "image.png")
    return (folder / "image.png").read_bytes()


READERS: Mapping[str, Reader] = {
    "experiment": Reader("a.yaml", experiment, load_config),
    "comparison": Reader("a.yaml", comparison, load_comparison),
    "growth space": Reader("a.yaml", space, read_space),
    "architecture": Reader("arch.json", arch, ClipArch.load),
    "OpenCLIP config": Reader("a.json", foreign_config, lambda path: read_config(str(path))),
    "Hugging Face config": Reader(
        "config.json", hugging_face_config, lambda path: read_config(str(path))
    ),
    "model": Reader("model.safetensors", weights, lambda path: load_model(path.parent)),
    "training state": Reader("state.safetensors", state, read_state),
    "others' safetensors": Reader("a.safetensors", foreign_weights, read_weights),
    "others' pickle": Reader("weights.pt", pickled_weights, read_weights),
    "trials": Reader("trials.jsonl", trials, lambda path: read_trials(path.parent)),
    "stages": Reader("stages.jsonl", stages, lambda path: read_stages(path.parent)),
    "stage lines": Reader("stages.jsonl", stages, lambda path: stage_lines(path, 1)),
    "timings": Reader("timings.jsonl", timings, lambda path: read_timings(path.parent)),
    "shard": Reader("a.tar", shard, read_shard),
    "image": Reader("image.png", image, lambda path: decode_image(path.read_bytes())),
}
"""Everything that reads a file which somebody may have damaged or made up."""


WORDS = (
    b".nan", b"-.inf", b"1e400", b"NaN", b"Infinity", b"-1", b"0", b"9" * 30, b"0x" + b"f" * 5000,
    b"null", b"true", b"''", b"[]", b"{}", b"[[[[", b"{a: {a: {a: 1}}}", b"&a [*a]", b"*a",
    b"!!python/object/apply:os.system ['true']", b"!!int ''", b"!!bool x", b"!!timestamp x",
    b"!!binary x", b"2001-01-01T00:00:00+99:99", b"\xff", b"\xf0\x9f\x90\x8d", b"\0", b"\n", b": ",
    b"\xe2\x80\xa8", b"<<: *a", b"? ", b"- ", b'"', b"'", b"1:1:1", b"\t",
)  # fmt: skip
"""What is put into documents: the corners of YAML and JSON."""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A document with a few pieces cut, doubled, swapped or replaced."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice((0, 1, 1, 4, 8, 64, 1024)))
        piece = bytes(changed[start:end])
        ways = (
            rng.choice(WORDS),
            rng.randbytes(len(piece) or 1),
            piece * 2,
            b"",
            bytes(byte ^ 1 << rng.randrange(8) for byte in piece),
            bytes(changed[rng.randrange(len(changed) + 1) :])[:200],
        )
        changed[start:end] = rng.choice(ways)
        if rng.random() < 0.02:
            del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)
