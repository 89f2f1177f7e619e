"""A run folder: whether it can be read and resumed, and whether its disk has room."""

import tempfile
from contextlib import suppress
from pathlib import Path

from nas_growclip.doctor.machine import Environment, Finding, run_python
from nas_growclip.io.formatting import mebibytes
from nas_growclip.io.mappings import read_mapping
from nas_growclip.records.folder import find_config

CHECKPOINTS_AHEAD = 10
"""Free space wanted, in largest checkpoints: a stage keeps a state for each of its trials."""

LEAST_FREE = 2**30

_LOAD_CONFIG = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import nas_growclip
del sys.path[0]  # so that nothing beside it hides the standard library
from nas_growclip.experiment.config import load_config
try:
    load_config(Path(sys.argv[1]))
except ValueError as error:
    print(error)
"""


def check_run_config(run: Path, environment: Environment) -> Finding:
    """The run's settings can be read by this version."""
    try:
        config = find_config(run)
        read_mapping(config)
    except ValueError as error:
        return Finding(
            "problem", str(error), "Give the --out of `growclip run`, or restore the file."
        )
    package = str(Path(__file__).parents[2])
    refused, end = run_python(environment, _LOAD_CONFIG, [str(config), package])
    if end:
        return Finding(
            "problem",
            f"nas_growclip cannot be imported: {end}",
            "Repair what the checks above name.",
        )
    if refused.strip():
        remedy = "Use the version of nas_growclip that made the run, or start a new one."
        return Finding("problem", refused, remedy)
    return Finding("ok", f"{config} reads")


def check_run_folder(run: Path, environment: Environment) -> Finding:
    """Files can be written into the run folder."""
    try:
        with tempfile.TemporaryFile(dir=run) as file:
            file.write(b"growclip doctor")
    except OSError as error:
        remedy = "Make the folder writable, or copy the run to another environment."
        return Finding("problem", f"{run} cannot be written: {error.strerror}", remedy)
    return Finding("ok", f"{run} is writable")


def check_run_disk(run: Path, environment: Environment) -> Finding:
    """There is space for the checkpoints to come."""
    largest = max(map(_size, run.rglob("*.safetensors")), default=0)
    free = environment.free_bytes(run)
    found = f"{mebibytes(free)} free, largest checkpoint {mebibytes(largest)}"
    remedy = "Free space, or move the run folder to a larger disk."
    if free < 2 * largest:
        return Finding("problem", found, remedy)
    if free < max(CHECKPOINTS_AHEAD * largest, LEAST_FREE):
        return Finding("warning", found, remedy)
    return Finding("ok", found)


def _size(path: Path) -> int:
    with suppress(OSError):  # a temporary file may just have been renamed
        return path.stat().st_size
    return 0
