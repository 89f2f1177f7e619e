"""Names of the same weights in other tools' models: OpenCLIP's towers, timm's, Hugging Face's.

A layout is a list of rules, each a name of theirs and a name of ours with what has to be done to
the tensor; ``#`` stands for a block's number. The same rules are used in both directions.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Change(NamedTuple):
    """What turns their tensor into ours, and back."""

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


SAME = Change(lambda t: t, lambda t: t)
TRANSPOSED = Change(lambda t: t.T, lambda t: t.T)
CLASS_TOKEN = Change(lambda t: t[None, None], lambda t: t[0, 0])
POSITIONS = Change(lambda t: t[None], lambda t: t[0])
SCALAR = Change(lambda t: t.reshape(()), lambda t: t)


class Rule(NamedTuple):
    """One weight under both names."""

    theirs: str
    ours: str
    change: Change = SAME


def _both(theirs: str, ours: str, parts: tuple[str, ...] = ("weight", "bias")) -> list[Rule]:
    return [Rule(f"{theirs}.{part}", f"{ours}.{part}") for part in parts]


def _open_clip_blocks(theirs: str, ours: str) -> list[Rule]:
    return [
        *_both(f"{theirs}.#.ln_1", f"{ours}.#.norm1"),
        Rule(f"{theirs}.#.attn.in_proj_weight", f"{ours}.#.attn.qkv.weight"),
        Rule(f"{theirs}.#.attn.in_proj_bias", f"{ours}.#.attn.qkv.bias"),
        *_both(f"{theirs}.#.attn.out_proj", f"{ours}.#.attn.proj"),
        *_both(f"{theirs}.#.ln_2", f"{ours}.#.norm2"),
        *_both(f"{theirs}.#.mlp.c_fc", f"{ours}.#.mlp.fc1"),
        *_both(f"{theirs}.#.mlp.c_proj", f"{ours}.#.mlp.fc2"),
    ]


def _same_blocks(theirs: str, ours: str) -> list[Rule]:
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    return [rule for part in parts for rule in _both(f"{theirs}.#.{part}", f"{ours}.#.{part}")]


def _hf_blocks(theirs: str, ours: str) -> list[Rule]:
    return [
        *_both(f"{theirs}.#.layer_norm1", f"{ours}.#.norm1"),
        *_both(f"{theirs}.#.self_attn.qkv", f"{ours}.#.attn.qkv"),  # joined beforehand
        *_both(f"{theirs}.#.self_attn.out_proj", f"{ours}.#.attn.proj"),
        *_both(f"{theirs}.#.layer_norm2", f"{ours}.#.norm2"),
        *_both(f"{theirs}.#.mlp.fc1", f"{ours}.#.mlp.fc1"),
        *_both(f"{theirs}.#.mlp.fc2", f"{ours}.#.mlp.fc2"),
    ]


OPEN_CLIP_IMAGE: Sequence[Rule] = (
    Rule("visual.class_embedding", "image.trunk.cls_token", CLASS_TOKEN),
    Rule("visual.positional_embedding", "image.trunk.pos_embed", POSITIONS),
    Rule("visual.conv1.weight", "image.trunk.patch_embed.proj.weight"),
    *_both("visual.ln_pre", "image.trunk.norm_pre"),
    *_open_clip_blocks("visual.transformer.resblocks", "image.trunk.blocks"),
    *_both("visual.ln_post", "image.trunk.norm"),
    Rule("visual.proj", "image.projection.weight", TRANSPOSED),
)
TIMM_IMAGE: Sequence[Rule] = (
    Rule("visual.trunk.cls_token", "image.trunk.cls_token"),
    Rule("visual.trunk.pos_embed", "image.trunk.pos_embed"),
    *_both("visual.trunk.patch_embed.proj", "image.trunk.patch_embed.proj"),
    *_both("visual.trunk.norm_pre", "image.trunk.norm_pre"),
    *_same_blocks("visual.trunk.blocks", "image.trunk.blocks"),
    *_both("visual.trunk.norm", "image.trunk.norm"),
    *_both("visual.trunk.fc_norm", "image.norm"),
    Rule("visual.trunk.attn_pool.query", "image.attn_pool.query"),  # joined beforehand
    *_both("visual.trunk.attn_pool.kv", "image.attn_pool.kv"),
    *_both("visual.trunk.attn_pool.proj", "image.attn_pool.proj"),
    *_both("visual.trunk.attn_pool.norm", "image.attn_pool.norm"),
    *_both("visual.trunk.attn_pool.mlp.fc1", "image.attn_pool.mlp.fc1"),
    *_both("visual.trunk.attn_pool.mlp.fc2", "image.attn_pool.mlp.fc2"),
    *_both("visual.trunk.head", "image.projection"),
    *_both("visual.head.proj", "image.projection"),  # ours becomes this one
)
OPEN_CLIP_POOLED_NORM: Sequence[Rule] = (*_both("visual.ln_post", "image.norm"),)
"""Of towers whose last norm comes after the pooling."""
OPEN_CLIP_TEXT: Sequence[Rule] = (
    Rule("token_embedding.weight", "text.token_embedding.weight"),
    Rule("positional_embedding", "text.pos_embed"),
    *_open_clip_blocks("transformer.resblocks", "text.blocks"),
    *_both("ln_final", "text.norm"),
    Rule("text_projection", "text.projection.weight", TRANSPOSED),
    Rule("text_projection.bias", "text.projection.bias"),
    Rule("logit_scale", "logit_scale", SCALAR),
    Rule("logit_bias", "logit_bias", SCALAR),
)
HUGGING_FACE: Sequence[Rule] = (
    Rule("vision_model.embeddings.class_embedding", "image.trunk.cls_token", CLASS_TOKEN),
    Rule("vision_model.embeddings.position_embedding.weight", "image.trunk.pos_embed", POSITIONS),
    Rule("vision_model.embeddings.patch_embedding.weight", "image.trunk.patch_embed.proj.weight"),
    *_both("vision_model.pre_layrnorm", "image.trunk.norm_pre"),
    *_hf_blocks("vision_model.encoder.layers", "image.trunk.blocks"),
    *_both("vision_model.post_layernorm", "image.trunk.norm"),
    Rule("visual_projection.weight", "image.projection.weight"),
    Rule("text_model.embeddings.token_embedding.weight", "text.token_embedding.weight"),
    Rule("text_model.embeddings.position_embedding.weight", "text.pos_embed"),
    *_hf_blocks("text_model.encoder.layers", "text.blocks"),
    *_both("text_model.final_layer_norm", "text.norm"),
    Rule("text_projection.weight", "text.projection.weight"),
    Rule("logit_scale", "logit_scale", SCALAR),
)

VECTOR = Change(lambda t: t.reshape(()), lambda t: t.reshape(1))
SIGLIP: Sequence[Rule] = (
    *_both("vision_model.embeddings.patch_embedding", "image.trunk.patch_embed.proj"),
    Rule("vision_model.embeddings.position_embedding.weight", "image.trunk.pos_embed", POSITIONS),
    *_hf_blocks("vision_model.encoder.layers", "image.trunk.blocks"),
    *_both("vision_model.post_layernorm", "image.trunk.norm"),
    Rule("vision_model.head.query", "image.attn_pool.query"),  # joined beforehand, as is kv
    *_both("vision_model.head.kv", "image.attn_pool.kv"),
    *_both("vision_model.head.attention.out_proj", "image.attn_pool.proj"),
    *_both("vision_model.head.layernorm", "image.attn_pool.norm"),
    *_both("vision_model.head.mlp.fc1", "image.attn_pool.mlp.fc1"),
    *_both("vision_model.head.mlp.fc2", "image.attn_pool.mlp.fc2"),
    Rule("text_model.embeddings.token_embedding.weight", "text.token_embedding.weight"),
    Rule("text_model.embeddings.position_embedding.weight", "text.pos_embed"),
    *_hf_blocks("text_model.encoder.layers", "text.blocks"),
    *_both("text_model.final_layer_norm", "text.norm"),
    *_both("text_model.head", "text.projection"),
    Rule("logit_scale", "logit_scale", VECTOR),
    Rule("logit_bias", "logit_bias", VECTOR),
)

POOL = "visual.trunk.attn_pool"
"""timm's pooling by attention."""

