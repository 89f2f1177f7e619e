"""FLOPs by fvcore: one multiply-add is one, for the forward pass of one image-text pair.

fvcore has no rule for fused attention and silently skips what it does not know; here attention
has a rule, elementwise operators count as nothing by fvcore's own convention, and any other
operator without a rule is an error.
"""

import functools
import warnings
from collections.abc import Hashable, Mapping
from math import prod
from typing import Any

import torch
from torch.jit._trace import TracerWarning

from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import empty_model

with warnings.catch_warnings():
    # fvcore compiles one loss with torch.jit when it is imported, which torch deprecates.
    warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape

ENCODERS = ("image", "text", "shared")


def scaled_dot_product_attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Query times key, and weights times value; masked and causal attention count in full."""
    query, key, value = (get_shape(item) for item in inputs[:3])
    per_key = query[-1] + value[-1]
    return int(prod(query[:-1]) * key[-2] * per_key)


HANDLES = {"aten::scaled_dot_product_attention": scaled_dot_product_attention}
"""Rules that fvcore lacks."""

UNCOUNTED = frozenset(
    f"aten::{name}"
    for name in [
        "add",
        "add_",
        "sub",
        "mul",
        "mul_",
        "div",
        "exp",
        "gelu",
        "sigmoid",
        "softmax",
        "argmax",
        "mean",
        "norm",
        "linalg_vector_norm",
        "clamp_min",
        "expand_as",
        "embedding",
        "arange",
    ]
)
"""Elementwise operators, reductions and look-ups: nothing, as fvcore has it."""


def count_flops(arch: ClipArch) -> int:
    """Fvcore FLOPs (one multiply-add is one) of one image-text pair, forward.

    Attention, the shared encoder (which runs once for each modality) and norms are included.

    Raises:
        ValueError: If the model holds an operator without a FLOP rule.
    """
    return sum(flops_by_encoder(arch).values())


def flops_by_encoder(arch: ClipArch) -> Mapping[str, int]:
    """The same by encoder: ``image``, ``text`` and ``shared`` (both modalities together)."""
    keys = _encoder_keys(arch)
    if any(key not in _COUNTED for key in keys.values()):
        by_module = _traced(arch)
        _COUNTED.update({key: by_module[encoder] for encoder, key in keys.items()})
    return {encoder: _COUNTED[key] for encoder, key in keys.items()}


def count_params(arch: ClipArch) -> int:
    """Number of parameters, without allocating them."""
    return sum(params_by_encoder(arch).values())


@functools.lru_cache(maxsize=4096)
def params_by_encoder(arch: ClipArch) -> Mapping[str, int]:
    """The same by encoder; the temperature counts with the shared encoder."""
    model = empty_model(arch)
    counts = dict.fromkeys(ENCODERS, 0)
    for name, parameter in model.named_parameters():
        encoder = name.partition(".")[0]
        counts[encoder if encoder in counts else "shared"] += parameter.numel()
    return counts


_COUNTED: dict[Hashable, int] = {}
"""FLOPs of every encoder that was traced: a growth space combines few encoders in many ways."""


def _encoder_keys(arch: ClipArch) -> Mapping[str, Hashable]:
    """All that an encoder's FLOPs depend on, by encoder."""
    pools_first = arch.shared.depth == 0
    lengths = (arch.image.num_tokens, arch.text.context_length)
    return {
        "image": (arch.image, arch.embed_dim, pools_first),
        "text": (arch.text, arch.embed_dim, pools_first),
        "shared": (arch.shared, arch.shared_heads, arch.embed_dim, lengths),
    }


def _traced(arch: ClipArch) -> Mapping[str, int]:
    model = empty_model(arch).to_empty(device="cpu").eval()  # shapes are all that counts
    images = torch.zeros(1, 3, *arch.image.image_shape)
    tokens = torch.zeros(1, arch.text.context_length, dtype=torch.long)
    by_module = analyse(model, (images, tokens))
    return {encoder: int(by_module[encoder]) for encoder in ENCODERS}


def analyse(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Mapping[str, float]:
    """FLOPs of every submodule by name, ``""`` for the whole.

    Raises:
        ValueError: If an operator has no rule.
    """
    analysis = FlopCountAnalysis(model, inputs).set_op_handle(**HANDLES)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings(), torch.no_grad():
        # fvcore traces with torch.jit, which torch deprecates.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        by_module: Mapping[str, float] = analysis.by_module()
        unsupported = analysis.unsupported_ops()
    unknown = {name: calls for name, calls in unsupported.items() if name not in UNCOUNTED}
    for name, calls in unknown.items():
        raise ValueError(
            f"No FLOP rule for {name} ({calls} calls). Add one to HANDLES in models/flops.py."
        )
    return by_module
