"""Bring a CLIP model of another tool in: OpenCLIP (native or timm towers), OpenAI, Hugging Face."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nas_growclip.interop.foreign import HF_CONFIG, OPEN_CLIP_CONFIG, ForeignConfig
from nas_growclip.interop.hub import HUB
from nas_growclip.interop.layouts import (
    HUGGING_FACE,
    OPEN_CLIP_IMAGE,
    OPEN_CLIP_POOLED_NORM,
    OPEN_CLIP_TEXT,
    SIGLIP,
    TIMM_IMAGE,
    Rule,
    join_attention,
    join_biases,
    join_head,
    join_query,
    patches_as_pixels,
    to_ours,
)
from nas_growclip.interop.sources import find_source, read_config
from nas_growclip.interop.tokenizers import with_tokenizer
from nas_growclip.interop.weight_files import ADAPTER_CONFIG
from nas_growclip.interop.weights import read_weights
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.axes import split_block
from nas_growclip.models.checkpoint import ARCH_FILE, check_numbers, filled_model, load_model
from nas_growclip.models.clip import Clip, empty_model

LAYOUTS = {
    "open_clip": (*OPEN_CLIP_IMAGE, *OPEN_CLIP_TEXT),
    "timm": (*TIMM_IMAGE, *OPEN_CLIP_TEXT),
    "hf": HUGGING_FACE,
    "siglip": SIGLIP,
    "siglip2": SIGLIP,
}
OPENAI_NUMBERS = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Entries of OpenAI's own files that are no weights; nobody else's have them."""
HF_PATCHES = "vision_model.embeddings.patch_embedding.weight"
NO_WEIGHTS = OPENAI_NUMBERS | {"attn_mask", "text.attn_mask", "n_averaged"}
"""Entries of state dicts that are no weights."""


class Imported(NamedTuple):
    """A model, and lines that say where what is not in its weights was taken from."""

    model: Clip
    provenance: tuple[str, ...]


def import_model(name: str, weights: str | None = None, tokenizer: Path | None = None) -> Clip:
    """As ``import_with_provenance``, the model alone."""
    return import_with_provenance(name, weights, tokenizer).model


def import_with_provenance(
    name: str, weights: str | None = None, tokenizer: Path | None = None
) -> Imported:
    """Make a model of another tool's configuration and weights.

    Args:
        name: As for ``sources.read_config``.
        weights: A safetensors file or state dict, their index or folder, a pretrained tag of the
            model (needs a network), or None for the weights beside a configuration in a folder or
            on the hub.
        tokenizer: A folder with the files of the model's tokenizer, if it is one of Hugging Face's
            and is neither beside the configuration nor on the hub.

    Returns:
        The model in fp32, with the other tool's embeddings of the same images and texts: its
        preprocessing is part of the architecture.

    Raises:
        ValueError: If the model cannot be represented, or a file is not what it must be.
    """
    config, path = find_source(name, weights)
    is_download = name.startswith(HUB) or (weights is not None and not Path(weights).exists())
    config = with_tokenizer(config, name, tokenizer, may_download=is_download)
    tensors = read_weights(path)
    if weights is not None and config.preprocessing_from is None:
        config = _openai_activation(config, tensors, path)
    tensors = {n: t for n, t in tensors.items() if n not in NO_WEIGHTS}
    tensors = {n: t for n, t in tensors.items() if not n.endswith(".position_ids")}
    check_numbers(tensors, path)
    for join in (join_attention, join_biases, join_query, join_head):
        tensors = join(tensors)
    tensors = _folded_scales(_unprefixed(tensors))
    if config.layout == "siglip2" and HF_PATCHES in tensors:
        size = config.arch.image.patch_size
        tensors[HF_PATCHES] = patches_as_pixels(tensors[HF_PATCHES], size)
    ours = to_ours(tensors, _layout(config), str(path))
    ours |= _absent(config, ours, path)
    model = filled_model(config.arch, ours, path, torch.float32)
    return Imported(model.eval(), config.provenance())


def _absent(config: ForeignConfig, ours: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """What the other tool's model has not: biases of 0, projections that change nothing."""
    values = {}
    for name, parameter in empty_model(config.arch).named_parameters():
        block = split_block(name)
        if (f"{block[0]}.#.{block[2]}" if block else name) in config.absent:
            if name in ours:
                raise ValueError(
                    f"{path}: holds {name!r}, which the model named has not. Is it that "
                    "model's file?"
                )
            make = torch.eye if parameter.ndim == 2 else torch.zeros
            values[name] = make(*parameter.shape, device="cpu")
    return values


def _layout(config: ForeignConfig) -> Sequence[Rule]:
    layout = LAYOUTS[config.layout]
    if config.layout == "open_clip" and config.arch.image.norm_after_pooling:
        return (*layout, *OPEN_CLIP_POOLED_NORM)
    return layout


def open_checkpoint(
    path: str | Path, device: str | torch.device = "cpu", *, is_mapped: bool = False
) -> Clip:
    """Read any checkpoint folder: one of ours, or one that OpenCLIP or Hugging Face can read.

    Args:
        path: The folder.
        device: Where to put the model.
        is_mapped: As for ``load_model``; others' weights are copied in any case.

    Raises:
        ValueError: If the folder is none, or a file in it is damaged.
    """
    folder = Path(path)
    if is_foreign(folder):
        return import_model(str(folder)).to(device)
    return load_model(folder, device, is_mapped=is_mapped)


def checkpoint_arch(path: str | Path) -> ClipArch:
    """The architecture of any checkpoint folder, without its weights.

    Raises:
        ValueError: As ``open_checkpoint``.
    """
    folder = Path(path)
    if is_foreign(folder):
        return with_tokenizer(read_config(str(folder)), str(folder)).arch
    return ClipArch.load(folder / ARCH_FILE)


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds another tool's checkpoint and none of ours."""
    configs = (folder / name for name in (OPEN_CLIP_CONFIG, HF_CONFIG, ADAPTER_CONFIG))
    return not (folder / ARCH_FILE).exists() and any(path.exists() for path in configs)


def _openai_activation(
    config: ForeignConfig, tensors: Mapping[str, Tensor], path: Path
) -> ForeignConfig:
    """OpenAI's own files are known by three numbers, and were all trained with quick GELU."""
    if config.layout != "open_clip" or not set(tensors) >= OPENAI_NUMBERS:
        return config
    return config.with_activation("quick_gelu", f"{path} (OpenAI's own file)")


def _unprefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's ``CustomTextCLIP`` keeps its text tower under ``text.``."""
    renamed = {n.removeprefix("text."): t for n, t in tensors.items()}
    if "text_projection.weight" in renamed and "visual_projection.weight" not in renamed:
        renamed["text_projection"] = renamed.pop("text_projection.weight").T
    return renamed


def _folded_scales(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LayerScale multiplies what a branch writes, so it can be part of that matrix and bias."""
    writers = {
        "ls_1.gamma": "attn.out_proj",
        "ls_2.gamma": "mlp.c_proj",
        "ls1.gamma": "attn.proj",
        "ls2.gamma": "mlp.fc2",
    }
    folded = dict(tensors)
    for name, gamma in tensors.items():
        scale = next((s for s in writers if name.endswith(f".{s}")), None)
        if scale is None:
            continue
        writer = name.removesuffix(scale) + writers[scale]
        for part in (f"{writer}.weight", f"{writer}.bias"):
            if part in folded:
                value = folded[part].float()
                folded[part] = value * (
                    gamma.float()[:, None] if value.ndim == 2 else gamma.float()
                )
        del folded[name]
    return folded
