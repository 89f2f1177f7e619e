"""Members of a shard become samples: which belong together, which is the image, which the text.

WebDataset's rule is that members follow one another which agree up to the first dot of their name.
People's keys have dots of their own (``item_v1.17.jpg``), and people name members
(``17.input.jpg`` and ``17.output.txt``). So a sample is what agrees up to the *last* dot, and where
that leaves one image and one text over under the same WebDataset key, they belong together too.
What is an image is said by its content; the suffix only saves looking.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nas_growclip.data.sources.decoding import IMAGE_SUFFIXES, looks_like_image
from nas_growclip.data.sources.tar import Member, read_members

DUPLICATE_KEY = "duplicate key"

PREFERRED_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Which image of several under one key is taken; after these, the first one."""

PLAIN_SUFFIXES = frozenset({"json", "txt", "cls"})
"""Members that are not looked into for an image."""

MAX_OPEN = 64
"""Incomplete samples that one WebDataset key may have at a time."""


class Sample(NamedTuple):
    """Undecoded members of one key; None where the shard lacks one."""

    image: bytes | None
    text: bytes | None
    """Caption or class label."""
    key: str
    fault: str = ""
    """Why a member was not read; empty if all were."""
    name: str = ""
    """Name of its first member."""
    spans: tuple[int, int, int, int] | None = None
    """First bytes and lengths of image and text in the file; None if they cannot be read there."""


class _Name(NamedTuple):
    key: str
    """Up to the last dot."""
    group: str
    """Up to the first dot: WebDataset's key."""
    suffix: str


@dataclass
class _Files:
    """The image and the text of one key, as far as they have come."""

    first: str
    image: Member | None = None
    image_suffix: str = ""
    text: Member | None = None
    suffixes: set[str] = field(default_factory=set)

    @property
    def is_complete(self) -> bool:
        return self.image is not None and self.text is not None

    def add_image(self, suffix: str, member: Member) -> None:
        if self.image is None or _rank(suffix) < _rank(self.image_suffix):
            self.image, self.image_suffix = member, suffix

    def sample(self, key: str) -> Sample:
        members = (self.image, self.text)
        image, text = (member.data if member is not None else None for member in members)
        fault = next((m.fault for m in members if m is not None and m.fault), "")
        return Sample(image, text, key, fault, self.first, self._spans())

    def _spans(self) -> tuple[int, int, int, int] | None:
        if self.image is None or self.text is None:
            return None
        starts = self.image.start, self.text.start
        if starts[0] is None or starts[1] is None:
            return None
        return starts[0], len(self.image.data), starts[1], len(self.text.data)


def read_samples(
    path: Path,
    text: str = "txt",
    faults: Counter[str] | None = None,
    others: list[str] | None = None,
) -> Iterator[Sample]:
    """Every sample of a shard, in stored order, as far as the shard can be read.

    Args:
        path: A tar file, plain or gzipped.
        text: Suffix of the member beside the image: ``txt`` for captions, ``cls`` for labels.
        faults: Counts what is wrong with the shard, and images beyond the first of a key.
        others: Gets the name of the first member that is neither image nor text.
    """
    grouping = _Grouping(Counter() if faults is None else faults)
    for member in read_members(path, grouping.faults):
        name = _split(member.name, text)
        if name is not None and name.suffix == text:
            yield from grouping.add(name, member, is_image=False)
        elif name is not None and _is_image(name.suffix, member):
            yield from grouping.add(name, member, is_image=True)
        elif name is not None and others is not None and not others:
            others.append(member.name)
    yield from grouping.flush()


@dataclass
class _Grouping:
    """What has come of one WebDataset key and is no whole sample yet."""

    faults: Counter[str]
    open: dict[str, _Files] = field(default_factory=dict)
    group: str = ""
    key: str = ""
    num_keys: int = 0
    """Keys that the group has had."""
    is_whole: bool = False
    """Whether the group's plain key was a sample: what else it has are further members of it."""

    def add(self, name: _Name, member: Member, *, is_image: bool) -> Iterator[Sample]:
        """Take one member; give the samples that it brings to an end."""
        if name.group != self.group:
            yield from self.flush()
            self.group = name.group
        elif name.key != self.key:
            yield from self._close()
        self.key = name.key
        self.num_keys += name.key not in self.open
        files = self.open.setdefault(name.key, _Files(member.name))
        if name.suffix in files.suffixes:
            self.faults[DUPLICATE_KEY] += is_image
            return
        files.suffixes.add(name.suffix)
        if is_image:
            files.add_image(name.suffix, member)
        else:
            files.text = member

    def flush(self) -> Iterator[Sample]:
        """Give what is left of the group."""
        yield from self._close()
        left, self.open = self.open, {}
        if self.is_whole:
            left = {}
        elif (merged := self._merged(left)) is not None:
            yield merged.sample(self.group)
            left = {}
        for key, files in left.items():
            yield files.sample(key)
        self.group, self.key, self.num_keys, self.is_whole = "", "", 0, False

    def _close(self) -> Iterator[Sample]:
        """Give the last key's sample if it is whole, and the oldest of too many that are not."""
        files = self.open.get(self.key)
        if files is not None and files.is_complete:
            del self.open[self.key]
            self.is_whole = self.is_whole or self.key == self.group
            yield files.sample(self.key)
        elif len(self.open) > MAX_OPEN:
            oldest = next(iter(self.open))
            yield self.open.pop(oldest).sample(oldest)

    def _merged(self, left: dict[str, _Files]) -> _Files | None:
        """An image and a text that are all that the group has, as ``input`` and ``output``.

        Numbers after the dot are keys that have lost a member, not names.
        """
        names = [key.removeprefix(self.group) for key in left]
        has_digits = any(letter.isdigit() for name in names for letter in name)
        if len(left) != 2 or self.num_keys != 2 or has_digits:
            return None
        one, other = left.values()
        image, text = (one, other) if one.image is not None else (other, one)
        if image.image is None or text.text is None:
            return None
        return _Files(one.first, image.image, image.image_suffix, text.text)


def _split(path: str, text: str) -> _Name | None:
    """A member's name in its parts; None of hidden files and of those without a suffix."""
    folder, slash, base = path.rpartition("/")
    key, dot, suffix = base.rpartition(".")
    if not dot or base.startswith("."):
        return None
    if base.lower().endswith(f".{text}"):  # it may have a dot of its own
        key, suffix = base[: -len(text) - 1], text
    group = base.partition(".")[0]
    return _Name(f"{folder}{slash}{key}", f"{folder}{slash}{group}", suffix.lower())


def _is_image(suffix: str, member: Member) -> bool:
    if suffix in IMAGE_SUFFIXES:
        return True
    return suffix not in PLAIN_SUFFIXES and looks_like_image(member.data)


def _rank(suffix: str) -> int:
    known = suffix in PREFERRED_SUFFIXES
    return PREFERRED_SUFFIXES.index(suffix) if known else len(PREFERRED_SUFFIXES)
