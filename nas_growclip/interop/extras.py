"""Packages that only some exports need."""

from collections.abc import Iterable
from importlib import import_module


def require_packages(packages: Iterable[str], what: str, extra: str) -> None:
    """Refuse what cannot be done without the packages of an extra.

    Raises:
        ValueError: If one of them is missing; the message says what to install.
    """
    try:
        for package in packages:
            import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{what} needs {', '.join(packages)}, but {error.name!r} is missing. "
            f"Run: pip install 'nas_growclip[{extra}]'."
        ) from None
