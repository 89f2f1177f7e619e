"""Held-out pictures among those that are trained on: what a model has seen it is not tested on.

Pictures are compared by the bytes of their files, whatever the captions, keys and shards they stand
under. The same picture from another download often differs in its bytes and is not found.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from nas_growclip.data.pairs import FirstPairs, ImageTextPairs
from nas_growclip.data.sources.dedup import IDENTITY_SIZE, image_ids


@runtime_checkable
class IdentifiedPairs(Protocol):
    """Pairs that are known by their content, as those of files are."""

    def identities(self) -> Iterator[bytes]:
        """What the pairs are known by, as ``pair_identity`` gives it, any number at a time."""
        ...


def known_by(pairs: ImageTextPairs) -> bytes:
    """What pairs are known by, one after the other; empty of those that are not by content."""
    if isinstance(pairs, FirstPairs):
        return known_by(pairs.pairs)[: pairs.num_pairs * IDENTITY_SIZE]
    return b"".join(pairs.identities()) if isinstance(pairs, IdentifiedPairs) else b""


def count_leaks(train: ImageTextPairs, held_out: Mapping[str, ImageTextPairs]) -> dict[str, int]:
    """How many pairs of each held-out split have a picture that is trained on.

    Args:
        train: What is trained on.
        held_out: Splits by name.

    Returns:
        The number for each split, 0 where there is none.
    """
    if not isinstance(train, IdentifiedPairs):
        return {}
    images = {split: list(image_ids(known_by(pairs))) for split, pairs in held_out.items()}
    measured_on = {image for split in images.values() for image in split}
    trained_on = {
        image
        for identity in train.identities()
        for image in image_ids(identity)
        if image in measured_on
    }
    return {split: sum(image in trained_on for image in found) for split, found in images.items()}


def check_leaks(
    leaks: Mapping[str, int], held_out: Mapping[str, ImageTextPairs], most: float
) -> list[str]:
    """Refuse splits of which more than a share is trained on.

    Args:
        leaks: As ``count_leaks`` gives them.
        held_out: The splits by name.
        most: The share that may be.

    Returns:
        A line for each split of which some, but no more, is.

    Raises:
        ValueError: If a split has more.
    """
    lines = []
    for split, number in leaks.items():
        total = held_out[split].num_pairs
        what = f"data.{split}: {number} of {total} pairs have a picture that data.train has too"
        if number > most * total:
            raise ValueError(
                f"{what}, but at most {most:.0%} may (data.max_leaked_share). Take them out of one "
                "of the two, or raise data.max_leaked_share to measure on them all the same."
            )
        if number:
            lines.append(what)
    return lines
