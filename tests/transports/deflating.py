"""permessage-deflate of a client that compresses each message by itself."""

from __future__ import annotations

import zlib
from typing import Final

TAIL: Final = b"\x00\x00\xff\xff"
RSV1: Final = 0b100
OFFER: Final = "Sec-WebSocket-Extensions: permessage-deflate"


def deflate(data: bytes, level: int = 6) -> bytes:
    """Compress as a client without context takeover."""
    squeezer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (squeezer.compress(data) + squeezer.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]


def inflate(data: bytes, window: int = 15) -> bytes:
    """Inflate as a client that has negotiated `server_no_context_takeover`."""
    return zlib.decompressobj(-window).decompress(data + TAIL)


BOMB: Final = deflate(b"\0" * 64 * 1024 * 1024, level=9)
