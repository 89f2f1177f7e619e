"""OpenCLIP models in and out: the same embeddings, before and after growing."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from nas_growclip.data.encoding import PairBatch
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.interop.exporting import export_open_clip
from nas_growclip.interop.importing import checkpoint_arch, import_model, open_checkpoint
from nas_growclip.models.clip import Clip
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, start_training
from tests.support.models import (
    CONFIGS,
    embeddings,
    inputs,
    largest_difference,
    stock_model,
    write_config,
)


def imported(tmp_path: Path, name: str, **changes: Any) -> tuple[Clip, Any]:
    """Our model of a stock one's saved weights, and the stock one."""
    config = write_config(tmp_path, name, **changes)
    stock = stock_model(config)
    save_file(stock.state_dict(), tmp_path / "weights.safetensors")
    return import_model(str(config), str(tmp_path / "weights.safetensors")), stock


class Pair(NamedTuple):
    """A stock model and ours of its weights, which no test changes."""

    name: str
    model: Clip
    stock: Any


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, *imported(tmp_path_factory.mktemp("pair"), request.param))


def test_imported_embeddings_are_open_clips_own(pair: Pair) -> None:
    _, model, stock = pair
    assert largest_difference(model, stock, *inputs(model)) < 1e-5
    theirs = (stock.logit_scale.exp(), *([] if stock.logit_bias is None else [stock.logit_bias]))
    assert torch.stack(model.scale_and_bias()).tolist() == pytest.approx(
        torch.stack(theirs).tolist()
    )


def check_tokenizer(model: Clip, folder: Path) -> None:
    texts = ["a photo of a cat", "Grüße"]
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert torch.equal(tokenizer(texts), model.tokenize(texts))


def test_exported_again_stock_open_clip_loads_it(tmp_path: Path, pair: Pair) -> None:
    name, model, stock = pair
    if name == "timm":
        assert model.arch.image.norm_eps == 1e-6
    export_open_clip(model, tmp_path / "out")
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    assert largest_difference(loaded, stock, *inputs(model)) < 1e-5
    if model.arch.text.tokenizer is None:
        check_tokenizer(model, tmp_path / "out")
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
    "clipa": {"image.width": 80, "image.depth": 3, "text.width": 96, "image.heads": 5},
    "metaclip2": {"image.mlp_width": 300, "text.width": 80, "text.vocab_size": 310},
    "timm_siglip": {"image.mlp_width": 300, "image.depth": 3, "text.width": 80},
    "timm_siglip2": {"image.width": 80, "embed_dim": 80, "text.depth": 3, "text.mlp_width": 301},
    "timm_average": {"image.width": 96, "text.mlp_width": 300},
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
    (a, b), (c, d) = (embeddings(model, images, tokens) for model in (loaded, stock))
    assert float((a @ b.T - c @ d.T).abs().max()) < 1e-4


KINDS = ["clipa", "metaclip2", "timm_siglip2"]


@pytest.mark.parametrize("name", KINDS)
def test_imported_grown_trained_and_exported_stock_open_clip_loads_it(
    tmp_path: Path, name: str
) -> None:
    parent, _ = imported(tmp_path, name)
    sizes = {"image.mlp_width": 300, "text.depth": 3, "text.width": 80}
    config = TrainConfig(batch_size=4, warmup_steps=0)
    state = start_training(inherit(parent, parent.arch.with_sizes(sizes)), config)
    before = {n: p.detach().clone() for n, p in state.model.named_parameters()}
    images, tokens = inputs(parent)
    batches = itertools.repeat(PairBatch(images, tokens, ("", "a", "b", "c")))
    trained = train(state, batches, config, total_steps=9, until_step=3).model.eval()
    assert all(not torch.equal(p, before[n]) for n, p in trained.named_parameters())
    export_open_clip(trained, tmp_path / "out")
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    assert largest_difference(loaded, trained, images, tokens) < 1e-5
    assert largest_difference(open_checkpoint(tmp_path / "out"), trained, images, tokens) < 1e-5


