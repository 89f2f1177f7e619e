"""A folder that ``transformers.AutoModel`` loads, shared encoder included, by code of its own.

The code is ``modeling_growclip.py`` beside this file; it is copied into the folder, and needs torch
and transformers alone. The folder is a checkpoint of ours as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from nas_growclip.interop.clip_tokenizer import write_hf_tokenizer
from nas_growclip.interop.extras import require_packages
from nas_growclip.interop.foreign import HF_CONFIG, HF_PROCESSOR
from nas_growclip.interop.processors import image_processor_config
from nas_growclip.interop.programs import ENCODERS, check_encoder, plain_copy
from nas_growclip.interop.writing import write_json, write_weights
from nas_growclip.io.files import filled_whole, write_atomically
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import ARCH_FILE, WEIGHTS_FILE
from nas_growclip.models.clip import Clip

MODULE = "modeling_growclip"
AUTO_CLASSES = ("AutoModel", "AutoModelForZeroShotImageClassification")


def export_auto_model(model: Clip, out: Path) -> None:
    """Write a folder for ``AutoModel.from_pretrained(OUT, trust_remote_code=True)``, in float32.

    Needs no network; tokenizer and image processor are CLIP's.

    Raises:
        ValueError: If transformers is missing, its image processor cannot do what the model's
            preprocessing does, the folder computes something else than the model or cannot be
            written; a new folder is not there then.
    """
    require_packages(("transformers",), "--format transformers", "transformers")
    plain = plain_copy(model)
    processor = image_processor_config(plain.arch.image) | {"processor_class": "CLIPProcessor"}
    with filled_whole(out) as folder:
        write_json(folder / HF_CONFIG, _config(plain.arch))
        write_atomically(folder / ARCH_FILE, (plain.arch.to_json() + "\n").encode())
        write_atomically(folder / f"{MODULE}.py", _code())
        write_weights(folder / WEIGHTS_FILE, plain.state_dict())
        write_json(folder / HF_PROCESSOR, processor)
        write_hf_tokenizer(folder, plain.arch.text.context_length)
        _check(plain, folder, out)


def _code() -> bytes:
    return files(__package__).joinpath(f"{MODULE}.py").read_bytes()


def _config(arch: ClipArch) -> dict[str, Any]:
    classes = dict.fromkeys(AUTO_CLASSES, f"{MODULE}.GrowClipModel")
    return {
        "model_type": "growclip",
        "architectures": ["GrowClipModel"],
        "auto_map": {"AutoConfig": f"{MODULE}.GrowClipConfig"} | classes,
        "dtype": "float32",
        "arch": arch.to_dict(),
    }


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    logging = import_module("transformers.utils.logging")
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _check(model: Clip, folder: Path, out: Path) -> None:
    with _no_progress_bar():
        model_class = import_module(f"{__package__}.{MODULE}").GrowClipModel
        loaded = model_class.from_pretrained(folder).eval().requires_grad_(False)
    encodes = (loaded.get_image_features, loaded.get_text_features)
    for encoder, encode in zip(ENCODERS, encodes, strict=True):
        check_encoder(model, encoder, encode, str(out))
