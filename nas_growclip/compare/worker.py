"""One of a comparison's processes: ``python -m nas_growclip.compare.worker DIR``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from nas_growclip.compare.config import load_comparison
from nas_growclip.compare.folder import COMPARISON_FILE, CompareFolder
from nas_growclip.compare.runner import CompareWorker


def main(arguments: Sequence[str] | None = None) -> int:
    """Do a comparison's runs until none is left; bad input gives one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Work on a comparison.")
    parser.add_argument("comparison", type=Path, metavar="DIR", help="the comparison's folder")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where data paths start")
    parser.add_argument("--device", help="torch device; default: cuda if there is one, else cpu")
    parser.add_argument("--threads", type=int, default=1, help="cores to use (default: 1)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        comparison = CompareFolder(
            load_comparison(options.comparison / COMPARISON_FILE), options.comparison
        )
        CompareWorker(comparison, options.data, options.device).work()
    except (ValueError, OSError) as error:
        print(f"growclip: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
