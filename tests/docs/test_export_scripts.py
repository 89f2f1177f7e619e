"""A stranger's scripts on exported folders: our own zero-shot top-1, without our package."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from nas_growclip.data.class_folders import open_task
from nas_growclip.data.zero_shot import DIGIT_NAMES, ZeroShotTask, digits_task
from nas_growclip.evaluation.zero_shot import image_batches, predict
from nas_growclip.interop.exporting import FORMATS
from nas_growclip.models.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.clip import Clip
from tests.support.forked_python import forking_python
from tests.support.runs import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SCRIPTS = ROOT / "docs" / "guide" / "scripts"
NUM_IMAGES = 300
ARCH = ClipArch(
    image=ImageArch(depth=1, width=32, mlp_width=64, patch_size=4, image_size=16, head_dim=16),
    text=TextArch(depth=1, width=32, mlp_width=64, context_length=12, head_dim=16),
    shared=SharedArch(depth=1, mlp_width=64, head_dim=16),
    embed_dim=32,
)
STRANGER = """
import runpy, sys
def refuse(event, args):
    if event in ("socket.getaddrinfo", "socket.connect"):
        raise OSError(f"no network is needed, but got {event} {args}")
sys.addaudithook(refuse)
script, missing, *sys.argv[1:] = sys.argv[1:]
missing = missing.split(",")
known = {name for name in sys.modules if name.partition(".")[0] in missing}
sys.modules.update(dict.fromkeys([*missing, *known]))
runpy.run_path(script, run_name="__main__")
"""
"""Runs a script where no other machine can be asked and some packages are missing."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as files, some of them larger and not square."""
    folder = tmp_path_factory.mktemp("pictures")
    task = digits_task()
    for number, (image, label) in enumerate(zip(task.images, task.labels, strict=True)):
        if number == NUM_IMAGES:
            break
        size = ((32, 32), (47, 40), (33, 64))[number % 3]
        path = folder / DIGIT_NAMES[label] / f"{number:04d}.png"
        path.parent.mkdir(exist_ok=True)
        image.resize(size, Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="module")
def model(pictures: Path) -> Clip:
    """A model with a shared encoder that tells most digits from each other."""
    torch.manual_seed(0)
    model, task = Clip(ARCH), open_task(pictures)
    images = torch.cat(list(image_batches(task.images, model.arch.image, NUM_IMAGES)))
    prompts = model.tokenize([task.templates[0].replace("{c}", c) for c in task.class_names])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(90):
        batch = torch.randint(len(images), (64,))
        logits = 10 * model.encode_image(images[batch]) @ model.encode_text(prompts).T
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(task.labels)[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def top1(model: Clip, task: ZeroShotTask) -> float:
    return float(predict(model, task, batch_size=64).right.mean())


@pytest.mark.parametrize(
    ("script", "format", "missing"),
    [
        ("zero_shot_onnx.py", "onnx", "nas_growclip,torch,transformers,open_clip"),
        ("zero_shot_automodel.py", "transformers", "nas_growclip,timm,open_clip"),
    ],
)
def test_a_strangers_script_finds_our_top1(
    script: str, format: str, missing: str, model: Clip, pictures: Path, tmp_path: Path
) -> None:
    FORMATS[format](model, tmp_path / "exported")
    command = [sys.executable, "-c", STRANGER, str(SCRIPTS / script), missing]
    command += [str(tmp_path / "exported"), str(pictures)]
    with forking_python():
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    ours = top1(model, open_task(pictures))
    assert 0.3 < ours < 0.99  # so that a wrong model, or wrong pixels, would be seen
    assert ended.stdout == f"top-1 {ours:.4f} of {NUM_IMAGES} images\n"


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("zero_shot_*.py")))
def test_the_page_shows_the_script(script: str) -> None:
    page = (ROOT / "docs" / "guide" / "export.md").read_text()
    assert f"```python\n{(SCRIPTS / script).read_text()}```" in page
