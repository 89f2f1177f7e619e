"""Which pairs are new: by key within a folder, by content, and never one that is held out."""

from pathlib import Path

from nas_growclip.data.sources.dedup import (
    HELD_OUT_PAIR,
    SEEN_KEY,
    SEEN_PAIR,
    Deduplicator,
    pair_identity,
)

HERE, THERE = Path("/here"), Path("/there")


def of(*pairs: tuple[Path, str, bytes, str]) -> bytes:
    return b"".join(pair_identity(*pair) for pair in pairs)


def test_pairs_are_known_by_key_and_by_content() -> None:
    seen = Deduplicator()
    seen.add(of((HERE, "0", b"dog", "a dog")))
    new = of(
        (HERE, "0", b"cat", "a cat"),
        (THERE, "0", b"cat", "a cat"),
        (THERE, "1", b"dog", "a dog"),
        (THERE, "2", b"dog", "one dog"),
    )
    assert seen.take(new) == [SEEN_KEY, "", SEEN_PAIR, ""]
    assert seen.take(new) == [SEEN_KEY, SEEN_KEY, SEEN_PAIR, SEEN_KEY]


def test_held_out_pairs_stay_held_out() -> None:
    seen = Deduplicator()
    seen.hold_out(of((HERE, "0", b"dog", "a dog")))
    assert seen.take(of((THERE, "7", b"dog", "a dog"))) == [HELD_OUT_PAIR]
    assert seen.take(of((HERE, "0", b"cat", "a cat"))) == [HELD_OUT_PAIR]


def test_where_the_image_ends_is_part_of_the_content() -> None:
    assert pair_identity(HERE, "0", b"ab", "c") != pair_identity(HERE, "0", b"a", "bc")


def test_what_was_left_out_is_not_known_by_its_other_half() -> None:
    seen = Deduplicator()
    seen.add(of((HERE, "0", b"dog", "a dog")))
    assert seen.take(of((HERE, "0", b"cat", "a cat"), (HERE, "1", b"cat", "a cat"))) == [
        SEEN_KEY,
        "",
    ]
