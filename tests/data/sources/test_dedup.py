"""Which pairs are new: by content alone, and never one whose picture is held out."""

from nas_growclip.data.sources.decoding import image_digest
from nas_growclip.data.sources.dedup import (
    HELD_OUT_PAIR,
    IDENTITY_SIZE,
    SEEN_PAIR,
    Deduplicator,
    image_ids,
    pair_identity,
)


def of(*pairs: tuple[bytes, str]) -> bytes:
    return b"".join(pair_identity(image_digest(image), caption) for image, caption in pairs)


def test_pairs_are_known_by_image_and_caption() -> None:
    seen = Deduplicator()
    seen.add(of((b"dog", "a dog")))
    new = of((b"cat", "a cat"), (b"dog", "a dog"), (b"dog", "one dog"))
    assert seen.take(new) == ["", SEEN_PAIR, ""]
    assert seen.take(new) == [SEEN_PAIR] * 3


def test_held_out_pictures_stay_held_out_under_any_caption() -> None:
    seen = Deduplicator()
    seen.hold_out(of((b"dog", "a dog")))
    assert seen.take(of((b"dog", "a dog"), (b"dog", "one dog"), (b"cat", "a dog"))) == [
        HELD_OUT_PAIR,
        HELD_OUT_PAIR,
        "",
    ]


def test_where_the_image_ends_is_part_of_the_content() -> None:
    assert of((b"ab", "c")) != of((b"a", "bc"))


def test_what_was_left_out_is_not_known_from_then_on() -> None:
    seen = Deduplicator()
    seen.hold_out(of((b"dog", "a dog")))
    assert seen.take(of((b"dog", "one dog"), (b"cat", "one dog"))) == [HELD_OUT_PAIR, ""]


def test_images_of_identities_come_in_order() -> None:
    identities = of((b"dog", "a"), (b"cat", "b"))
    assert len(identities) == 2 * IDENTITY_SIZE
    assert list(image_ids(identities)) == [image_digest(b"dog"), image_digest(b"cat")]
