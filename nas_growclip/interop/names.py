"""Names of weights without what wrappers of models put before and between them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that DataParallel, torch.compile, FSDP and activation checkpointing add."""
ROOTS = frozenset({"visual", "text", "transformer", "vision_model", "text_model"})
"""First parts of names that belong to a model; another one that all share is its holder's."""
ADAPTER_PARTS = (".lora_", "base_model.model.", ".hada_", ".oft_")


def bare_names(tensors: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Tensors under the names that the innermost model gave them.

    Raises:
        ValueError: If two of them have the same name then, or they are an adapter's.
    """
    refuse_adapter(tensors, where)
    names = {name: ".".join(p for p in name.split(".") if p not in WRAPPERS) for name in tensors}
    while prefix := _holder(names.values()):
        names = {name: bare.removeprefix(prefix) for name, bare in names.items()}
    bare_tensors: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if names[name] in bare_tensors:
            raise ValueError(
                f"{where}: holds {names[name]!r} twice, under different prefixes, one of them in "
                f"{name[:100]!r}. Save one model's state_dict."
            )
        bare_tensors[names[name]] = value
    return bare_tensors


def refuse_adapter(names: Iterable[str], where: Path) -> None:
    """Refuse weights that change a model but are none.

    Raises:
        ValueError: If a name is such as PEFT gives.
    """
    for name in names:
        if any(part in name for part in ADAPTER_PARTS):
            raise ValueError(
                f"{where}: holds {name[:100]!r}, a part of an adapter, not of a model. Merge the "
                "adapter first (PEFT: model.merge_and_unload()) and save the whole model."
            )


def _holder(names: Iterable[str]) -> str:
    """The first part that all names share, with its point, if it is no part of a model."""
    firsts = {name.partition(".")[0] if "." in name else "" for name in names}
    first = firsts.pop() if len(firsts) == 1 else ""
    return f"{first}." if first and first not in ROOTS else ""
