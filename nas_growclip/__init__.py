"""Grow CLIP models over growing data.

The public names below are kept stable. They are imported when first used, so that importing the
package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

from nas_growclip.io.logs import log_to_stderr
from nas_growclip.io.versions import own_version

if TYPE_CHECKING:
    from nas_growclip.data.preprocess import preprocess as preprocess
    from nas_growclip.experiment.config import ExperimentConfig as ExperimentConfig
    from nas_growclip.experiment.config import load_config as load_config
    from nas_growclip.experiment.run import run_experiment as run_experiment
    from nas_growclip.growth.candidates import Candidate as Candidate
    from nas_growclip.growth.candidates import GrowthStep as GrowthStep
    from nas_growclip.growth.config import GrowthConfig as GrowthConfig
    from nas_growclip.growth.inherit import inherit as inherit
    from nas_growclip.growth.space import GrowthSpace as GrowthSpace
    from nas_growclip.growth.space import load_space as load_space
    from nas_growclip.models.arch import ClipArch as ClipArch
    from nas_growclip.models.checkpoint import load_model as load_model
    from nas_growclip.models.checkpoint import save_model as save_model
    from nas_growclip.models.clip import Clip as Clip
    from nas_growclip.models.flops import count_flops as count_flops
    from nas_growclip.records.frames import load_run as load_run
    from nas_growclip.search.nni.space import candidate_from_nni as candidate_from_nni
    from nas_growclip.search.nni.space import nni_space as nni_space
    from nas_growclip.training.grow_optimizer import grow_optimizer as grow_optimizer

_HOME = {
    "Candidate": "nas_growclip.growth.candidates",
    "Clip": "nas_growclip.models.clip",
    "ClipArch": "nas_growclip.models.arch",
    "ExperimentConfig": "nas_growclip.experiment.config",
    "GrowthConfig": "nas_growclip.growth.config",
    "GrowthSpace": "nas_growclip.growth.space",
    "GrowthStep": "nas_growclip.growth.candidates",
    "candidate_from_nni": "nas_growclip.search.nni.space",
    "count_flops": "nas_growclip.models.flops",
    "grow_optimizer": "nas_growclip.training.grow_optimizer",
    "inherit": "nas_growclip.growth.inherit",
    "load_config": "nas_growclip.experiment.config",
    "load_model": "nas_growclip.models.checkpoint",
    "load_run": "nas_growclip.records.frames",
    "load_space": "nas_growclip.growth.space",
    "nni_space": "nas_growclip.search.nni.space",
    "preprocess": "nas_growclip.data.preprocess",
    "run_experiment": "nas_growclip.experiment.run",
    "save_model": "nas_growclip.models.checkpoint",
}

__all__ = sorted(_HOME)

log_to_stderr()


def __getattr__(name: str) -> object:
    if name == "__version__":
        return own_version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
