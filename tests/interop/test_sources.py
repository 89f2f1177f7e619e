"""A pretrained model is imported as it was trained, whatever its plain name says."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import save_file

from nas_growclip.cli.main import main
from nas_growclip.data.preprocess import preprocess
from nas_growclip.interop.exporting import export_hugging_face, export_open_clip
from nas_growclip.interop.importing import (
    checkpoint_arch,
    import_model,
    import_with_provenance,
    open_checkpoint,
)
from nas_growclip.interop.sources import read_config
from nas_growclip.models.clip import Clip
from nas_growclip.models.preprocessing import Preprocessing
from tests.support.models import CONFIGS, inputs, largest_difference, stock_model, write_config

PIXELS: dict[str, Any] = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.5, 0.2, 0.25],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (90, 131, 3), np.uint8))


@torch.no_grad()
def picture_difference(model: Clip, stock: Any, transform: Any) -> float:
    """Of two libraries' embeddings of pictures, each with its own preprocessing."""
    pictures = [picture(seed) for seed in range(3)]
    ours = model.encode_image(preprocess(pictures, model.arch.image))
    theirs = stock.encode_image(torch.stack([transform(p) for p in pictures]))
    return float((ours - theirs / theirs.norm(dim=-1, keepdim=True)).abs().max())


