"""A worker: takes part in a run's searches beside ``growclip run``, on this machine or another.

It needs the run folder (on a disk that all machines see) and Optuna's storage. It never starts
the next stage by itself: that is the run's own process's part.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

from nas_growclip.experiment.search_stage import join_search
from nas_growclip.experiment.stage_setup import load_run_config, open_stage
from nas_growclip.io.files import remove_abandoned
from nas_growclip.records.folder import read_stages
from nas_growclip.search.optuna.backend import is_open, study_name
from nas_growclip.search.optuna.storage import open_storage
from nas_growclip.training.events import Observer, no_observer

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0


def work(
    run: Path,
    *,
    data_folder: Path | None = None,
    device: str | None = None,
    patience: float | None = None,
    observer: Observer = no_observer,
) -> None:
    """Work on one stage's search after the other until the run is complete.

    Args:
        run: The run folder.
        data_folder: Where the data's relative paths start; by default where the run has found it.
        device: A torch device; CUDA where there is one, else the CPU.
        patience: Seconds without work after which to leave; None stays.
        observer: Called at the moments of trials that ``training.events`` lists.

    Raises:
        ValueError: If it is no run folder, or its backend takes no workers.
    """
    config = load_run_config(run)
    if config.search.backend != "optuna":
        raise ValueError(
            f"{run}: search.backend must be 'optuna' for workers to join, but is "
            f"{config.search.backend!r}. Its other backends run in one process or start their own."
        )
    remove_abandoned(run)
    storage = open_storage(config.search.storage, run)
    joined, idle_since = -1, time.monotonic()
    while (index := len(read_stages(run))) < len(config.data.stages):
        if index > joined and is_open(storage, study_name(run, index, config.search.study_name)):
            _log.info(f"stage {index}: joined the search")
            stage = open_stage(run, stage=index, data_folder=data_folder, device=device)
            join_search(replace(stage, observer=observer))
            joined, idle_since = index, time.monotonic()
        elif patience is not None and time.monotonic() - idle_since > patience:
            _log.info(f"no work for {patience:g} s; left")
            return
        else:
            time.sleep(POLL_SECONDS)
    _log.info(f"the run in {run} is complete")