def test_an_exported_image_tower_moves_with_its_folder(tmp_path: Path) -> None:
    """OpenCLIP follows the place of the export; we look beside the configuration."""
    parent, _ = imported(tmp_path, "timm_siglip2")
    child = inherit(parent, parent.arch.with_size("image.depth", 3)).eval()
    export_open_clip(child, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "moved")
    again = open_checkpoint(tmp_path / "moved")
    assert largest_difference(again, child, *inputs(child)) < 1e-5
    config = tmp_path / "moved" / "image_tower" / "config.json"
    config.write_text(config.read_text().replace('"depth"', '"block_fn"'))
    with pytest.raises(ValueError, match="must be an image tower as `growclip export` writes it"):
        open_checkpoint(tmp_path / "moved")


def test_weights_beyond_what_the_configuration_has_are_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, "timm_siglip")
    weights = dict(stock_model(config).state_dict())
    weights["text.text_projection"] = torch.eye(64)
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"holds .text\.projection\.weight., which the"):
        import_model(str(config), str(tmp_path / "weights.safetensors"))


def test_towers_that_no_other_tool_has_are_named(tmp_path: Path) -> None:
    parent, _ = imported(tmp_path, "timm_siglip2")
    wider = inherit(parent, parent.arch.with_size("image.width", 80))
    with pytest.raises(ValueError, match=r"image\.width is 80 and embed_dim is 64\. Grow them"):
        export_open_clip(wider, tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    "qk_norm": ({"vision_cfg": {"qk_norm": True}}, "qk_norm=True"),
    "hf_text": ({"text_cfg": {"hf_model_name": "roberta-base"}}, r"text tower \(roberta-base\)"),
    "no_projection": (
        {"text_cfg": {"proj_type": "none"}},
        "proj_type='none' cannot be represented",
    ),
    "no_pool": ({"text_cfg": {"pool_type": "none"}}, "pool_type='none'"),
    "no_image_pool": ({"vision_cfg": {"pool_type": "none"}}, "pool_type='none'"),
    "highest_token": (
        {"text_cfg": {"hf_tokenizer_name": "t5-base", "vocab_size": 32000}},
        "pool_type='argmax'",
    ),
    "positions": ({"vision_cfg": {"pos_embed_type": "rope"}}, "pos_embed_type='rope'"),
    "activation": ({"text_cfg": {"act_kwargs": {"approximate": "none"}}}, "act_kwargs="),
    "end_token": ({"text_cfg": {"pool_type": "eos", "eos_id": 50000}}, "end_token: must be in"),
    "language": (
        {
            "text_cfg": {
                "hf_tokenizer_name": "t5-base",
                "pool_type": "last",
                "tokenizer_kwargs": {"language": "eng"},
            }
        },
        "tokenizer_kwargs: language: unknown key",
    ),
    "tokenizer_mode": ({"text_cfg": {"tokenizer_mode": "clips"}}, "tokenizer_mode='clips'"),
    "vocab": ({"text_cfg": {"vocab_size": 32000}}, "vocab_size=32000"),
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
    "timm_folder": (
        {"vision_cfg": {"timm_model_name": "local-dir:/somewhere/model"}},
        r"timm cannot make 'local-dir:/somewhere/model': it must be one of",
    ),
    "timm_map_and_linear": (
        {
            "vision_cfg": {
                "timm_model_name": "vit_cut_patch16_siglip_32",
                "timm_pool": "map",
                "timm_proj": "linear",
            }
        },
        "pools by attention and is projected to 48 then",
    ),
    "timm_rope": (
        {
            "vision_cfg": {
                "timm_model_name": "eva02_tiny_patch14_224",
                "timm_pool": "token",
                "timm_proj": "linear",
            }
        },
        "is a Eva, which cannot be represented",
    ),
    "timm_mlp": (
        {"vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "mlp"}},
        "is projected by mlp, which cannot be represented",
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
    [
        "RN50",
        "nllb-clip-base-siglip",
        "coca_ViT-B-32",
        "roberta-ViT-B-32",
        "EVA02-B-16",
        "convnext_base",
    ],
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