def pretrained_folder(folder: Path, name: str = "b32", **pixels: Any) -> Path:
    """A folder as OpenCLIP publishes it: configuration, pixels and weights."""
    folder.mkdir()
    stock = stock_model(write_config(folder.parent, name))
    save_file(stock.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": CONFIGS[name], "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["b32", "no_ln_pre", "timm", "odd_sizes"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_a_folder_of_other_pixels_embeds_pictures_as_open_clip_does(
    tmp_path: Path, name: str, resize_mode: str
) -> None:
    pixels = PIXELS | {"resize_mode": resize_mode, "fill_color": 9, "size": [7, 7]}
    folder = pretrained_folder(tmp_path / "hub", name, **pixels)
    stock, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model = open_checkpoint(folder)
    assert checkpoint_arch(folder) == model.arch
    assert picture_difference(model, stock.eval(), transform) < 1e-5
    export_open_clip(model, tmp_path / "out")
    again, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    assert picture_difference(model, again.eval(), transform) < 1e-5
    assert checkpoint_arch(tmp_path / "out").image.preprocessing == model.arch.image.preprocessing


def give_tag(monkeypatch: pytest.MonkeyPatch, file: Path, **entry: Any) -> None:
    """Let open_clip have a pretrained tag whose weights lie in a file."""
    tags = {"case": {"file": str(file), **entry}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "b32", tags)


def test_the_tag_wins_over_the_plain_name_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = stock_model(write_config(tmp_path, "b32", quick_gelu=True))
    save_file(quick.state_dict(), tmp_path / "tag.safetensors")
    open_clip.add_model_config(write_config(tmp_path, "b32"))
    give_tag(monkeypatch, tmp_path / "tag.safetensors", quick_gelu=True, **PIXELS)
    assert main(["import", "b32", "case", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "quick_gelu, from the pretrained tag 'case', against b32, which says gelu" in told
    assert "squash, bilinear, mean 0.5 0.4 0.3, std 0.5 0.2 0.25, from the pretrained tag" in told
    model = open_checkpoint(tmp_path / "out")
    assert largest_difference(model, quick, *inputs(model)) < 1e-5
    transform = open_clip.image_transform(64, is_train=False, **PIXELS)
    assert picture_difference(model, quick, transform) < 1e-5


def test_what_lies_beside_the_weights_wins_over_a_plain_name(tmp_path: Path) -> None:
    folder = pretrained_folder(tmp_path / "hub", **PIXELS)
    plain = str(write_config(tmp_path, "b32"))
    for weights in (folder, folder / "open_clip_model.safetensors"):
        model, provenance = import_with_provenance(plain, str(weights))
        assert model.arch == open_checkpoint(folder).arch
        assert provenance[1].endswith(f"from {folder / 'open_clip_config.json'}")
    alone = tmp_path / "alone.safetensors"
    (folder / "open_clip_model.safetensors").rename(alone)
    model, provenance = import_with_provenance(plain, str(alone))
    assert model.arch.image.preprocessing == Preprocessing()
    assert provenance[1].endswith("OpenAI's, since nothing says otherwise")


def test_openais_own_files_are_known_by_their_numbers(tmp_path: Path) -> None:
    quick = stock_model(write_config(tmp_path, "b32", quick_gelu=True))
    numbers = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
    tensors = {name: torch.tensor(value) for name, value in numbers.items()}
    torch.save({**quick.state_dict(), **tensors}, tmp_path / "openai.pt")
    plain = str(write_config(tmp_path, "b32"))
    model, provenance = import_with_provenance(plain, str(tmp_path / "openai.pt"))
    assert largest_difference(model, quick, *inputs(model)) < 1e-5
    assert "quick_gelu, from" in provenance[0]
    assert "(OpenAI's own file), against" in provenance[0]


class Hub:
    """The hub's files in a folder; what is not there is not there, or nothing can be asked."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def hf_hub_download(self, repository: str, file: str) -> str:
        assert repository == "someone/model"
        if self.folder is None:
            raise LocalEntryNotFoundError("No network.\nReally.")
        if not (self.folder / file).exists():
            raise EntryNotFoundError(file)
        return str(self.folder / file)


def test_hub_models_of_either_tool_bring_their_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pretrained_folder(tmp_path / "hub", "b16_quickgelu", **PIXELS)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", Hub(folder).hf_hub_download)
    model, provenance = import_with_provenance("hf-hub:someone/model")
    assert model.arch == open_checkpoint(folder).arch
    assert provenance[1].endswith(
        "from hf-hub:someone/model: open_clip_config.json: preprocess_cfg"
    )
    export_hugging_face(model, tmp_path / "hf")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", Hub(tmp_path / "hf").hf_hub_download)
    again = import_model("hf-hub:someone/model")
    assert again.arch == model.arch
    assert largest_difference(again, model, *inputs(model)) < 1e-6


def test_a_hub_that_cannot_be_asked_or_has_no_model_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", Hub(None).hf_hub_download)
    with pytest.raises(ValueError, match=r"^hf-hub:someone/model: cannot be downloaded: .*No netw"):
        import_model("hf-hub:someone/model")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", Hub(tmp_path).hf_hub_download)
    with pytest.raises(ValueError, match=r"must hold open_clip_config\.json or config\.json, but"):
        import_model("hf-hub:someone/model")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIGS["b32"]))
    with pytest.raises(ValueError, match="must hold a weights file in one part, but holds none"):
        import_model("hf-hub:someone/model")


@pytest.mark.parametrize(
    "name", ["hf-hub:../../etc/passwd", "hf-hub:a/b/c", "hf-hub:/b", "hf-hub:a", "hf-hub:a--b/c"]
)
def test_unsafe_hub_names_are_never_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("asked"))
    with pytest.raises(ValueError, match="must be hf-hub:OWNER/NAME, as in hf-hub:laion/"):
        import_model(name)


def test_a_hub_name_without_its_prefix_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Did you mean hf-hub:laion/CLIP-ViT-B-32\?"):
        import_model("laion/CLIP-ViT-B-32")
    with pytest.raises(ValueError, match=r"Did you mean hf-hub:laion/some-model alone\?"):
        import_model("ViT-B-32", "laion/some-model")


def test_openais_way_of_writing_a_name_is_open_clips() -> None:
    assert read_config("ViT-B/32", "openai").arch == read_config("ViT-B-32-quickgelu").arch


WRONG_PIXELS: dict[str, tuple[dict[str, Any], str]] = {
    "mode": ({"mode": "L"}, r"preprocess_cfg: mode='L' cannot be represented"),
    "resize_mode": ({"resize_mode": "tile"}, "preprocess_cfg: resize_mode: must be one of"),
    "interpolation": ({"interpolation": "nearest"}, "interpolation: must be one of"),
    "mean": ({"mean": [0.5, 0.5]}, "mean: must have 3 items, but got 2"),
    "std": ({"std": 0}, "preprocess_cfg: std: must be above 0, but got 0"),
}


@pytest.mark.parametrize("name", WRONG_PIXELS)
def test_other_pixels_that_cannot_be_are_named(tmp_path: Path, name: str) -> None:
    pixels, message = WRONG_PIXELS[name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_cfg": CONFIGS["b32"], "preprocess_cfg": pixels}))
    with pytest.raises(ValueError, match=message):
        read_config(str(path))


def test_one_number_and_random_interpolation_are_read_as_open_clip_reads_them(
    tmp_path: Path,
) -> None:
    folder = pretrained_folder(tmp_path / "hub", mean=0.5, std=0.25, interpolation="random")
    stock, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert picture_difference(open_checkpoint(folder), stock.eval(), transform) < 1e-5
