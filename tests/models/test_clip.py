"""The model: shapes, unit length, causality, pooling, and agreement with open_clip's parts."""

import torch
from open_clip.loss import ClipLoss
from torch.nn import functional

from nas_growclip.models.arch import END_OF_TEXT, ClipArch
from nas_growclip.models.clip import Clip


def images_for(model: Clip, count: int = 3) -> torch.Tensor:
    size = model.arch.image.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_embeddings_have_unit_length_and_the_right_shape(tiny_parent: Clip) -> None:
    images = tiny_parent.encode_image(images_for(tiny_parent))
    texts = tiny_parent.encode_text(tiny_parent.tokenize(["a cat", "two dogs", ""]))
    for embeddings in (images, texts):
        assert embeddings.shape == (3, tiny_parent.arch.embed_dim)
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))


def test_what_follows_the_end_of_text_does_not_matter(tiny_parent: Clip) -> None:
    tokens = tiny_parent.tokenize(["a cat"])
    end = int((tokens[0] == END_OF_TEXT).nonzero()[0])
    noisy = tokens.clone()
    noisy[0, end + 1 :] = 17
    torch.testing.assert_close(tiny_parent.encode_text(noisy), tiny_parent.encode_text(tokens))


def test_ids_above_end_of_text_do_not_move_the_pooling(tiny_arch: ClipArch) -> None:
    bigger = ClipArch.from_dict(
        tiny_arch.to_dict() | {"text": tiny_arch.to_dict()["text"] | {"vocab_size": 49500}}
    )
    model = Clip(bigger).eval()
    tokens = model.tokenize(["a cat"])
    noisy = tokens.clone()
    noisy[0, -1] = 49450
    torch.testing.assert_close(model.encode_text(noisy), model.encode_text(tokens))


def test_without_shared_encoder_pooling_first_changes_nothing(tiny_arch: ClipArch) -> None:
    model = Clip(tiny_arch.with_size("shared.depth", 0)).eval()
    images, tokens = images_for(model), model.tokenize(["a cat", "two dogs"])
    expected = model.encode_image(images), model.encode_text(tokens)
    model.image.pool_first = model.text.pool_first = False
    actual = model.encode_image(images), model.encode_text(tokens)
    torch.testing.assert_close(actual, expected)


def test_same_seed_same_weights_and_global_state_untouched(tiny_arch: ClipArch) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two = Clip(tiny_arch, seed=3), Clip(tiny_arch, seed=3)
    assert torch.equal(torch.rand(1), expected)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.text.pos_embed, Clip(tiny_arch, seed=4).text.pos_embed)


def test_forward_feeds_open_clips_loss(tiny_parent: Clip) -> None:
    images, tokens = images_for(tiny_parent), tiny_parent.tokenize(["a", "b", "c"])
    image, text, scale = tiny_parent(images, tokens)
    logits, labels = scale * image @ text.T, torch.arange(3)
    by_hand = functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)
    torch.testing.assert_close(ClipLoss()(image, text, scale), by_hand / 2)


def test_long_texts_are_cut_to_the_context(tiny_parent: Clip) -> None:
    tokens = tiny_parent.tokenize(["one two three four five six seven eight nine ten"])
    assert tokens.shape == (1, tiny_parent.arch.text.context_length)
    assert tokens[0, -1] == END_OF_TEXT
