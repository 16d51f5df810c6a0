"""A wire for tests: one JSON array and a line break for each frame, so that a write of several can be split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from analytics_hub.protocol import Parsed, parse_json

Fields = dict[str, Any]
"""One item as a client reads it."""


@dataclass(frozen=True)
class LineWire:
    """Sessions with wires of different names must never share a frame."""

    name: str = "line"

    @property
    def has_cursor(self) -> bool:
        return False

    def frame(self, items: Sequence[bytes]) -> bytes:
        return b"[" + b",".join(items) + b"]\n"

    def parse(self, data: str | bytes) -> list[Parsed]:
        return parse_json(data)


def read_frames(write: bytes) -> list[list[Fields]]:
    """The frames of one write, each a list of items."""
    assert write.endswith(b"]\n"), write
    return [msgspec.json.decode(line, type=list[Fields]) for line in write.split(b"\n")[:-1]]
