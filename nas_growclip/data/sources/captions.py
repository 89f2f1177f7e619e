"""Which member or file beside an image holds its caption, and how it is written there."""

import json
from dataclasses import dataclass

from nas_growclip.data.config import FilesConfig, WebdatasetConfig
from nas_growclip.data.sources.bad_share import NOT_UTF8


@dataclass(frozen=True)
class CaptionFormat:
    """Where captions are: ``KEY.txt`` by default."""

    suffix: str = "txt"
    """What follows the key and the dot; of ``json`` one value is taken."""
    json_key: str = "caption"
    """The name of that value."""

    @classmethod
    def of(cls, config: WebdatasetConfig | FilesConfig) -> "CaptionFormat":
        """As a source's settings say."""
        return cls(config.caption_suffix, config.caption_json_key)

    def text(self, data: bytes | None) -> bytes | str | None:
        """The caption's bytes; None if there is none, the reason, as text, if it is no caption."""
        if data is None or self.suffix.rpartition(".")[2] != "json":
            return data
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            return NOT_UTF8
        value = values.get(self.json_key) if isinstance(values, dict) else None
        if value is None:
            return None
        return value.encode("utf-8", "replace") if isinstance(value, str) else NOT_UTF8


PLAIN_CAPTIONS = CaptionFormat()
