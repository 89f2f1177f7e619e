"""What a profile of the training loop says."""

from typing import Any

from torch.profiler import profile


def values_read(profiled: profile) -> int:
    """Reads of a value from the device, beside the looks at the loss and the state.

    AdamW's CPU kernel reads its own counts of steps; on a GPU they stay there.
    """
    reads = [event for event in profiled.events() if event.name == "aten::_local_scalar_dense"]
    return sum("aten::_fused_adamw_" not in ancestors(event) for event in reads)


def ancestors(event: Any) -> set[str]:
    names: set[str] = set()
    while event is not None:
        names.add(event.name)
        event = event.cpu_parent
    return names
