"""Figures as files: PNG, SVG and PDF, the same bytes for the same records."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from nas_growclip.io.choices import require_choice
from nas_growclip.io.files import write_atomically
from nas_growclip.plots.drawing import DPI, STYLE

FORMATS: Mapping[str, Mapping[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""What each format would note of the time; None keeps it out."""

_AS_FILE: Mapping[Any, Any] = {
    "svg.hashsalt": "nas_growclip",  # or else ids are drawn at random
    "pdf.fonttype": 42,  # journals want TrueType fonts, which can be edited
}


def to_bytes(figure: Figure, file_format: str) -> bytes:
    """A figure as a file of this format: ``png``, ``svg`` or ``pdf``.

    Raises:
        ValueError: If the format is another one.
    """
    require_choice(file_format, FORMATS, "format")
    buffer = io.BytesIO()
    with mpl.rc_context({**STYLE, **_AS_FILE}):
        figure.savefig(
            buffer,
            format=file_format,
            dpi=DPI,
            facecolor="white",
            metadata=dict(FORMATS[file_format]),
        )
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure into a file, in the format that its suffix says.

    Args:
        figure: Any figure.
        path: Ends in ``.png``, ``.svg`` or ``.pdf``; the folder must be there.

    Raises:
        ValueError: If the suffix is another one, or the file cannot be written.
    """
    write_atomically(Path(path), to_bytes(figure, Path(path).suffix.removeprefix(".").lower()))
