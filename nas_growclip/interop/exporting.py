"""Take a grown model out: the formats by name, and those of stock OpenCLIP and ``CLIPModel``."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nas_growclip.interop.automodel import export_auto_model
from nas_growclip.interop.clip_tokenizer import write_hf_tokenizer
from nas_growclip.interop.foreign import HF_CONFIG, HF_PROCESSOR, OPEN_CLIP_CONFIG
from nas_growclip.interop.hf_configs import hf_config
from nas_growclip.interop.layouts import (
    HUGGING_FACE,
    OPEN_CLIP_IMAGE,
    OPEN_CLIP_POOLED_NORM,
    OPEN_CLIP_TEXT,
    SIGLIP,
    TIMM_IMAGE,
    pixels_as_patches,
    split_attention,
    split_head,
    split_query,
    to_theirs,
)
from nas_growclip.interop.onnx_files import export_onnx
from nas_growclip.interop.open_clip_configs import open_clip_config
from nas_growclip.interop.processors import image_processor_config, siglip_processor_config
from nas_growclip.interop.programs import export_torch
from nas_growclip.interop.siglip_configs import is_siglip, siglip_config
from nas_growclip.interop.timm_export import needs_timm, timm_tower_config
from nas_growclip.interop.timm_towers import IMAGE_TOWER, LOCAL
from nas_growclip.interop.writing import write_json, write_weights
from nas_growclip.io.files import make_folder
from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import folded_state
from nas_growclip.models.tokenizers import copy_tokenizer

OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
HF_WEIGHTS = "model.safetensors"
HF_PATCHES = "vision_model.embeddings.patch_embedding.weight"


def export_open_clip(model: Clip, out: Path) -> None:
    """Write ``open_clip_config.json`` and weights for ``open_clip.create_model("local-dir:OUT")``.

    A bias of the patch embedding, which OpenCLIP's tower has not, becomes part of the positions.

    Raises:
        ValueError: If OpenCLIP has no such model, or the folder cannot be written.
    """
    config = open_clip_config(model.arch, out)
    make_folder(out)
    write_json(out / OPEN_CLIP_CONFIG, config)
    if str(config["model_cfg"]["vision_cfg"].get("timm_model_name")).startswith(LOCAL):
        make_folder(out / IMAGE_TOWER)
        write_json(out / IMAGE_TOWER / "config.json", timm_tower_config(model.arch.image))
    write_weights(out / OPEN_CLIP_WEIGHTS, _open_clip_weights(model))
    if model.arch.text.tokenizer is not None:
        copy_tokenizer(model.arch.text.tokenizer, out)


def _open_clip_weights(model: Clip) -> dict[str, Tensor]:
    weights = dict(folded_state(model))
    if needs_timm(model.arch.image):
        theirs = split_query(to_theirs(weights, (*TIMM_IMAGE, *OPEN_CLIP_TEXT)))
    else:
        image = (*OPEN_CLIP_IMAGE, *OPEN_CLIP_POOLED_NORM)
        theirs = to_theirs(_without_patch_bias(weights), (*image, *OPEN_CLIP_TEXT))
    if "text_projection.bias" in theirs:  # then it is a layer there, not a matrix
        theirs["text_projection.weight"] = theirs.pop("text_projection").T
    return theirs


def _without_patch_bias(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    bias = weights.pop("image.trunk.patch_embed.proj.bias", None)
    if bias is not None:
        positions = weights["image.trunk.pos_embed"].clone()
        positions[:, 1:] += bias
        weights["image.trunk.pos_embed"] = positions
    return weights


def export_hugging_face(model: Clip, out: Path) -> None:
    """Write a folder for ``AutoModel.from_pretrained(OUT)``, tokenizer and processor included.

    It is a ``SiglipModel`` if images are pooled by attention, else a ``CLIPModel``. Needs no
    network.

    Raises:
        ValueError: If they have no such model, or the folder cannot be written.
    """
    if is_siglip(model.arch):
        _export_siglip(model, out, "siglip")
        return
    config, processor = hf_config(model.arch), image_processor_config(model.arch.image)
    make_folder(out)
    write_json(out / HF_CONFIG, config)
    weights = split_attention(to_theirs(folded_state(model), HUGGING_FACE))
    write_weights(out / HF_WEIGHTS, weights)
    write_json(out / HF_PROCESSOR, processor)
    write_hf_tokenizer(out, model.arch.text.context_length)


def export_siglip2(model: Clip, out: Path) -> None:
    """Write a folder for ``Siglip2Model.from_pretrained(OUT)``, which takes an image's patches.

    Raises:
        ValueError: If ``Siglip2Model`` has no such model, or the folder cannot be written.
    """
    _export_siglip(model, out, "siglip2")


def _export_siglip(model: Clip, out: Path, kind: str) -> None:
    config = siglip_config(model.arch, kind)
    processor = siglip_processor_config(model.arch.image, kind)
    weights = split_head(split_attention(to_theirs(folded_state(model), SIGLIP)))
    weights.setdefault("text_model.head.bias", torch.zeros(model.arch.embed_dim))
    if kind == "siglip2":
        weights[HF_PATCHES] = pixels_as_patches(weights[HF_PATCHES])
    make_folder(out)
    write_json(out / HF_CONFIG, config)
    write_weights(out / HF_WEIGHTS, weights)
    write_json(out / HF_PROCESSOR, processor)
    if model.arch.text.tokenizer is None:
        write_hf_tokenizer(out, model.arch.text.context_length)
    else:
        copy_tokenizer(model.arch.text.tokenizer, out)


FORMATS: Mapping[str, Callable[[Clip, Path], None]] = {
    "open_clip": export_open_clip,
    "hf": export_hugging_face,
    "siglip2": export_siglip2,
    "transformers": export_auto_model,
    "onnx": export_onnx,
    "torch": export_torch,
}
"""Formats by name."""
