"""Hugging Face's configurations: read as transformers reads them, or refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from nas_growclip.data.preprocess import preprocess
from nas_growclip.interop.exporting import export_hugging_face
from nas_growclip.interop.importing import import_with_provenance, open_checkpoint
from nas_growclip.interop.sources import read_config
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.preprocessing import Preprocessing
from tests.interop.test_open_clip import imported
from tests.support.models import inputs, largest_difference

TEXT = {"hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 2}
VISION = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1, "image_size": 64}


def write_hf(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    whole = {"model_type": "clip", "text_config": TEXT, "vision_config": VISION} | config
    (folder / "config.json").write_text(json.dumps(whole))
    return folder


LEGACY: dict[str, dict[str, Any]] = {
    "plain": {},
    "dict_wins": {"text_config_dict": {"num_hidden_layers": 3, "hidden_act": "gelu"}},
    "vision_dict": {"vision_config_dict": {"patch_size": 16}},
    "empty_dict": {"text_config_dict": {}},
    "no_dict": {"text_config_dict": None, "vision_config_dict": None},
    "old_end": {"text_config": TEXT | {"eos_token_id": 2}},
}


@pytest.mark.parametrize("name", LEGACY)
def test_older_configs_are_read_as_transformers_reads_them(tmp_path: Path, name: str) -> None:
    folder = write_hf(tmp_path, **LEGACY[name])
    theirs = CLIPConfig.from_pretrained(folder)
    arch = read_config(str(folder)).arch
    for ours, part in ((arch.image, theirs.vision_config), (arch.text, theirs.text_config)):
        assert ours.depth == part.num_hidden_layers
        assert ours.width == part.hidden_size
        assert ours.mlp_width == part.intermediate_size
        assert ours.num_heads == part.num_attention_heads
        assert ours.activation == part.hidden_act
    assert arch.image.patch_size == theirs.vision_config.patch_size
    assert arch.image.image_size == theirs.vision_config.image_size
    assert arch.embed_dim == theirs.projection_dim


@pytest.mark.parametrize("end", [2, 49407])
def test_texts_are_pooled_where_transformers_pools_them(tmp_path: Path, end: int) -> None:
    model, _ = imported(tmp_path, "b32")
    export_hugging_face(model, tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["eos_token_id"] = end
    path.write_text(json.dumps(config))
    stock = CLIPModel.from_pretrained(tmp_path / "out").eval()
    _, tokens = inputs(model)
    with torch.no_grad():
        theirs = stock.text_projection(stock.text_model(input_ids=tokens).pooler_output)
        ours = open_checkpoint(tmp_path / "out").encode_text(tokens)
    assert float((ours - theirs / theirs.norm(dim=-1, keepdim=True)).abs().max()) < 1e-5


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "siglip_alone": ({"model_type": "siglip_vision_model"}, "model_type='siglip_vision_m.* cannot"),
    "text_alone": ({"model_type": "clip_text_model"}, "model_type='clip_text_model' cannot"),
    "end": ({"text_config": TEXT | {"eos_token_id": 7}}, "eos_token_id=7 cannot be represented"),
    "no_end": ({"text_config": {"eos_token_id": None}}, "eos_token_id=None cannot be represented"),
    "end_in_dict": ({"text_config_dict": {"eos_token_id": 7}}, "eos_token_id=7 cannot be"),
    "head": (
        {"architectures": ["CLIPForImageClassification"]},
        r"architectures=\['CLIPForImageClassification'\] cannot be represented: only CLIPModel",
    ),
    "code": ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map={'AutoModel': 'x.Y'} cannot"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4} cannot"),
    "act": ({"vision_config": {"hidden_act": "relu"}}, "hidden_act='relu' cannot"),
    "channels": ({"vision_config": {"num_channels": 4}}, "num_channels=4 cannot"),
    "oblong": ({"vision_config": {"image_size": [64, 32]}}, r"image_size=\[64, 32\] cannot"),
    "vocab": ({"text_config": {"vocab_size": 30000}}, "vocab_size=30000 cannot"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_represented_is_named(tmp_path: Path, name: str) -> None:
    config, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        read_config(str(write_hf(tmp_path, **config)))


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "timm": ({"architecture": "vit_base_patch16_224"}, "architecture='vit_base_patch16_224' can"),
    "diffusers": ({"_class_name": "UNet2DConditionModel"}, "_class_name='UNet2DConditionModel'"),
    "no_type": ({"architectures": ["BertModel"]}, r"architectures=\['BertModel'\] cannot"),
    "nothing": ({"a": 1}, "must be a CLIP model's config, but has no 'embed_dim'"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_models_are_refused_by_the_name_they_give_themselves(
    tmp_path: Path, name: str
) -> None:
    config, message = OTHERS[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        read_config(str(tmp_path))


def test_folders_that_hold_no_model_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold open_clip_config\.json or config\.json, but"):
        read_config(str(tmp_path))
    write_hf(tmp_path / "0_CLIPModel")
    with pytest.raises(ValueError, match=r"holds neither\. Did you mean .*0_CLIPModel\?"):
        read_config(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    for read in (read_config, open_checkpoint):
        with pytest.raises(ValueError, match=r"holds an adapter .*Merge the adapter first"):
            read(str(tmp_path))


HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SQUASH = {"size": {"height": 64, "width": 64}, "do_center_crop": False}
PROCESSORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "older": ({"size": 64, "crop_size": 64, "feature_extractor_type": "CLIPFeatureExtractor"}, {}),
    "half": (HALF, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}),
    "bilinear": ({"resample": 2}, {"interpolation": "bilinear"}),
    "squash": (SQUASH, {"resize_mode": "squash"}),
    "raw": ({"do_normalize": False}, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_its_processor_is_part_of_the_model(tmp_path: Path, name: str, file: str) -> None:
    given, fields = PROCESSORS[name]
    folder = write_hf(tmp_path / "hf")
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 64}}
    processor |= {"crop_size": {"height": 64, "width": 64}} | given
    written = processor if file.startswith("pre") else {"image_processor": processor}
    (folder / file).write_text(json.dumps(written))
    config = read_config(str(folder))
    assert config.arch.image.preprocessing == Preprocessing(**fields)
    assert config.provenance()[1].endswith(f"from {folder / file}")
    theirs = CLIPImageProcessor(**processor)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 135, 3), np.uint8))
    smooth = image.resize((33, 22)).resize((135, 90))
    ours = preprocess([smooth], config.arch.image)
    expected = theirs(smooth, return_tensors="pt").pixel_values
    assert float((ours - expected).abs().mean()) < 0.02


WRONG_PROCESSORS: dict[str, tuple[dict[str, Any], str]] = {
    "other_kind": (
        {"image_processor_type": "ViTImageProcessor"},
        "image_processor_type='ViTImageProcessor' cannot be represented",
    ),
    "larger": ({"size": {"shortest_edge": 73}}, r"size must be {'shortest_edge': 64} for this mod"),
    "crop": ({"crop_size": {"height": 32, "width": 32}}, "crop_size must be .*'height': 64"),
    "no_crop": ({"do_center_crop": False}, "size without do_center_crop must be"),
    "no_resize": ({"do_resize": False}, "do_resize must be True for this model, but is False"),
    "nearest": ({"resample": 0}, r"resample must be 3 \(bicubic\) or 2 \(bilinear\) .*but is 0"),
    "scale": ({"rescale_factor": 1.0}, "1 / rescale_factor must be 255 for this model"),
}


@pytest.mark.parametrize("name", WRONG_PROCESSORS)
def test_processors_that_do_what_cannot_be_represented_are_named(tmp_path: Path, name: str) -> None:
    changes, message = WRONG_PROCESSORS[name]
    folder = write_hf(tmp_path / "hf")
    processor = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | changes))
    with pytest.raises(ValueError, match=message):
        read_config(str(folder))


def with_preprocessing(arch: ClipArch, preprocessing: Preprocessing) -> ClipArch:
    told = arch.to_dict()
    told["image"]["preprocessing"] = {
        "resize_mode": preprocessing.resize_mode,
        "interpolation": preprocessing.interpolation,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }
    return ClipArch.from_dict(told)


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_export_writes_the_same_back(tmp_path: Path, resize_mode: str) -> None:
    model, _ = imported(tmp_path, "b16_quickgelu")
    half = Preprocessing(
        resize_mode=resize_mode,  # type: ignore[arg-type]
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    model.arch = with_preprocessing(model.arch, half)
    if resize_mode == "longest":
        with pytest.raises(ValueError, match=r"cannot fit an image's longer side.*open_clip"):
            export_hugging_face(model, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    export_hugging_face(model, tmp_path / "out")
    again, provenance = import_with_provenance(str(tmp_path / "out"))
    assert again.arch == model.arch
    assert provenance[0].startswith("activation: quick_gelu, from")
    assert largest_difference(again, model, *inputs(model)) == 0
    theirs = CLIPImageProcessor.from_pretrained(tmp_path / "out")
    assert list(theirs.image_mean) == [0.5, 0.5, 0.5]
    assert theirs.do_center_crop == (resize_mode == "shortest")
