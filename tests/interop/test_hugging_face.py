"""A Hugging Face folder, made without a network, that transformers loads and agrees with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from nas_growclip.data.preprocess import preprocess
from nas_growclip.growth.inherit import inherit
from nas_growclip.interop.exporting import export_hugging_face
from nas_growclip.interop.importing import checkpoint_arch, open_checkpoint
from nas_growclip.models.arch import END_OF_TEXT, ClipArch
from nas_growclip.models.clip import Clip
from tests.interop.test_open_clip import imported
from tests.support.models import embeddings, inputs, largest_difference

TEXTS = [
    "a photo of a cat",
    "",
    "Two RED circles, above a blue square!  (1999)",
    "naïve café, 東京 🙂",
    "don't & won't -- it's 100% fine",
    "x" * 400,
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


class Stock:
    """CLIPModel under OpenCLIP's method names."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder).eval()

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        output = self.model.vision_model(pixel_values=images).pooler_output
        projected: torch.Tensor = self.model.visual_projection(output)
        return projected

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        output = self.model.text_model(input_ids=tokens).pooler_output
        projected: torch.Tensor = self.model.text_projection(output)
        return projected


@pytest.mark.parametrize("name", ["b32", "b16_quickgelu", "l14", "custom_text"])
def test_transformers_computes_the_same(tmp_path: Path, name: str) -> None:
    parent, stock = imported(tmp_path, name)
    child = inherit(parent, parent.arch.with_sizes({"image.depth": 5, "text.mlp_width": 444}))
    export_hugging_face(child.eval(), tmp_path / "out")
    loaded = Stock(tmp_path / "out")
    images, tokens = inputs(parent)
    assert largest_difference(loaded, child, images, tokens) < 1e-5
    assert largest_difference(loaded, stock, images, tokens) < 1e-5
    assert float(loaded.model.logit_scale.detach()) == float(child.logit_scale.detach())


def test_similarities_of_the_whole_model(tmp_path: Path) -> None:
    model, _ = imported(tmp_path, "b32")
    export_hugging_face(model, tmp_path / "out")
    loaded = CLIPModel.from_pretrained(tmp_path / "out").eval()
    images, tokens = inputs(model)
    with torch.no_grad():
        logits = loaded(input_ids=tokens, pixel_values=images).logits_per_image
        image, text = embeddings(model, images, tokens)
        expected = model.logit_scale.exp() * image @ text.T
    assert float((logits - expected).abs().max()) < 1e-4


def test_its_tokenizer_is_clips(tmp_path: Path) -> None:
    model, _ = imported(tmp_path, "b32")
    export_hugging_face(model, tmp_path / "out")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "out")
    given = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    ours = model.tokenize(TEXTS)
    is_text = torch.cumsum(ours == END_OF_TEXT, dim=1) - (ours == END_OF_TEXT).int() == 0
    assert torch.equal(given[is_text], ours[is_text])
    assert (given[~is_text] == END_OF_TEXT).all()  # behind the end, where nothing is read
    with torch.no_grad():
        difference = Stock(tmp_path / "out").encode_text(given) - Stock(
            tmp_path / "out"
        ).encode_text(ours)
    assert float(difference.abs().max()) < 1e-5


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_its_image_processor_is_ours(tmp_path: Path) -> None:
    model, _ = imported(tmp_path, "b32")
    export_hugging_face(model, tmp_path / "out")
    processor = CLIPImageProcessor.from_pretrained(tmp_path / "out")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8))
    given = processor(image, return_tensors="pt").pixel_values
    ours = preprocess([image], model.arch.image)
    assert float((given - ours).abs().mean()) < 0.02  # scaled by 8-bit steps in another order


def test_read_back(tmp_path: Path) -> None:
    model, _ = imported(tmp_path, "b16_quickgelu")
    export_hugging_face(model, tmp_path / "out")
    again = open_checkpoint(tmp_path / "out")
    assert again.arch == model.arch == checkpoint_arch(tmp_path / "out")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_what_clip_model_lacks_is_named(tmp_path: Path, tiny_arch: ClipArch) -> None:
    plain, _ = imported(tmp_path, "no_ln_pre")
    with pytest.raises(ValueError, match=r"LayerNorm before its image blocks.*--format open_clip"):
        export_hugging_face(plain, tmp_path / "out")
    wide, _ = imported(tmp_path, "odd_sizes")
    with pytest.raises(ValueError, match=r"square images only, but this model's are \(32, 48\)"):
        export_hugging_face(wide, tmp_path / "out")
    with pytest.raises(ValueError, match="has no shared encoder, and without its 1 blocks"):
        export_hugging_face(Clip(tiny_arch), tmp_path / "out")
    clipa, _ = imported(tmp_path, "clipa")
    clipa = Clip(replace(clipa.arch, image=replace(clipa.arch.image, norm_pre=True)))
    with pytest.raises(ValueError, match=r"has image\.pooling 'token' only, but .* has 'average'"):
        export_hugging_face(clipa, tmp_path / "out")
    more_heads = Clip(plain.arch.with_size("image.heads", 8))
    with pytest.raises(ValueError, match="8 heads of 16 stand in a width of 64"):
        export_hugging_face(more_heads, tmp_path / "out")
    assert not (tmp_path / "out").exists()
