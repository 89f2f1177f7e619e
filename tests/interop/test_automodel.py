"""A folder that AutoModel loads without this package, shared encoder included."""

import ast
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, pipeline

from nas_growclip.cli.main import main
from nas_growclip.data.preprocess import preprocess
from nas_growclip.interop import modeling_growclip
from nas_growclip.interop.automodel import export_auto_model
from nas_growclip.interop.image_processing_growclip import GrowClipImageProcessor
from nas_growclip.interop.importing import checkpoint_arch, open_checkpoint
from nas_growclip.interop.processors import sized_preprocess_cfg
from nas_growclip.models.checkpoint import save_model
from nas_growclip.models.clip import Clip
from nas_growclip.models.preprocessing import Preprocessing
from tests.growth.test_traits import KINDS, parent_of
from tests.support.exported import MODELS, SHARED, TEXTS, batches, largest_difference


@pytest.fixture(autouse=True)
def modules_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and code of folders is copied to no place that outlives the test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(
        transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules")
    )


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Clip:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def folder(model: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformers") / "out"
    export_auto_model(model, folder)
    return folder


def test_auto_model_gives_the_models_embeddings(model: Clip, folder: Path) -> None:
    loaded = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(loaded).__module__.startswith("transformers_modules.")
    assert sum(p.numel() for p in loaded.parameters()) == model.num_params
    with torch.no_grad():
        for size in (1, 5):
            images, tokens = batches(model, size)
            output = loaded(pixel_values=images, input_ids=tokens)
            given = output.image_embeds, output.text_embeds
            assert largest_difference(model, images, tokens, given) < 1e-5
            assert torch.equal(loaded.get_image_features(images), output.image_embeds)
            assert torch.equal(loaded.get_text_features(tokens), output.text_embeds)
            scale, *bias = (value.float() for value in model.scale_and_bias())
            expected = scale * given[0] @ given[1].T + sum(bias)
            assert float((output.logits_per_image - expected).abs().max()) < 1e-4
            assert torch.equal(output.logits_per_text, output.logits_per_image.T)


def test_its_tokenizer_gives_the_models_embeddings(model: Clip, folder: Path) -> None:
    """Padded as transformers pads, to the longest text and with marks of the end."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert tokenizer.model_max_length == model.arch.text.context_length
    loaded = AutoModel.from_pretrained(folder, trust_remote_code=True)
    for texts in (TEXTS, TEXTS[:2]):
        given = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            expected = model.encode_text(model.tokenize(texts)).float()
            assert float((loaded.get_text_features(**given) - expected).abs().max()) < 1e-5


SHAPES = ((90, 120), (61, 33), (64, 33), (16, 16), (7, 200), (13, 5))


def picture(shape: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(shape)
    return Image.fromarray(rng.integers(0, 255, (*shape, 3), dtype=np.uint8))


def test_its_image_processor_is_ours_to_the_bit(model: Clip, folder: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    pictures = [picture(shape) for shape in SHAPES]
    ours = preprocess(pictures, model.arch.image)
    assert torch.equal(processor(pictures, return_tensors="pt").pixel_values, ours)
    arrays = [np.asarray(image) for image in pictures]
    assert torch.equal(processor(arrays, return_tensors="pt").pixel_values, ours)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_every_preprocessing_is_ours_to_the_bit(
    mode: Any, interpolation: Any, shape: tuple[int, int]
) -> None:
    image = replace(
        SHARED.image,
        image_height=shape[0],
        image_size=shape[1],
        preprocessing=Preprocessing(
            resize_mode=mode, interpolation=interpolation, mean=(0.5, 0.1, 0.9), fill_color=77
        ),
    )
    processor = GrowClipImageProcessor(sized_preprocess_cfg(image))
    for image_shape in SHAPES:
        given = processor(picture(image_shape), return_tensors="pt").pixel_values
        assert torch.equal(given, preprocess([picture(image_shape)], image)), image_shape


def test_the_zero_shot_pipeline_works_with_it(model: Clip, folder: Path) -> None:
    height, width = model.arch.image.image_shape
    picture = Image.new("RGB", (width, height), (200, 30, 60))
    classify = pipeline("zero-shot-image-classification", model=str(folder), trust_remote_code=True)
    names = ["cat", "dog", "boat"]
    given = classify(picture, candidate_labels=names, hypothesis_template="a photo of a {}.")
    prompts = model.tokenize([f"a photo of a {name}." for name in names])
    dtype = model.logit_scale.dtype
    with torch.no_grad():
        image = model.encode_image(preprocess([picture], model.arch.image).to(dtype))
        logits = model.logit_scale.exp() * image @ model.encode_text(prompts).T
    scores = {part["label"]: part["score"] for part in given}
    expected = logits.softmax(dim=1)[0].tolist()
    assert [scores[name] for name in names] == pytest.approx(expected, abs=1e-4)


def test_it_is_a_checkpoint_of_ours_too(model: Clip, folder: Path) -> None:
    again = open_checkpoint(folder)
    assert again.arch == model.arch == checkpoint_arch(folder)
    images, tokens = batches(model, 3)
    with torch.no_grad():
        given = again.encode_image(images), again.encode_text(tokens)
    assert largest_difference(model, images, tokens, given) < 1e-5


def test_its_code_needs_transformers_and_what_that_needs(folder: Path) -> None:
    assert imported_by(folder / "modeling_growclip.py") == {"torch", "transformers"}
    assert imported_by(folder / "image_processing_growclip.py") == {"numpy", "PIL", "transformers"}


def imported_by(path: Path) -> set[str]:
    """Packages beside Python's own that a file imports."""
    modules = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    ]
    return {str(name).partition(".")[0] for name in modules} - sys.stdlib_module_names


def test_code_that_computes_something_else_is_an_error_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_growclip.QuickGelu, "forward", lambda _, x: functional.gelu(x))
    with pytest.raises(ValueError, match="must give the model's own image_embeds to 1e-05"):
        export_auto_model(MODELS["plain"](), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_transformers_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(Clip(SHARED), tmp_path / "model")
    monkeypatch.setitem(sys.modules, "transformers", None)
    out = str(tmp_path / "out")
    given = ["export", str(tmp_path / "model"), "--format", "transformers", "--out", out]
    assert main(given) == 2
    assert capsys.readouterr().err == (
        "growclip: error: --format transformers needs transformers, but 'transformers' is missing. "
        "Run: pip install 'nas_growclip[transformers]'.\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_command_says_how_to_load_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(Clip(SHARED), tmp_path / "model")
    out = tmp_path / "out"
    given = ["export", str(tmp_path / "model"), "--format", "transformers", "--out", str(out)]
    assert main(given) == 0
    said = capsys.readouterr()
    assert said.out == (
        f'Load it with transformers.AutoModel.from_pretrained("{out}", trust_remote_code=True)\n'
    )
    assert said.err == ""
    assert main(given) == 2
    assert "must be a new or empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_traits_that_the_code_has_not_are_refused(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        ValueError, match=r"AutoModel's code has .*, but this model has (image|text)\."
    ):
        export_auto_model(parent_of(kind), out)
    assert not out.exists()
