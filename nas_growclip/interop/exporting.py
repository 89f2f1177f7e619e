"""Take a grown model out: as stock OpenCLIP loads it, or as a Hugging Face ``CLIPModel``."""

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import open_clip
from safetensors.torch import save_file
from torch import Tensor

from nas_growclip.interop.foreign import HF_CONFIG, HF_PROCESSOR, OPEN_CLIP_CONFIG
from nas_growclip.interop.hf_configs import hf_config
from nas_growclip.interop.layouts import (
    HUGGING_FACE,
    OPEN_CLIP_IMAGE,
    OPEN_CLIP_TEXT,
    split_attention,
    to_theirs,
)
from nas_growclip.interop.open_clip_configs import open_clip_config
from nas_growclip.interop.processors import image_processor_config
from nas_growclip.io.files import make_folder, replace_atomically, write_atomically
from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import folded_state
from nas_growclip.models.towers import END_OF_TEXT

OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
HF_WEIGHTS = "model.safetensors"
MERGES = END_OF_TEXT - 1 - 512
"""Merges of CLIP's tokenizer: tokens but for 256 bytes, those at a word's end, and two marks."""


def export_open_clip(model: Clip, out: Path) -> None:
    """Write ``open_clip_config.json`` and weights for ``open_clip.create_model("local-dir:OUT")``.

    A bias of the patch embedding, which OpenCLIP's tower has not, becomes part of the positions.

    Raises:
        ValueError: If OpenCLIP has no such model, or the folder cannot be written.
    """
    config = open_clip_config(model.arch)
    weights = dict(folded_state(model))
    bias = weights.pop("image.trunk.patch_embed.proj.bias", None)
    if bias is not None:
        positions = weights["image.trunk.pos_embed"].clone()
        positions[:, 1:] += bias
        weights["image.trunk.pos_embed"] = positions
    make_folder(out)
    _write_json(out / OPEN_CLIP_CONFIG, config)
    _write_weights(out / OPEN_CLIP_WEIGHTS, to_theirs(weights, (*OPEN_CLIP_IMAGE, *OPEN_CLIP_TEXT)))


def export_hugging_face(model: Clip, out: Path) -> None:
    """Write a folder for ``CLIPModel.from_pretrained(OUT)``, tokenizer and processor included.

    Needs no network.

    Raises:
        ValueError: If ``CLIPModel`` has no such model, or the folder cannot be written.
    """
    config, processor = hf_config(model.arch), image_processor_config(model.arch.image)
    make_folder(out)
    _write_json(out / HF_CONFIG, config)
    weights = split_attention(to_theirs(folded_state(model), HUGGING_FACE))
    _write_weights(out / HF_WEIGHTS, weights)
    _write_json(out / HF_PROCESSOR, processor)
    _write_tokenizer(out, model.arch.text.context_length)


FORMATS: Mapping[str, Callable[[Clip, Path], None]] = {
    "open_clip": export_open_clip,
    "hf": export_hugging_face,
}
"""Formats by name."""


def _write_tokenizer(out: Path, context_length: int) -> None:
    """CLIP's vocabulary and merges, from the file that open_clip brings along."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    vocab = {_hf_name(token): number for token, number in tokenizer.encoder.items()}
    with gzip.open(open_clip.tokenizer.default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : MERGES + 1]
    _write_json(out / "vocab.json", vocab)
    write_atomically(
        out / "merges.txt", ("\n".join(["#version: 0.2", *merges]) + "\n").encode("utf-8")
    )
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special = marks | {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length}
    _write_json(out / "tokenizer_config.json", settings | special | {"do_lower_case": True})
    _write_json(out / "special_tokens_map.json", special)


def _hf_name(token: str) -> str:
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return names.get(token, token)


def _write_json(path: Path, data: object) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8"))


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    replace_atomically(path, lambda temporary: save_file(whole, temporary, {"format": "pt"}))
