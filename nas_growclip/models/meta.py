"""The meta device without drawing: models of shapes, made in a fraction of the time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

IN_PLACE = frozenset(
    {"add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "trunc_normal_", "uniform_", "zero_"}
)
"""Functions that change numbers and nothing else. Meta tensors have none, but PyTorch works out the
shape of each result in Python, which takes most of the time of making a large tower."""


class _Undrawn(TorchFunctionMode):
    """Leaves meta tensors as they are where only numbers would change."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        is_drawing = getattr(func, "__name__", "") in IN_PLACE and args
        if is_drawing and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Make modules on the meta device: shapes without numbers, neither held nor drawn."""
    with torch.device("meta"), _Undrawn():
        yield
