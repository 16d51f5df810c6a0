"""The targets, by name."""

from __future__ import annotations

from typing import Final

from ..target import Target
from . import (
    commands,
    formats,
    frames,
    handshakes,
    items,
    key_sets,
    origins,
    publishing,
    receipts,
    servers,
    streams,
    terminals,
    tokens,
)

_FOR_SERVERS: Final = (handshakes, frames, commands, formats, tokens, key_sets, streams, publishing, origins)
_FOR_CLIENTS: Final = (servers, items, receipts, terminals)

TARGETS: Final[dict[str, Target]] = {
    target.name: target for module in (*_FOR_SERVERS, *_FOR_CLIENTS) for target in module.TARGETS
}
