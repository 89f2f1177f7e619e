"""OpenCLIP models in and out: the same embeddings, before and after growing."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.interop.exporting import export_open_clip
from nas_growclip.interop.importing import checkpoint_arch, import_model, open_checkpoint
from nas_growclip.models.clip import Clip
from tests.support.models import (
    CONFIGS,
    inputs,
    largest_difference,
    stock_model,
    write_config,
)

NATIVE = [name for name in CONFIGS if not name.startswith("timm")]


def imported(tmp_path: Path, name: str, **changes: Any) -> tuple[Clip, Any]:
    """Our model of a stock one's saved weights, and the stock one."""
    config = write_config(tmp_path, name, **changes)
    stock = stock_model(config)
    save_file(stock.state_dict(), tmp_path / "weights.safetensors")
    return import_model(str(config), str(tmp_path / "weights.safetensors")), stock


@pytest.mark.parametrize("name", CONFIGS)
def test_imported_embeddings_are_open_clips_own(tmp_path: Path, name: str) -> None:
    model, stock = imported(tmp_path, name)
    assert largest_difference(model, stock, *inputs(model)) < 1e-5
    theirs = (stock.logit_scale.exp(), *([] if stock.logit_bias is None else [stock.logit_bias]))
    assert torch.stack(model.scale_and_bias()).tolist() == pytest.approx(
        torch.stack(theirs).tolist()
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_exported_again_stock_open_clip_loads_it(tmp_path: Path, name: str) -> None:
    model, stock = imported(tmp_path, name)
    if name == "timm":
        assert model.arch.image.norm_eps == 1e-6
    export_open_clip(model, tmp_path / "out")
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    assert largest_difference(loaded, stock, *inputs(model)) < 1e-5
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    texts = ["a photo of a cat", "Grüße"]
    assert torch.equal(tokenizer(texts), model.tokenize(texts))
    again = open_checkpoint(tmp_path / "out")
    assert largest_difference(again, stock, *inputs(model)) < 1e-5
    assert checkpoint_arch(tmp_path / "out") == again.arch


GROWTHS: dict[str, dict[str, int]] = {
    "b32": {"image.width": 128, "image.depth": 4, "text.width": 128, "text.mlp_width": 300},
    "b16_quickgelu": {"image.depth": 5, "image.mlp_width": 500, "text.depth": 3},
    "l14": {"image.width": 256, "image.mlp_width": 777, "text.width": 80},
    "odd_sizes": {"image.width": 96, "text.width": 128, "text.depth": 4, "text.mlp_width": 301},
    "no_ln_pre": {"image.width": 80, "image.depth": 3, "text.width": 96},
    "custom_text": {"image.width": 128, "image.mlp_width": 640, "text.width": 112},
}


@pytest.mark.parametrize("name", GROWTHS)
def test_grown_exactly_and_exported_it_is_still_the_stock_model(tmp_path: Path, name: str) -> None:
    """Widths at integer ratios where there is a norm_pre, at any where there is none."""
    parent, stock = imported(tmp_path, name)
    child = inherit(parent, parent.arch.with_sizes(GROWTHS[name]), seed=1).eval()
    export_open_clip(child, tmp_path / "out")
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    images, tokens = inputs(parent)
    assert sum(p.numel() for p in loaded.parameters()) > 1.05 * parent.num_params
    assert largest_difference(loaded, stock, images, tokens) < 1e-4


def test_a_width_between_is_refused_with_norm_pre_unless_approximate(tmp_path: Path) -> None:
    parent, stock = imported(tmp_path, "b32")
    child_arch = parent.arch.with_size("image.width", 96)
    with pytest.raises(ValueError, match="norm_pre"):
        inherit(parent, child_arch)
    child = inherit(parent, child_arch, GrowthConfig(norm_pre="approximate")).eval()
    assert largest_difference(child, stock, *inputs(parent)) > 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module"])
def test_checkpoints_as_trainers_write_them(tmp_path: Path, dtype: torch.dtype, wrap: str) -> None:
    config = write_config(tmp_path, "b32")
    stock = stock_model(config).to(dtype)
    weights: Any = dict(stock.state_dict())
    if wrap == "module":
        weights = {f"module.{name}": value for name, value in weights.items()}
    if wrap != "plain":
        weights = {"epoch": 3, "name": "run", "state_dict": weights}
    torch.save(weights, tmp_path / "epoch_3.pt")
    model = import_model(str(config), str(tmp_path / "epoch_3.pt"))
    assert next(model.parameters()).dtype == torch.float32
    assert largest_difference(model, stock.float(), *inputs(model)) < 1e-5


def test_openai_state_dict(tmp_path: Path) -> None:
    """OpenAI's files hold three numbers beside the weights."""
    config = write_config(tmp_path, "b16_quickgelu")
    stock = stock_model(config)
    extra = {"input_resolution": torch.tensor(64), "context_length": torch.tensor(77)}
    torch.save(
        {**stock.state_dict(), **extra, "vocab_size": torch.tensor(49408)}, tmp_path / "w.pt"
    )
    model = import_model(str(config), str(tmp_path / "w.pt"))
    assert largest_difference(model, stock, *inputs(model)) < 1e-5


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "resnet": ({"vision_cfg": {"layers": [3, 4, 6, 3], "width": 64, "patch_size": None}}, "ResNet"),
    "attention_pool": ({"vision_cfg": {"attentional_pool": True}}, "attentional_pool=True"),
    "average_pool": ({"vision_cfg": {"pool_type": "avg"}}, "pool_type='avg'"),
    "sincos": ({"vision_cfg": {"pos_embed_type": "sin_cos_2d"}}, "pos_embed_type='sin_cos_2d'"),
    "qk_norm": ({"vision_cfg": {"qk_norm": True}}, "qk_norm=True"),
    "hf_text": ({"text_cfg": {"hf_model_name": "roberta-base"}}, r"text tower \(roberta-base\)"),
    "hf_tokenizer": ({"text_cfg": {"hf_tokenizer_name": "t5-base"}}, "hf_tokenizer_name='t5-base'"),
    "vocab": ({"text_cfg": {"vocab_size": 32000}}, "vocab_size=32000"),
    "no_mask": ({"text_cfg": {"no_causal_mask": True}}, "no_causal_mask=True"),
    "last_pool": ({"text_cfg": {"pool_type": "last"}}, "pool_type='last'"),
    "coca": ({"multimodal_cfg": {"layers": 2}}, "multimodal_cfg="),
    "timm_conv": (
        {
            "vision_cfg": {
                "timm_model_name": "resnet18",
                "timm_pool": "token",
                "timm_proj": "linear",
            }
        },
        "is a ResNet",
    ),
    "timm_gap": (
        {"vision_cfg": {"timm_model_name": "test_vit", "timm_proj": "linear", "timm_pool": "avg"}},
        "timm_pool='avg'",
    ),
    "timm_reg": (
        {
            "vision_cfg": {
                "timm_model_name": "vit_small_patch14_reg4_dinov2",
                "timm_pool": "token",
                "timm_proj": "linear",
            }
        },
        "register tokens",
    ),
    "timm_hybrid": (
        {
            "vision_cfg": {
                "timm_model_name": "vit_small_r26_s32_224",
                "timm_pool": "token",
                "timm_proj": "linear",
            }
        },
        "is a hybrid: its patches come from a HybridEmbed",
    ),
    "timm_hub": (
        {
            "vision_cfg": {
                "timm_model_name": "hf-hub:someone/model",
                "timm_pool": "token",
                "timm_proj": "linear",
            }
        },
        r"timm cannot make 'hf-hub:someone/model': it must be one of timm\.list_models\(\)",
    ),
    "unknown_timm": (
        {"vision_cfg": {"timm_model_name": "no_such", "timm_pool": "token", "timm_proj": "linear"}},
        "no_such",
    ),
    "unknown_key": ({"text_cfg": {"colour": 1}}, "does not take this config"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_represented_is_named(tmp_path: Path, name: str) -> None:
    changes, message = REFUSED[name]
    merged = {
        key: (
            CONFIGS["b32"][key] | value
            if isinstance(value, dict) and key in CONFIGS["b32"]
            else value
        )
        for key, value in changes.items()
    }
    config = write_config(tmp_path, "b32", **merged)
    with pytest.raises(ValueError, match=message):
        import_model(str(config), "weights.safetensors")


@pytest.mark.parametrize(
    "name",
    ["RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32", "roberta-ViT-B-32", "EVA02-B-16", "convnext_base"],
)
def test_open_clips_own_models_that_cannot(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be represented"):
        import_model(name, "weights.safetensors")


def test_unknown_names_are_told_with_close_ones() -> None:
    with pytest.raises(ValueError, match=r"is neither\. Did you mean 'ViT-B-32'"):
        import_model("ViT-B-23", "weights.safetensors")
    with pytest.raises(
        ValueError, match="'no_such_tag' must be a weights file or a pretrained tag"
    ):
        import_model("ViT-B-32", "no_such_tag")
