"""Versions of installed packages, and of this one where it runs without being installed."""

from contextlib import suppress
from importlib import metadata

UNKNOWN = "0+unknown"
"""This package's version where it runs from a folder of sources that pip was not told of."""


def installed_version(package: str) -> str | None:
    """A package's version, read without importing it; None if it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def own_version() -> str:
    """This package's version; ``UNKNOWN`` if it is not installed."""
    return installed_version("nas_growclip") or UNKNOWN
