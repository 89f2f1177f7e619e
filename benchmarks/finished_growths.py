"""What a comparison's finished stages teach of growths, as records: no training, seconds.

A line for each stage of a run that grew, beside the run that did not grow there but was the same
until then: what ``growclip calibrate`` learns from, kept after the runs are gone.

Command: python -m benchmarks.finished_growths runs/compare/study_calibration --out FILE
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from nas_growclip.growth.candidates import Candidate
from nas_growclip.io.mappings import from_mapping, to_mapping
from nas_growclip.records.folder import read_stages, run_folders
from nas_growclip.search.calibration import Finished, finished_growths


def write(finished: Sequence[Finished], path: Path) -> None:
    """A JSON line each."""
    lines = [json.dumps(f._asdict() | {"candidate": to_mapping(f.candidate)}) for f in finished]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def read(path: Path) -> list[Finished]:
    """What ``write`` wrote."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        fields["candidate"] = from_mapping(Candidate, fields["candidate"], str(path))
        found.append(Finished(**fields))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    histories = [read_stages(run) for run in run_folders(options.comparison)]
    write(finished_growths(histories), options.out)


if __name__ == "__main__":
    main()
