"""Names that ``--help`` lists, written out so that no command's help imports what they name.

Tests hold each of them to its table; adding to a table means adding its name here.
"""

from typing import Literal

OPERATORS = ("exact", "average", "net2net", "hypercloning", "aki", "ligo", "random")
DEPTH_OPERATORS = ("identity", "cancel", "gated", "interleave", "stack", "interpolate", "random")
PIM_VARIANTS = ("convex", "null_space", "budgeted", "ema", "shrink_perturb")
OBJECTIVES = ("data_size_aware", "quality", "quality_per_log_flops", "pareto", "loss_times_time")
SPACE_FORMATS = ("optuna", "nni")
EXPORT_FORMATS = ("open_clip", "hf", "siglip2", "transformers", "onnx", "torch")

Placement = Literal["spread", "end"]
NormPre = Literal["refuse", "approximate"]
Cluster = Literal["slurm", "local"]
NniAction = Literal["create", "status", "stop"]
Source = Literal["scenes", "webdataset", "csv", "files"]


def listed(names: tuple[str, ...]) -> str:
    """Names as a help text lists them."""
    return "|".join(names)
