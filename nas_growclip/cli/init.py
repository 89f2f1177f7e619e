"""The command that writes an experiment to start from."""

from pathlib import Path
from typing import Annotated

import jinja2
import typer

from nas_growclip.cli.choices import Source
from nas_growclip.cli.options import read_arch
from nas_growclip.io.files import write_atomically
from nas_growclip.io.shipped import SHIPPED
from nas_growclip.models.arch import PRESETS

TRAINED = {"batch_size": 512, "learning_rate": "1.0e-4", "warmup_steps": 500}
"""For a model that is trained already."""
FRESH = {"batch_size": 64, "learning_rate": "1.0e-3", "warmup_steps": 50}


def init(
    experiment: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.yaml", help="the file to write; must be new")
    ],
    source: Annotated[Source, typer.Option(help="where the pairs come from")] = "scenes",
    parent: Annotated[
        str,
        typer.Option(
            metavar="PRESET_OR_FOLDER", help="the first model: a preset, or a checkpoint's folder"
        ),
    ] = "tiny",
) -> None:
    """Write an annotated experiment, ready to be edited and run.

    Example:
        growclip init mine.yaml --source webdataset --parent tiny_64px
    """
    if experiment.exists():
        raise ValueError(f"{experiment}: must be a new file, but there is one. Name another.")
    write_atomically(experiment, experiment_yaml(experiment, source, parent).encode())
    print(f"Written: {experiment}. Edit it, then: {run_command(experiment, source)}")


def experiment_yaml(file: Path, source: Source, parent: str) -> str:
    """An annotated experiment.

    Raises:
        ValueError: If the parent is no preset and no checkpoint's folder.
    """
    arch = read_arch(parent)
    text = (SHIPPED / "experiment.yaml.jinja").read_text(encoding="utf-8")
    template = jinja2.Template(text, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    written: str = template.render(
        command=run_command(file, source),
        source=source,
        parent=parent,
        has_shared=arch.shared.depth > 0,
        image_size=arch.image.image_size,
        presets=", ".join(PRESETS),
        **(FRESH if parent in PRESETS else TRAINED),
    )
    return written


def run_command(file: Path, source: Source) -> str:
    """What runs an experiment."""
    where = "" if source == "scenes" else " --data DATA"
    return f"growclip run {file} --out runs/{file.stem}{where}"
