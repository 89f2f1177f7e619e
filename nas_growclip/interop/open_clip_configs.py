"""Model configurations of OpenCLIP, read into our architecture and back."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from nas_growclip.interop.foreign import ForeignConfig, Layout, refuse
from nas_growclip.interop.limits import check_exportable
from nas_growclip.interop.processors import open_clip_preprocess_cfg, read_preprocess_cfg
from nas_growclip.interop.timm_export import mlp_ratio, needs_timm, timm_vision_cfg
from nas_growclip.interop.timm_towers import timm_tower
from nas_growclip.io.mappings import from_mapping
from nas_growclip.models.arch import (
    END_OF_TEXT,
    TOKENIZER_VOCAB_SIZE,
    Activation,
    ClipArch,
    ImageArch,
    SharedArch,
    TextArch,
    TokenizerArch,
)
from nas_growclip.models.clip import SIGLIP_BIAS, SIGLIP_SCALE

OPEN_CLIP_EPS = 1e-5


def read_open_clip(
    data: Mapping[str, Any], where: str, folder: Path | None = None
) -> ForeignConfig:
    """A model of OpenCLIP's model config, alone or as ``model_cfg`` beside a ``preprocess_cfg``.

    Args:
        data: The configuration.
        where: Its place, for messages.
        folder: Where it lies.

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
    is_timm, embed_dim = bool(vision.timm_model_name), int(config["embed_dim"])
    if is_timm:
        image, absent, _ = timm_tower(vision, embed_dim, where, folder)
    else:
        image, absent = _image_arch(vision, where), _NO_PATCH_BIAS
    arch = ClipArch(
        image=image,
        text=_text_arch(text, embed_dim, where),
        shared=SharedArch(depth=0, mlp_width=4 * embed_dim),
        embed_dim=embed_dim,
        logit_bias=config.get("init_logit_bias") is not None,
    )
    if text.proj_type == "none":
        absent |= _NO_TEXT_PROJECTION
    layout: Layout = "timm" if is_timm else "open_clip"
    read = ForeignConfig(arch, layout, where, absent=absent)
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
    names = ("attentional_pool", *_BLOCK_EXTRAS)
    refuse(where, {n: getattr(vision, n) for n in names}, _PLAIN)
    if vision.pool_type not in ("tok", "avg"):
        refuse(where, {"pool_type": vision.pool_type}, {})
    if vision.pos_embed_type != "sin_cos_2d":  # whose positions are in the weights as others are
        refuse(where, {"pos_embed_type": vision.pos_embed_type}, _PLAIN)
    is_average = vision.pool_type == "avg"
    size = vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return ImageArch(
        depth=vision.layers,
        width=vision.width,
        mlp_width=int(vision.width * vision.mlp_ratio),
        patch_size=vision.patch_size,
        image_size=width,
        image_height=None if height == width else height,
        head_dim=vision.width // (vision.width // vision.head_width),
        norm_pre=not vision.no_ln_pre,
        norm_eps=_eps(vision.norm_kwargs, where),
        activation=_activation(vision.act_kwargs, where),
        pooling="average" if is_average else "token",
        norm_after_pooling=is_average and vision.final_ln_after_pool,
        cut_edge=bool(height % vision.patch_size or width % vision.patch_size),
    )


def _text_arch(text: CLIPTextCfg, embed_dim: int, where: str) -> TextArch:
    if text.hf_model_name:
        raise ValueError(
            f"{where}: a Hugging Face text tower ({text.hf_model_name}) cannot be represented; "
            "only open_clip's own text transformer can. Import a model with one."
        )
    names = ("embed_cls", "tokenizer_mode", *_BLOCK_EXTRAS)
    refuse(where, {n: getattr(text, n) for n in names}, _PLAIN)
    if text.proj_type != "none" or text.width != embed_dim:
        refuse(where, {"proj_type": text.proj_type}, _PLAIN)
    tokenizer = _tokenizer(text, where)
    return TextArch(
        depth=text.layers,
        width=text.width,
        mlp_width=int(text.width * text.mlp_ratio),
        context_length=text.context_length,
        vocab_size=text.vocab_size,
        head_dim=text.width // text.heads,
        norm_eps=_eps(text.norm_kwargs, where),
        activation=_activation(text.act_kwargs, where),
        is_causal=not text.no_causal_mask,
        pooling=_POOLINGS.get(text.pool_type, "end"),
        end_token=_end_token(text, where),
        projection_bias=text.proj_bias and text.proj_type != "none",
        tokenizer=tokenizer,
    )


def _end_token(text: CLIPTextCfg, where: str) -> int:
    """The token at which a text is pooled.

    ``argmax`` takes the highest token of a text, which is CLIP's end of text with its tokenizer.
    """
    if text.pool_type == "eos":
        return int(text.eos_id)
    known = (*_POOLINGS, *(() if text.hf_tokenizer_name else ("argmax",)))
    if text.pool_type not in known:
        refuse(where, {"pool_type": text.pool_type}, {})
    return END_OF_TEXT


