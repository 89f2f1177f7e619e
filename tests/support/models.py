"""Small OpenCLIP models with weights that no default hides: random norms, biases and scales."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from nas_growclip.models.clip import Clip

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}

CONFIGS: Mapping[str, dict[str, Any]] = {
    "b32": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 64,
            "layers": 2,
            "width": 64,
            "patch_size": 32,
            "head_width": 16,
        },
        "text_cfg": TEXT,
    },
    "b16_quickgelu": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 64,
            "layers": 3,
            "width": 96,
            "patch_size": 16,
            "head_width": 32,
        },
        "text_cfg": TEXT | {"width": 96, "heads": 3},
    },
    "l14": {
        "embed_dim": 96,
        "vision_cfg": {
            "image_size": 42,
            "layers": 4,
            "width": 128,
            "patch_size": 14,
            "head_width": 64,
        },
        "text_cfg": TEXT | {"layers": 3},
    },
    "odd_sizes": {
        "embed_dim": 40,
        "vision_cfg": {
            "image_size": [32, 48],
            "layers": 1,
            "width": 48,
            "patch_size": 16,
            "head_width": 24,
            "mlp_ratio": 2.7,
            "ls_init_value": 0.1,
        },
        "text_cfg": TEXT | {"context_length": 19, "mlp_ratio": 3.3, "ls_init_value": 0.1},
    },
    "no_ln_pre": {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "patch_size": 8,
            "head_width": 16,
            "no_ln_pre": True,
            "norm_kwargs": {"eps": 1e-3},
        },
        "text_cfg": TEXT | {"norm_kwargs": {"eps": 1e-4}},
    },
    "custom_text": {
        "embed_dim": 48,
        "custom_text": True,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "patch_size": 16,
            "head_width": 16,
        },
        "text_cfg": TEXT,
    },
    "siglip": {
        "embed_dim": 32,
        "init_logit_scale": 2.3,
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 64,
            "patch_size": 16,
            "head_width": 16,
        },
        "text_cfg": TEXT | {"layers": 1},
    },
    "timm": {
        "embed_dim": 48,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": "linear",
            "image_size": 160,
        },
        "text_cfg": TEXT,
    },
    "timm_clip": {
        "embed_dim": 32,
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": TEXT | {"width": 32, "heads": 2, "layers": 1},
    },
}
"""Configurations, cut down, of everything that can be represented."""  # fmt: skip


def write_config(folder: Path, name: str, **changes: Any) -> Path:
    """A configuration as a JSON file."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(CONFIGS[name] | changes))
    return path


def stock_model(path: Path, seed: int = 0) -> nn.Module:
    """open_clip's own model of a JSON configuration, every weight drawn at random."""
    open_clip.add_model_config(path)
    model = open_clip.create_model(path.stem)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            is_scale = name.endswith(("weight", "gamma")) and parameter.ndim == 1
            if is_scale:
                parameter.copy_(1 + 0.3 * noise)
            elif name != "logit_scale":
                parameter.add_(0.05 * noise)
    return model.eval()


def inputs(model: Clip, count: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images like normalised ones, and tokens of real texts."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *model.arch.image.image_shape, generator=rng)
    texts = ["a photo of a cat", "", "two red circles above a blue square", "x" * 300]
    return images, model.tokenize(texts[:count])


@torch.no_grad()
def embeddings(model: Any, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Unit-length embeddings of either library's model."""
    pair = model.encode_image(images), model.encode_text(tokens)
    return tuple(e / e.norm(dim=-1, keepdim=True) for e in pair)  # type: ignore[return-value]


def largest_difference(first: Any, second: Any, images: Tensor, tokens: Tensor) -> float:
    """Largest difference of any entry of two models' embeddings."""
    pairs = zip(embeddings(first, images, tokens), embeddings(second, images, tokens), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)
