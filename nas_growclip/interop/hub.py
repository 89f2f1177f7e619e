"""Files of a model on the Hugging Face hub."""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

HUB = "hf-hub:"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def repository(name: str) -> str:
    """The repository of ``hf-hub:OWNER/NAME``.

    Raises:
        ValueError: If it is not of this form.
    """
    found = name.removeprefix(HUB)
    if not is_repository(found):
        raise ValueError(f"{name[:100]!r} must be {HUB}OWNER/NAME, as in {HUB}laion/CLIP-ViT-B-32.")
    return found


def is_repository(name: str) -> bool:
    """Whether a name could be a repository's: an owner and a name, and no way out of them."""
    return _NAME.fullmatch(name) is not None and ".." not in name and "--" not in name


def hub_file(name: str, *files: str) -> Path | None:
    """The first of some files that a repository has, downloaded; None if it has none of them.

    Args:
        name: ``hf-hub:OWNER/NAME``.
        files: Names of files, the preferred ones first.

    Raises:
        ValueError: If the hub cannot be asked.
    """
    unreachable: Exception | None = None
    for file in files:
        try:
            return Path(huggingface_hub.hf_hub_download(repository(name), file))
        except LocalEntryNotFoundError as error:  # neither in the cache nor to be asked for
            unreachable = error
        except EntryNotFoundError:
            continue
        except (OSError, RuntimeError) as error:
            raise download_error(name, error) from None
    if unreachable is not None:
        raise download_error(name, unreachable)
    return None


def download_error(what: str, error: Exception) -> ValueError:
    """A failed download in one line."""
    reason = " ".join(str(error).split())[:200]
    return ValueError(f"{what}: cannot be downloaded: {type(error).__name__}: {reason}.")
