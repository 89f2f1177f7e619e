"""Model configurations of OpenCLIP, read into our architecture and back."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from nas_growclip.interop.foreign import ForeignConfig, refuse
from nas_growclip.interop.limits import check_exportable
from nas_growclip.interop.processors import open_clip_preprocess_cfg, read_preprocess_cfg
from nas_growclip.interop.timm_towers import timm_arch
from nas_growclip.models.arch import TOKENIZER_VOCAB_SIZE, ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.clip import SIGLIP_BIAS, SIGLIP_SCALE
from nas_growclip.models.towers import END_OF_TEXT

OPEN_CLIP_EPS = 1e-5


def read_open_clip(data: Mapping[str, Any], where: str) -> ForeignConfig:
    """A model of OpenCLIP's model config, alone or as ``model_cfg`` beside a ``preprocess_cfg``.

    Raises:
        ValueError: If it cannot be represented; the message names what cannot.
    """
    config = data.get("model_cfg", data)
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in config:
            raise ValueError(f"{where}: must be a CLIP model's config, but has no {key!r}.")
    refuse(where, {"multimodal_cfg": config.get("multimodal_cfg")}, {})
    try:
        vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    except TypeError as error:
        raise ValueError(f"{where}: open_clip does not take this config: {error}.") from None
    is_timm = bool(vision.timm_model_name)
    arch = ClipArch(
        image=timm_arch(vision, where) if is_timm else _image_arch(vision, where),
        text=_text_arch(text, where),
        shared=SharedArch(depth=0, mlp_width=4 * int(config["embed_dim"])),
        embed_dim=int(config["embed_dim"]),
        logit_bias=config.get("init_logit_bias") is not None,
    )
    read = ForeignConfig(arch, "timm" if is_timm else "open_clip", where)
    if config.get("quick_gelu"):
        read = replace(read.with_activation("quick_gelu", where), activation_from=where)
    if data.get("preprocess_cfg"):
        given = read_preprocess_cfg(data["preprocess_cfg"], f"{where}: preprocess_cfg")
        read = read.with_preprocessing(given, f"{where}: preprocess_cfg")
    return read


def _image_arch(vision: CLIPVisionCfg, where: str) -> ImageArch:
    if isinstance(vision.layers, (list, tuple)):
        raise ValueError(
            f"{where}: a ResNet image tower (layers={list(vision.layers)}) cannot be represented; "
            "only plain ViT towers can. Import a ViT model."
        )
    names = ("attentional_pool", "pool_type", "pos_embed_type", *_BLOCK_EXTRAS)
    refuse(where, {n: getattr(vision, n) for n in names}, _PLAIN)
    refuse(where, {"act_kwargs": vision.act_kwargs}, {})
    size = vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return ImageArch(
        depth=vision.layers,
        width=vision.width,
        mlp_width=int(vision.width * vision.mlp_ratio),
        patch_size=vision.patch_size,
        image_size=width,
        image_height=None if height == width else height,
        head_dim=vision.head_width,
        norm_pre=not vision.no_ln_pre,
        norm_eps=_eps(vision.norm_kwargs, where),
    )


def _text_arch(text: CLIPTextCfg, where: str) -> TextArch:
    if text.hf_model_name:
        raise ValueError(
            f"{where}: a Hugging Face text tower ({text.hf_model_name}) cannot be represented; "
            "only open_clip's own text transformer can. Import a model with one."
        )
    names = ("embed_cls", "no_causal_mask", "pool_type", "proj_type", "proj_bias", *_BLOCK_EXTRAS)
    wanted = dict(_PLAIN) | {"pool_type": "argmax"}
    if text.pool_type == "eos" and text.eos_id == END_OF_TEXT:
        wanted["pool_type"] = "eos"
    refuse(where, {n: getattr(text, n) for n in names}, wanted)
    others = ("hf_tokenizer_name", "tokenizer_kwargs", "act_kwargs")
    refuse(where, {n: getattr(text, n) for n in others}, {})
    if text.vocab_size != TOKENIZER_VOCAB_SIZE:
        raise ValueError(
            f"{where}: vocab_size={text.vocab_size} cannot be represented: texts are tokenized by "
            f"CLIP's own tokenizer of {TOKENIZER_VOCAB_SIZE} tokens."
        )
    return TextArch(
        depth=text.layers,
        width=text.width,
        mlp_width=int(text.width * text.mlp_ratio),
        context_length=text.context_length,
        head_dim=text.width // text.heads,
        norm_eps=_eps(text.norm_kwargs, where),
    )


_BLOCK_EXTRAS = (
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
)
_PLAIN: Mapping[str, Any] = {
    "pool_type": "tok",
    "pos_embed_type": "learnable",
    "proj_type": "linear",
    "block_type": "default",
}


def _eps(norm_kwargs: Mapping[str, Any] | None, where: str) -> float:
    options = dict(norm_kwargs or {})
    eps = float(options.pop("eps", OPEN_CLIP_EPS))
    refuse(where, {"norm_kwargs": options}, {})
    return eps


def open_clip_config(arch: ClipArch) -> dict[str, Any]:
    """An architecture as OpenCLIP's ``open_clip_config.json``.

    Raises:
        ValueError: If OpenCLIP has no such model; the message names what it lacks.
    """
    check_exportable(arch, "OpenCLIP")
    image, text = arch.image, arch.text
    if image.activation != text.activation:
        raise ValueError(
            f"OpenCLIP's towers share one activation, but image.activation is {image.activation} "
            f"and text.activation is {text.activation}. Export it with --format transformers, "
            "onnx or torch."
        )
    model: dict[str, Any] = {"embed_dim": arch.embed_dim}
    if arch.logit_bias:
        model |= {"init_logit_scale": math.log(SIGLIP_SCALE), "init_logit_bias": SIGLIP_BIAS}
    if image.activation == "quick_gelu":
        model["quick_gelu"] = True
    return {
        "model_cfg": model | {"vision_cfg": _vision_cfg(image), "text_cfg": _text_cfg(text)},
        "preprocess_cfg": open_clip_preprocess_cfg(image.preprocessing),
    }


def _vision_cfg(image: ImageArch) -> dict[str, Any]:
    height, width = image.image_shape
    return {
        "image_size": width if height == width else [height, width],
        "layers": image.depth,
        "width": image.width,
        "head_width": image.head_dim,
        "patch_size": image.patch_size,
        "mlp_ratio": _ratio(image.mlp_width, image.width),
        "no_ln_pre": not image.norm_pre,
        **_norm_kwargs(image),
    }


def _text_cfg(text: TextArch) -> dict[str, Any]:
    return {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.num_heads,
        "layers": text.depth,
        "mlp_ratio": _ratio(text.mlp_width, text.width),
        **_norm_kwargs(text),
    }


def _norm_kwargs(tower: ImageArch | TextArch) -> dict[str, Any]:
    if tower.norm_eps == OPEN_CLIP_EPS:
        return {}
    return {"norm_kwargs": {"eps": tower.norm_eps}}


def _ratio(mlp_width: int, width: int) -> float:
    """The ratio that open_clip multiplies and cuts to exactly this width."""
    ratio = mlp_width / width
    while int(width * ratio) < mlp_width:
        ratio = ratio * (1 + 1e-15)
    return ratio
