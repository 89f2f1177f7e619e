"""``growclip run`` under torchrun, whose leader's gradient is bad once at step 7 of the stage.

Command: torchrun --nproc-per-node 2 -m tests.support.diverging EXPERIMENT.yaml RUN
"""

import math
import sys
from pathlib import Path

from nas_growclip.experiment.config import load_config
from nas_growclip.experiment.follower import follow
from nas_growclip.experiment.run import run_stages
from nas_growclip.training.process_group import join_group
from tests.support.faults import in_step, poison_gradient, times


def main(experiment: Path, out: Path) -> None:
    config, group = load_config(experiment), join_group("cpu")
    if not group.is_leader:
        follow(config, None, group)
        return
    poison = poison_gradient("logit_scale", math.nan, times(1, in_step(7, "training")))
    run_stages(config, out, device=group.device, observer=poison)
    group.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
