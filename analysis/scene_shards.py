"""Rendered scenes as shards of two kinds, for the notebook on forgetting: pictures, and negatives.

The first shard to train on has pictures, the second one negatives of other pictures; held-out pairs
of each kind lie beside them.

Command: python -m analysis.scene_shards runs/notebooks/shards    (seconds)
"""

import argparse
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from nas_growclip.data.sources.scenes import scene_pairs


class Kind(NamedTuple):
    """How pairs of a kind differ from scenes as they are rendered."""

    change: Callable[[Image.Image], Image.Image]
    caption: str


PICTURES = Kind(lambda image: image, "{}")
NEGATIVES = Kind(ImageOps.invert, "a negative of {}")

SHARDS: Mapping[str, tuple[Kind, int]] = {
    "train/00000": (PICTURES, 128),
    "train/00001": (NEGATIVES, 128),
    "validation": (PICTURES, 64),
    "test": (PICTURES, 64),
    "pictures": (PICTURES, 64),
    "negatives": (NEGATIVES, 64),
}
"""Each shard's kind and number of pairs; no scene is in two of them."""


def write_shards(folder: Path) -> None:
    """Write every shard of ``SHARDS``; the same bytes each time."""
    for seed, (name, (kind, size)) in enumerate(SHARDS.items()):
        path = folder / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for member, content in members(kind, seed, size):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def members(kind: Kind, seed: int, size: int) -> Iterator[tuple[str, bytes]]:
    """Files of a shard: a picture and its caption for each pair."""
    for index, pair in enumerate(scene_pairs("train", size, seed=seed, image_size=16).epoch(None)):
        png = io.BytesIO()
        kind.change(pair.image).save(png, "PNG")
        yield f"{index:06d}.png", png.getvalue()
        yield f"{index:06d}.txt", kind.caption.format(pair.caption).encode()


def main() -> None:
    """Write them into the folder that is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    write_shards(parser.parse_args().folder)


if __name__ == "__main__":
    main()
