"""The notebooks with their outputs: makes the runs they name, runs them, keeps their figures.

The commands stand in the notebooks, in console blocks, so what a reader is told is what is done.

Command: make notebooks    (some five minutes on two cores; the same command resumes)
"""

import argparse
import base64
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
PICTURES = Path("docs/images/notebooks")
TIMEOUT_S = 900


def notebooks(root: Path = ROOT) -> list[Path]:
    """Every notebook, by name."""
    return sorted((root / "analysis").glob("*.ipynb"))


def commands(paths: Sequence[Path]) -> list[str]:
    """The commands that make the notebooks' runs, each once."""
    found = (command for path in paths for command in _commands(path))
    return list(dict.fromkeys(found))


def _commands(path: Path) -> Iterator[str]:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for block in re.findall(r"```console\n(.*?)```", cell.source, flags=re.DOTALL):
                yield from (line for line in block.splitlines() if line.strip())


def run_command(command: str, root: Path) -> None:
    """Run a command in the repository's root; the programs are those beside this Python."""
    beside = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": os.pathsep.join([beside, os.environ.get("PATH", "")])}
    subprocess.run(shlex.split(command), cwd=root, env=environment, check=True)


def execute(path: Path) -> None:
    """Run a notebook from top to bottom and write it with its outputs.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        startup_timeout=TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    ).execute()
    # The Python that ran it is no part of the notebook.
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


def keep_pictures(path: Path, root: Path) -> None:
    """Write a notebook's figures where the docs show them."""
    folder = root / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{path.stem}_*.png"):
        old.unlink()
    for number, image in enumerate(pictures(nbformat.read(path, as_version=4)), start=1):
        (folder / f"{path.stem}_{number}.png").write_bytes(image)


def pictures(notebook: Any) -> Iterator[bytes]:
    """The figures in a notebook's outputs, as PNG."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                yield base64.b64decode(output["data"]["image/png"])


def main() -> None:
    """Make the runs, run the notebooks, keep their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="notebooks without .ipynb; all if none is given")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository")
    parser.add_argument("--no-runs", action="store_true", help="the runs are there")
    given = parser.parse_args()
    root = given.root.resolve()
    paths = [path for path in notebooks(root) if not given.names or path.stem in given.names]
    for command in [] if given.no_runs else commands(paths):
        print(command, flush=True)
        run_command(command, root)
    for path in paths:
        print(path.name, flush=True)
        execute(path)
        keep_pictures(path, root)


if __name__ == "__main__":
    main()