HEAD = "vision_model.head"
"""Hugging Face's pooling by attention."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_HF_PART = re.compile(r"(.*\.self_attn\.)([qkv])_proj\.(weight|bias)")


def to_ours(weights: Mapping[str, Tensor], layout: Sequence[Rule], where: str) -> dict[str, Tensor]:
    """Weights under our names.

    Raises:
        ValueError: If a weight is none of the layout's.
    """
    rules = {rule.theirs: rule for rule in layout}
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        rule, number = _find(rules, name)
        if rule is None:
            raise ValueError(
                f"{where}: holds {name!r}, which the model named has no place for. Is it that "
                "model's file?"
            )
        renamed[rule.ours.replace("#", number)] = rule.change.to_ours(value)
    return renamed


def to_theirs(weights: Mapping[str, Tensor], layout: Sequence[Rule]) -> dict[str, Tensor]:
    """Our weights under a layout's names; those it has no name for are left out."""
    rules = {rule.ours: rule for rule in layout}
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        rule, number = _find(rules, name)
        if rule is not None:
            renamed[rule.theirs.replace("#", number)] = rule.change.to_theirs(value).contiguous()
    return renamed


def join_attention(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's query, key and value as one weight each, as everybody else stores them."""
    parts: dict[str, dict[str, Tensor]] = {}
    joined: dict[str, Tensor] = {}
    for name, value in weights.items():
        match = _HF_PART.fullmatch(name)
        if match:
            parts.setdefault(f"{match[1]}qkv.{match[3]}", {})[match[2]] = value
        else:
            joined[name] = value
    return joined | {name: torch.cat([p[k] for k in "qkv" if k in p]) for name, p in parts.items()}


def split_attention(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of ``join_attention``."""
    split: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".self_attn.qkv." in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                split[name.replace(".qkv.", f".{letter}_proj.")] = part.contiguous()
        else:
            split[name] = value
    return split


def join_biases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EVA's biases of query and value as one of all three: its keys have none, which is 0."""
    joined = dict(weights)
    for name in weights:
        value = f"{name.removesuffix('q_bias')}v_bias"
        if name.endswith(".attn.q_bias") and value in weights:
            query = joined.pop(name)
            parts = [query, torch.zeros_like(query), joined.pop(value)]
            joined[f"{name.removesuffix('q_bias')}qkv.bias"] = torch.cat(parts)
    return joined


def join_query(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Timm's latent vector, times the matrix that makes the query of it, as the query.

    No input changes it, so the function is the same.
    """
    joined = dict(weights)
    parts = [f"{POOL}.latent", f"{POOL}.q.weight", f"{POOL}.q.bias"]
    if all(part in weights for part in parts):
        latent, matrix, bias = (joined.pop(part).double() for part in parts)
        joined[f"{POOL}.query"] = matrix @ latent.flatten() + bias
    return joined


def split_query(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse: a latent vector of length one, and a matrix that makes the query of it."""
    split = dict(weights)
    if f"{POOL}.query" in weights:
        query = split.pop(f"{POOL}.query")
        width = weights[f"{POOL}.kv.weight"].shape[1]
        latent = torch.full((width,), width**-0.5, dtype=query.dtype)
        split[f"{POOL}.latent"] = latent[None, None]
        split[f"{POOL}.q.weight"] = torch.outer(query, latent)
        split[f"{POOL}.q.bias"] = torch.zeros_like(query)
    return split


def join_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SigLIP's head of Hugging Face: its probe as the query, and key and value on their own."""
    joined = dict(weights)
    parts = [f"{HEAD}.probe", f"{HEAD}.attention.in_proj_weight", f"{HEAD}.attention.in_proj_bias"]
    if all(part in weights for part in parts):
        probe, matrix, bias = (joined.pop(part).double() for part in parts)
        width = matrix.shape[1]
        joined[f"{HEAD}.query"] = matrix[:width] @ probe.flatten() + bias[:width]
        joined[f"{HEAD}.kv.weight"], joined[f"{HEAD}.kv.bias"] = matrix[width:], bias[width:]
    return joined


def split_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of ``join_head``, with a probe of length one."""
    split = dict(weights)
    query, matrix, bias = (
        split.pop(f"{HEAD}.{part}") for part in ("query", "kv.weight", "kv.bias")
    )
    width = matrix.shape[1]
    probe = torch.full((width,), width**-0.5, dtype=query.dtype)
    split[f"{HEAD}.probe"] = probe[None, None]
    split[f"{HEAD}.attention.in_proj_weight"] = torch.cat([torch.outer(query, probe), matrix])
    split[f"{HEAD}.attention.in_proj_bias"] = torch.cat([torch.zeros_like(query), bias])
    return split


def patches_as_pixels(weight: Tensor, patch_size: int) -> Tensor:
    """A matrix that reads a patch's pixels row by row, channels last, as a convolution's."""
    return weight.reshape(-1, patch_size, patch_size, 3).permute(0, 3, 1, 2)


def pixels_as_patches(weight: Tensor) -> Tensor:
    """The reverse of ``patches_as_pixels``."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _find(rules: Mapping[str, Rule], name: str) -> tuple[Rule | None, str]:
    if name in rules:
        return rules[name], ""
    number = _NUMBER.search(name)
    if number is None:
        return None, ""
    pattern = f"{name[: number.start()]}#{name[number.end() :]}"
    return rules.get(pattern), number[0]
