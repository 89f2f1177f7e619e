"""Hugging Face's ``SiglipModel`` and ``Siglip2Model``: in, grown, and out again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from nas_growclip.growth.inherit import inherit
from nas_growclip.interop.exporting import export_hugging_face, export_siglip2
from nas_growclip.interop.importing import checkpoint_arch, open_checkpoint
from nas_growclip.models.clip import Clip
from tests.interop.test_open_clip import imported
from tests.support.models import inputs, largest_difference

TOWER = {
    "hidden_size": 64,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TEXT = TOWER | {"vocab_size": 300, "max_position_embeddings": 12, "hidden_act": "gelu"}
VISION = {
    "siglip": TOWER | {"image_size": 36, "patch_size": 16},
    "siglip2": TOWER | {"num_patches": 4, "patch_size": 16},
}
CLASSES = {"siglip": (SiglipConfig, SiglipModel), "siglip2": (Siglip2Config, Siglip2Model)}
EXPORTS = {"siglip": export_hugging_face, "siglip2": export_siglip2}


class Stock:
    """Hugging Face's model under OpenCLIP's method names."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        given = {"pixel_values": images}
        if isinstance(self.model, Siglip2Model):
            grid = torch.tensor([[images.shape[2] // 16, images.shape[3] // 16]])
            patches = torch.stack([convert_image_to_patches(image, 16) for image in images])
            mask = torch.ones(patches.shape[:2], dtype=torch.int32)
            given = {
                "pixel_values": patches,
                "pixel_attention_mask": mask,
                "spatial_shapes": grid.expand(len(images), 2),
            }
        output: torch.Tensor = self.model.get_image_features(**given).pooler_output
        return output

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model.get_text_features(input_ids=tokens).pooler_output
        return output


def published(folder: Path, kind: str) -> Stock:
    """A folder with every weight drawn at random, and its model."""
    config, model_class = CLASSES[kind]
    model = model_class(config(text_config=TEXT, vision_config=VISION[kind]))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            is_scale = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if is_scale else 0.1 * noise)
    model.save_pretrained(folder)
    return Stock(model)


@pytest.mark.parametrize("kind", CLASSES)
def test_embeddings_are_transformers_own_in_and_out(tmp_path: Path, kind: str) -> None:
    stock = published(tmp_path / "hub", kind)
    model = open_checkpoint(tmp_path / "hub")
    assert (model.arch.image.activation, model.arch.text.activation) == ("gelu_tanh", "gelu")
    assert checkpoint_arch(tmp_path / "hub") == model.arch
    images, tokens = inputs(model)
    assert largest_difference(model, stock, images, tokens) < 1e-5
    ours, theirs = ([m.logit_scale.item(), m.logit_bias.item()] for m in (model, stock.model))
    assert ours == pytest.approx(theirs)
    sizes = {"image.depth": 3, "image.mlp_width": 130, "text.width": 80, "text.mlp_width": 111}
    child = inherit(model, model.arch.with_sizes(sizes)).eval()
    EXPORTS[kind](child, tmp_path / "out")
    loaded = Stock(CLASSES[kind][1].from_pretrained(tmp_path / "out"))
    assert largest_difference(loaded, child, images, tokens) < 1e-5
    assert largest_difference(loaded, stock, images, tokens) < 1e-4
    again = open_checkpoint(tmp_path / "out")
    assert largest_difference(again, child, images, tokens) < 1e-5


def test_open_clips_siglip_goes_out_to_hugging_face(tmp_path: Path) -> None:
    model, stock = imported(tmp_path, "timm_siglip2")
    arch = model.arch.to_dict()
    arch["image"]["preprocessing"] = {"resize_mode": "squash", "interpolation": "bilinear"}
    squashed = Clip(type(model.arch).from_dict(arch))
    squashed.load_state_dict(model.state_dict())
    export_hugging_face(squashed, tmp_path / "out")
    loaded = Stock(SiglipModel.from_pretrained(tmp_path / "out"))
    assert largest_difference(loaded, stock, *inputs(model)) < 1e-5
    assert checkpoint_arch(tmp_path / "out").image == squashed.arch.image


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision_config", {"vision_use_head": False}, "vision_use_head=False cannot"),
        ("vision_config", {"hidden_act": "relu"}, "hidden_act='relu' cannot"),
        ("vision_config", {"hidden_size": 32}, "hidden_size and the text's projection_size must"),
        ("vision_config", {"num_channels": 1}, "num_channels=1 cannot"),
        ("text_config", {"hidden_act": "gelu_new"}, "hidden_act='gelu_new' cannot"),
    ],
)
def test_what_cannot_be_represented_is_named(
    tmp_path: Path, part: str, change: dict[str, Any], message: str
) -> None:
    published(tmp_path, "siglip")
    config = json.loads((tmp_path / "config.json").read_text())
    config[part] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path)


def test_what_siglip_model_lacks_is_named(tmp_path: Path) -> None:
    model, _ = imported(tmp_path, "timm_siglip2")
    with pytest.raises(ValueError, match="squashes images, but this model's preprocessing has"):
        export_hugging_face(model, tmp_path / "out")
    wider = Clip(model.arch.with_size("image.width", 80))
    with pytest.raises(ValueError, match=r"has image\.width 64 only, but this model has 80"):
        export_hugging_face(wider, tmp_path / "out")
    clip, _ = imported(tmp_path, "b32")
    with pytest.raises(ValueError, match=r"has image\.pooling 'attention' only"):
        export_siglip2(clip, tmp_path / "out")
    assert not (tmp_path / "out").exists()
