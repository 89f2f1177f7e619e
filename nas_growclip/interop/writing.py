"""Files of an export, each there whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from nas_growclip.io.files import replace_atomically, write_atomically


def write_json(path: Path, data: object) -> None:
    """Write plain data as indented JSON.

    Raises:
        ValueError: If the file cannot be written.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8"))


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors.

    Raises:
        ValueError: If the file cannot be written.
    """
    whole = {name: _apart(value.detach().cpu().contiguous()) for name, value in weights.items()}
    replace_atomically(path, lambda temporary: save_file(whole, temporary, {"format": "pt"}))


def _apart(value: Tensor) -> Tensor:
    """A tensor with a storage of its own, as safetensors wants it; copied only if it has none."""
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
