"""Embed a set of pairs once, each image once; the metrics share the result."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nas_growclip.data.batches import fixed_batches
from nas_growclip.data.encoding import PairBatch, PairEncoder
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.evaluation.texts import embed_texts
from nas_growclip.io.progress import track
from nas_growclip.models.clip import Clip


@dataclass(frozen=True)
class EmbeddedPairs:
    """Unit-length embeddings of images and of their captions, and what makes logits of them."""

    images: Float[Tensor, "images embed_dim"]
    """Of each image once, in the order of their first captions."""
    texts: Float[Tensor, "texts embed_dim"]
    captions: tuple[str, ...]
    image_of_text: Int[Tensor, " texts"]
    """Row of the image that each caption belongs to."""
    scale_and_bias: tuple[float, ...]
    """The scale of the model's logits, and their bias where it has one."""

    @property
    def has_repeats(self) -> bool:
        """Whether an image has several captions."""
        return len(self.images) < len(self.texts)


def one_caption_each(
    images: Float[Tensor, "pairs embed_dim"],
    texts: Float[Tensor, "pairs embed_dim"],
    captions: Sequence[str],
    scale_and_bias: tuple[float, ...],
) -> EmbeddedPairs:
    """Pairs that are all of different images."""
    return EmbeddedPairs(images, texts, tuple(captions), torch.arange(len(texts)), scale_and_bias)


@torch.no_grad()
def embed_pairs(
    model: Clip, pairs: ImageTextPairs, batch_size: int, label: str | None = None
) -> EmbeddedPairs:
    """Embed every image and every wording once; show progress under a label.

    Captions keep their stored order.
    """
    encoder = PairEncoder(model.arch.image, model.tokenize)
    device = model.logit_scale.device
    images, tokens = list[Tensor](), list[Tensor]()
    captions, image_of_text = list[str](), list[int]()
    rows, text_rows = dict[int, int](), dict[str, int]()
    batches = fixed_batches(pairs, encoder, batch_size)
    if label is not None:
        batches = track(batches, total=-(-pairs.num_pairs // batch_size), label=label)
    with evaluation_mode(model):
        for batch in batches:
            places, of_text = _new_images(batch, rows)
            if places:
                pixels = batch.images if len(places) == len(of_text) else batch.images[places]
                images.append(model.encode_image(pixels.to(device)).float().cpu())
            new = _new_captions(batch.captions, text_rows)
            tokens.append(batch.tokens[new].int())
            captions.extend(batch.captions)
            image_of_text.extend(of_text)
        all_texts = embed_texts(model, _joined(tokens), batch_size)
    scale_and_bias = tuple(value.item() for value in model.scale_and_bias())
    all_images = _joined(images)
    if len(text_rows) < len(captions):
        all_texts = all_texts[[text_rows[caption] for caption in captions]]
    return EmbeddedPairs(
        all_images,
        all_texts,
        tuple(captions),
        torch.tensor(image_of_text),
        scale_and_bias,
    )


def _joined(parts: list[Tensor]) -> Tensor:
    """The parts one below the other; the list is emptied, so that memory holds them once."""
    joined = torch.cat(parts)
    parts.clear()
    return joined


def _new_images(batch: PairBatch, rows: dict[int, int]) -> tuple[list[int], list[int]]:
    """Places of images that have no row yet, which they get, and the row of every place."""
    if batch.image_ids is None:
        first = len(rows)
        of_text = list(range(first, first + len(batch.captions)))
        rows.update((-1 - row, row) for row in of_text)
        return list(range(len(of_text))), of_text
    new, of_text = list[int](), list[int]()
    for place, image_id in enumerate(batch.image_ids.tolist()):
        if image_id not in rows:
            rows[image_id] = len(rows)
            new.append(place)
        of_text.append(rows[image_id])
    return new, of_text


def _new_captions(captions: Sequence[str], rows: dict[str, int]) -> list[int]:
    """Places of wordings that have no row yet, which they get."""
    new = list[int]()
    for place, caption in enumerate(captions):
        if caption not in rows:
            rows[caption] = len(rows)
            new.append(place)
    return new


@contextmanager
def evaluation_mode(model: Clip) -> Iterator[None]:
    """Have a model in evaluation mode; afterwards it is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def require_finite(values: Float[Tensor, "rows columns"], what: str) -> None:
    """Refuse numbers that compare with nothing: every ranking of them would look perfect.

    Args:
        values: One row an image or text.
        what: Name of the rows in the message.

    Raises:
        ValueError: If one is NaN or infinite.
    """
    is_bad = ~values.isfinite().all(dim=1)
    if is_bad.any():
        raise ValueError(
            f"{what} must be finite numbers, but {int(is_bad.sum())} of {len(values)} are not. "
            "The model's weights hold NaN or infinity, or overflow: measure an earlier checkpoint."
        )
