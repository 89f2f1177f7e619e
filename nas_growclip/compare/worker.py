"""One of a study's processes: ``python -m nas_growclip.compare.worker STUDY``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from nas_growclip.compare.config import load_study
from nas_growclip.compare.folder import STUDY_FILE, StudyFolder
from nas_growclip.compare.runner import StudyWorker


def main(arguments: Sequence[str] | None = None) -> int:
    """Work on a study's folder until no run is left; bad input gives one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Work on a study.")
    parser.add_argument("study", type=Path, metavar="DIR", help="the study's folder")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where data paths start")
    parser.add_argument("--device", help="torch device; default: cuda if there is one, else cpu")
    parser.add_argument("--threads", type=int, default=1, help="cores to use (default: 1)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        study = StudyFolder(load_study(options.study / STUDY_FILE), options.study)
        StudyWorker(study, options.data, options.device).work()
    except (ValueError, OSError) as error:
        print(f"growclip: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
