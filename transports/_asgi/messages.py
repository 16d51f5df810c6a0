"""From the hub's frames to ASGI messages: one text, or one `bytes` object, for all members of a cohort.

The hub writes bytes to a transport, several frames at once if that much is due. On ASGI each frame is a message of its
own, so each is preceded by its length. A write is split for the first client and the messages are cached: the other
clients are written the very same object, one after the other. Each is sent a copy of the message around the payload,
because a middleware may change it: those that compress do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from ...protocol import Parsed
from ...protocol.formats import JSON, MSGPACK, Format

Part: TypeAlias = tuple[dict[str, Any], int]
"""A message, and how many bytes of payload it holds."""
Unpack: TypeAlias = Callable[[bytes], Sequence[Part]]

_LENGTH: Final = 4


class MessageWire:
    """One format, every frame preceded by its length."""

    has_cursor = False

    def __init__(self, format: Format) -> None:  # noqa: A002 - the name of the thing
        self.name = f"asgi.{format.name}"
        self._format = format
        self._join = format.join

    def frame(self, items: Sequence[bytes]) -> bytes:
        payload = self._join(items)
        return len(payload).to_bytes(_LENGTH, "big") + payload

    def parse(self, data: str | bytes) -> list[Parsed]:
        return self._format.parse(data)


class MessageCache:
    """The messages of the last write, which the next client is usually written too."""

    __slots__ = ("_unpack", "frame", "parts")

    def __init__(self, unpack: Unpack) -> None:
        self._unpack = unpack
        self.frame = b""
        self.parts: Sequence[Part] = ()

    def unpack(self, frame: bytes) -> Sequence[Part]:
        """Cache the messages in `frame` as `parts`, and return them."""
        self.parts = self._unpack(frame)
        self.frame = frame
        return self.parts


def unpack_text(frame: bytes) -> Sequence[Part]:
    """WebSocket messages of a text format."""
    # Raw JSON of a publisher may be invalid UTF-8; that must not end the connections of its subscribers.
    return [({"type": "websocket.send", "text": str(each, "utf-8", "replace")}, len(each)) for each in _split(frame)]


def unpack_binary(frame: bytes) -> Sequence[Part]:
    """WebSocket messages of a binary format."""
    return [({"type": "websocket.send", "bytes": each}, len(each)) for each in _split(frame)]


def unpack_body(frame: bytes) -> Sequence[Part]:
    """A part of the body of a response."""
    return [({"type": "http.response.body", "body": frame, "more_body": True}, len(frame))]


def _split(frame: bytes) -> list[bytes]:
    payloads = []
    at = 0
    while at < len(frame):
        start = at + _LENGTH
        at = start + int.from_bytes(frame[at:start], "big")
        payloads.append(frame[start:at])
    return payloads


WIRES: Final = {each.name: MessageWire(each) for each in (JSON, MSGPACK)}