def _tokenizer(text: CLIPTextCfg, where: str) -> TokenizerArch | None:
    """Of Hugging Face's, or None for CLIP's own."""
    options = dict(text.tokenizer_kwargs or {})
    if text.hf_tokenizer_name:
        given = {"name": text.hf_tokenizer_name, **options}
        return from_mapping(TokenizerArch, given, f"{where}: tokenizer_kwargs")
    refuse(where, {"tokenizer_kwargs": options}, {})
    if text.vocab_size != TOKENIZER_VOCAB_SIZE:
        raise ValueError(
            f"{where}: vocab_size={text.vocab_size} cannot be represented: without an "
            "hf_tokenizer_name texts are tokenized by CLIP's own tokenizer of "
            f"{TOKENIZER_VOCAB_SIZE} tokens."
        )
    return None


def _activation(act_kwargs: Mapping[str, Any] | None, where: str) -> Activation:
    if act_kwargs == _TANH:
        return "gelu_tanh"
    refuse(where, {"act_kwargs": act_kwargs}, {})
    return "gelu"


_NO_PATCH_BIAS = frozenset({"image.trunk.patch_embed.proj.bias"})
_NO_TEXT_PROJECTION = frozenset({"text.projection.weight"})
_TANH: Mapping[str, Any] = {"approximate": "tanh"}
_POOLINGS: Mapping[str, Literal["last", "first"]] = {"last": "last", "first": "first"}
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
    "pos_embed_type": "learnable",
    "proj_type": "linear",
    "block_type": "default",
}


def _eps(norm_kwargs: Mapping[str, Any] | None, where: str) -> float:
    options = dict(norm_kwargs or {})
    eps = float(options.pop("eps", OPEN_CLIP_EPS))
    refuse(where, {"norm_kwargs": options}, {})
    return eps


def open_clip_config(arch: ClipArch, out: Path) -> dict[str, Any]:
    """An architecture as OpenCLIP's ``open_clip_config.json``, to be read in folder ``out``.

    Raises:
        ValueError: If OpenCLIP has no such model; the message names what it lacks.
    """
    check_exportable(arch, "OpenCLIP")
    image, text = arch.image, arch.text
    is_quick = text.activation == "quick_gelu"
    if not needs_timm(image) and is_quick != (image.activation == "quick_gelu"):
        raise ValueError(
            f"OpenCLIP's towers share quick_gelu, but image.activation is {image.activation} "
            f"and text.activation is {text.activation}. Export it with --format transformers, "
            "onnx or torch."
        )
    model: dict[str, Any] = {"embed_dim": arch.embed_dim}
    if arch.logit_bias:
        model |= {"init_logit_scale": math.log(SIGLIP_SCALE), "init_logit_bias": SIGLIP_BIAS}
    if is_quick:
        model["quick_gelu"] = True
    vision = timm_vision_cfg(arch, out) if needs_timm(image) else _vision_cfg(image)
    return {
        "model_cfg": model | {"vision_cfg": vision, "text_cfg": _text_cfg(text)},
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
        "mlp_ratio": mlp_ratio(image.mlp_width, image.width),
        "no_ln_pre": not image.norm_pre,
        **({"pool_type": "avg"} if image.pooling == "average" else {}),
        **({"final_ln_after_pool": True} if image.norm_after_pooling else {}),
        **_layer_kwargs(image),
    }


def _text_cfg(text: TextArch) -> dict[str, Any]:
    return {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.num_heads,
        "layers": text.depth,
        "mlp_ratio": mlp_ratio(text.mlp_width, text.width),
        **_layer_kwargs(text),
    } | _text_traits(text)


def _text_traits(text: TextArch) -> dict[str, Any]:
    """What a text tower has beside its sizes, where it is not OpenCLIP's default."""
    traits: dict[str, Any] = {}
    if not text.is_causal:
        traits["no_causal_mask"] = True
    if text.pooling != "end":
        traits["pool_type"] = text.pooling
    elif text.tokenizer is not None or text.end_token != END_OF_TEXT:
        traits |= {"pool_type": "eos", "eos_id": text.end_token}
    if text.projection_bias:
        traits["proj_bias"] = True
    if text.tokenizer is not None:
        traits |= _tokenizer_cfg(text.tokenizer)
    return traits


def _tokenizer_cfg(tokenizer: TokenizerArch) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if tokenizer.clean != "whitespace":
        options["clean"] = tokenizer.clean
    if tokenizer.strip_sep_token:
        options["strip_sep_token"] = True
    return {"hf_tokenizer_name": tokenizer.name, "tokenizer_kwargs": options}


def _layer_kwargs(tower: ImageArch | TextArch) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    if tower.norm_eps != OPEN_CLIP_EPS:
        kwargs["norm_kwargs"] = {"eps": tower.norm_eps}
    if tower.activation == "gelu_tanh":
        kwargs["act_kwargs"] = dict(_TANH)
    return kwargs
