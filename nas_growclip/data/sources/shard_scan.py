"""One pass over a shard: how many of its pairs are usable, which are not and why."""

import functools
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from nas_growclip.data.pairs import Pair
from nas_growclip.data.sources.bad_share import FILE_DAMAGE, MEMBERS_APART
from nas_growclip.data.sources.captions import PLAIN_CAPTIONS, CaptionFormat
from nas_growclip.data.sources.decoding import decode_pair
from nas_growclip.data.sources.dedup import pair_identity
from nas_growclip.data.sources.members import DUPLICATE_KEY, Sample, read_samples
from nas_growclip.data.sources.scan_cache import SPANS, ShardScan, kept_scan

COMPLEMENTS = {"missing image": "missing caption", "missing caption": "missing image"}


def scan_shard(path: Path, captions: CaptionFormat = PLAIN_CAPTIONS) -> ShardScan:
    """Count a shard's usable pairs; remembered until the file changes.

    Args:
        path: The shard.
        captions: Which members hold the captions.

    Raises:
        ValueError: If the file cannot be read from the disk.
    """
    stat = path.stat()
    return _scan(path, stat.st_size, stat.st_mtime_ns, captions)


def pair_of(sample: Sample, captions: CaptionFormat) -> Pair | str:
    """A decoded pair; the reason, as text, if the sample is none."""
    if sample.fault:
        return sample.fault
    text = captions.text(sample.text)
    return text if isinstance(text, str) else decode_pair(sample.image, text)


@functools.cache
def _scan(path: Path, size: int, mtime_ns: int, captions: CaptionFormat) -> ShardScan:
    """Size and time are the key of the cache, beside the path."""
    how = f"{captions.suffix} {captions.json_key}"
    return kept_scan(path, how, functools.partial(_read_through, captions=captions))


@dataclass
class _Pass:
    """What a pass has found so far."""

    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    unusable: set[int] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    halves: dict[str, str] = field(default_factory=dict)
    """Keys of which one member was found, and the reason that it was counted under."""
    identities: bytearray = field(default_factory=bytearray)
    spans: bytearray = field(default_factory=bytearray)

    def take(self, position: int, sample: Sample, pair: Pair | str) -> None:
        """Count one sample."""
        if not isinstance(pair, str) and sample.key in self.keys:
            pair = DUPLICATE_KEY
        if isinstance(pair, str):
            self.unusable.add(position)
            self._skip(sample, pair)
        else:
            self.keys.add(sample.key)
            self.identities += pair_identity(pair.image_id, pair.caption)
            if sample.spans is not None:
                self.spans += SPANS.pack(*sample.spans)

    def _skip(self, sample: Sample, reason: str) -> None:
        other_half = self.halves.get(sample.key)
        if other_half is not None and other_half == COMPLEMENTS.get(reason):
            del self.halves[sample.key]
            self.skipped[other_half] -= 1
            reason = MEMBERS_APART
        elif reason in COMPLEMENTS:
            self.halves[sample.key] = reason
        self.skipped[reason] += 1
        self.examples.setdefault(reason, repr(sample.name))


def _read_through(path: Path, captions: CaptionFormat) -> ShardScan:
    found, others, position = _Pass(), list[str](), -1
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        samples = read_samples(path, captions.suffix, found.skipped, others)
        for position, sample in enumerate(samples):
            found.take(position, sample, pair_of(sample, captions))
    except OSError as error:
        raise ValueError(f"{path}: must be readable, but: {error}. Check the disk.") from None
    skipped = dict(+found.skipped)
    damage = {reason: repr(str(path)) for reason in FILE_DAMAGE if reason in skipped}
    num_pairs = position + 1 - len(found.unusable)
    return ShardScan(
        num_pairs=num_pairs,
        num_bytes=num_bytes,
        unusable=frozenset(found.unusable),
        sha256=sha256,
        skipped=skipped,
        identities=bytes(found.identities),
        examples={k: f"{v} in {path.name}" for k, v in found.examples.items() if k in skipped}
        | damage,
        other_member=others[0] if others else "",
        spans=bytes(found.spans) if len(found.spans) == num_pairs * SPANS.size else b"",
    )
