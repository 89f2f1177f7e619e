"""Options that several commands take, and how their values are read."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_growclip.io.ranges import at_least, require_in_range
from nas_growclip.models.arch import PRESETS, ClipArch

if TYPE_CHECKING:
    from nas_growclip.growth.space import GrowthSpace

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="run folder")]
RunOption = Annotated[Path, typer.Option("--out", metavar="RUN", help="run folder")]
NewFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="a new or empty folder")]
ExperimentFile = Annotated[
    Path,
    typer.Argument(
        metavar="EXPERIMENT.yaml", help="an experiment, or the name of one that is shipped, as demo"
    ),
]
Checkpoint = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="checkpoint folder")]
DataFolder = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="where data paths start")
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="torch device; default: cuda if there is one, else cpu"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

ARCH_HELP = f"a preset ({', '.join(PRESETS)}), a YAML or JSON file, or a checkpoint folder"


def read_space(path: Path | None, parent: str) -> "GrowthSpace":
    """A growth space from a file or its name, else from the run that a parent is a stage of.

    Raises:
        ValueError: If the file is bad, or none is given and the parent is of no run.
    """
    from nas_growclip.growth.space import load_space
    from nas_growclip.records.folder import RunFolder

    if path is not None:
        return load_space(path)
    config = RunFolder(Path(parent).resolve().parent).config
    if parent in PRESETS or not Path(parent).is_dir() or not config.is_file():
        raise ValueError(
            f"--space must be given unless PARENT is a stage's folder in a run folder, "
            f"but got PARENT={parent!r}. Give a file, or the name of one that is shipped, as in "
            "--space tiny."
        )
    return load_space(config)


def parse_size(text: str) -> tuple[str, int]:
    """Read ``image.width=96``.

    Raises:
        ValueError: If it has another form.
    """
    dimension, equals, size = text.partition("=")
    if not equals or not size.isdecimal():
        raise ValueError(f"--set must be DIMENSION=SIZE, as in image.width=96, but got {text!r}.")
    return dimension, int(size)


def parse_coefficient(text: str) -> tuple[str, float]:
    """Read ``curve_steepness=0.5``.

    Raises:
        ValueError: If it has another form.
    """
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"--set must be COEFFICIENT=NUMBER, as in curve_steepness=0.5, but got {text!r}."
        )
    return name, number


def read_arch(text: str) -> ClipArch:
    """An architecture from a preset's name, a file, or a checkpoint folder.

    Raises:
        ValueError: If it is none of them.
    """
    path = Path(text)
    if text in PRESETS:
        return ClipArch.preset(text)
    if (path / "arch.json").is_file():
        return ClipArch.load(path / "arch.json")
    if path.is_dir():
        from nas_growclip.interop.importing import checkpoint_arch

        return checkpoint_arch(path)
    if path.is_file():
        return ClipArch.load(path)
    raise ValueError(
        f"{text!r} must be a preset ({', '.join(PRESETS)}), a file or a checkpoint folder, "
        "but is none of them."
    )


def require_at_least_one(option: str, value: int | None) -> None:
    """Refuse counts below 1; None stands for an option that was not given.

    Raises:
        ValueError: If it is one.
    """
    if value is not None:
        require_in_range(option, value, at_least(1))


def require_new_folder(path: Path) -> None:
    """Refuse to write into a folder that holds something.

    Raises:
        ValueError: If it does.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--out must be a new or empty folder, but {path} holds something.")
