"""Small OpenCLIP models with weights that no default hides: random norms, biases and scales."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from nas_growclip.growth.verify import probe
from nas_growclip.models.clip import Clip

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}

CLIPA = {
    "image_size": 32,
    "layers": 2,
    "width": 64,
    "patch_size": 16,
    "head_width": 16,
    "no_ln_pre": True,
    "pool_type": "avg",
    "final_ln_after_pool": True,
}

SIGLIP_TEXT = {
    "context_length": 12,
    "vocab_size": 300,
    "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "width": 64,
    "heads": 4,
    "layers": 2,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}


SIGLIP = {"class_token": False, "global_pool": "map"}

CUT_TOWERS: Mapping[str, dict[str, Any]] = {
    "vit_cut_patch16_siglip_32": SIGLIP | {"img_size": 32},
    "vit_cut_patch16_siglip2_32": SIGLIP | {"img_size": 32, "act_layer": "gelu_tanh"},
    "vit_cut_patch16_siglip_36": SIGLIP | {"img_size": 36},
    "vit_cut_patch16_clip_32": {"img_size": 32, "pre_norm": True, "act_layer": "quick_gelu"},
    "eva_cut_patch16_32": {"img_size": 32, "mlp_ratio": 3.5},
    "vit_cut_patch16_gap_32": {
        "img_size": 32,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
        "qkv_bias": False,
        "init_values": 0.1,
    },
}
"""Towers of timm's kinds with few and small blocks: SigLIP (also with pixels that make no patch)
and SigLIP 2, CLIP, EVA, and average pooling."""


def cut_tower(name: str) -> Any:
    """A function that makes the tower of a name, as those that timm registers."""

    def make(pretrained: bool = False, **options: Any) -> VisionTransformer | Eva:
        asked = {n: options[n] for n in ("num_classes", "global_pool") if n in options}
        sizes = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 4}
        kind = Eva if "eva" in name else VisionTransformer
        model = kind(**(sizes | CUT_TOWERS[name] | asked))
        model.default_cfg = {}
        return model

    make.__name__, make.__module__ = name, __name__
    return make


for _name in CUT_TOWERS:
    register_model(cut_tower(_name))


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
    "clipa": {
        "embed_dim": 48,
        "vision_cfg": CLIPA,
        "text_cfg": TEXT
        | {
            "context_length": 16,
            "vocab_size": 300,
            "hf_tokenizer_name": "bert-base-uncased",
            "tokenizer_kwargs": {"strip_sep_token": True},
            "pool_type": "last",
            "no_causal_mask": True,
        },
    },
    "average": {
        "embed_dim": 48,
        "vision_cfg": CLIPA | {"final_ln_after_pool": False, "pos_embed_type": "sin_cos_2d"},
        "text_cfg": TEXT | {"pool_type": "first", "act_kwargs": {"approximate": "tanh"}},
    },
    "metaclip2": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "patch_size": 16,
            "head_width": 16,
        },
        "text_cfg": TEXT
        | {
            "context_length": 20,
            "vocab_size": 300,
            "hf_tokenizer_name": "facebook/xlm-v-base",
            "pool_type": "eos",
            "eos_id": 2,
        },
    },
    "timm_siglip": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 36,
            "timm_model_name": "vit_cut_patch16_siglip_36",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": SIGLIP_TEXT | {"proj_type": "none"},
    },
    "timm_siglip2": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "vit_cut_patch16_siglip2_32",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": SIGLIP_TEXT | {"act_kwargs": {"approximate": "tanh"}, "proj_bias": True},
    },
    "timm_siglip_base": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "vit_cut_patch16_siglip_32",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": SIGLIP_TEXT,
    },
    "timm_eva": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "eva_cut_patch16_32",
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": None,
        },
        "text_cfg": TEXT,
    },
    "timm_gap": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "vit_cut_patch16_gap_32",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": TEXT,
    },
    "timm_average": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "timm_proj_bias": True,
        },
        "text_cfg": TEXT,
    },
    "timm_head": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "vit_cut_patch16_clip_32",
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": None,
        },
        "text_cfg": TEXT | {"no_causal_mask": True},
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
    if model.arch.text.tokenizer is not None:
        return images, probe(model.arch, seed, count)[1]
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
