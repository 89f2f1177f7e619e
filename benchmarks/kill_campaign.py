"""What is lost when a run is killed, at any moment?

``growclip run`` is given a small experiment (three stages of scenes, a search by Optuna, loading by
a process of its own, AdamW's moments and a moving average that grow along, a state saved every
second step), killed with SIGKILL and started again until it ends. Half of the kills come at random
moments, the other half when the process is seen in a phase whose turn it is, also the rare ones.
Only the process itself is killed, not its group. What is left must be what an undisturbed run
leaves: the same records, weights and files byte for byte, nothing half-written, no candidate
trained twice, no process alive. Where a run ends before all kills are spent, another one begins.

Command: python -m benchmarks.kill_campaign --out DIR [--kills 20] [--seed 0] [--start command]

A start forks this process, which has everything imported, and gives the child the command;
``--start command`` starts Python each time, which takes some fifteen seconds.
"""

import argparse
import sys
from pathlib import Path

from tests.support.killing import Campaign, experiment


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", choices=["fork", "command"], default="fork")
    options = parser.parse_args()
    fresh = options.start == "command"
    campaign = Campaign(experiment(), options.out, options.seed, fresh=fresh)
    campaign.go(options.kills)
    runs = len({kill.run for kill in campaign.kills})
    print(f"{campaign.table()}\n\n{len(campaign.kills)} kills in {runs} runs, seed {options.seed}.")
    print("\n".join(campaign.faults) or "No fault: all records, weights and files are the same.")
    return 1 if campaign.faults else 0


if __name__ == "__main__":
    sys.exit(main())
