"""From the hub's frames to ASGI messages: one text, or piece of bytes, for all members of a cohort.

The hub hands a transport bytes, several frames in one piece if that much is due. On ASGI each frame is a message of
its own, so each carries its length in front. A piece is taken apart when the first client gets it, and all others
find it done: they come one after the other with the very same object. Each is sent a copy of the message around it,
because a middleware may change that: those that compress do.
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
    """One format, every frame with its length in front."""

    has_cursor = False

    def __init__(self, format: Format) -> None:  # noqa: A002 - what it is
        self.name = f"asgi.{format.name}"
        self._format = format
        self._join = format.join

    def frame(self, items: Sequence[bytes]) -> bytes:
        payload = self._join(items)
        return len(payload).to_bytes(_LENGTH, "big") + payload

    def parse(self, data: str | bytes) -> list[Parsed]:
        return self._format.parse(data)


class MessageCache:
    """Remembers the messages of the last piece, which is the next client's too."""

    __slots__ = ("_unpack", "frame", "parts")

    def __init__(self, unpack: Unpack) -> None:
        self._unpack = unpack
        self.frame = b""
        self.parts: Sequence[Part] = ()

    def open(self, frame: bytes) -> Sequence[Part]:
        """The messages in `frame`; `parts`, as long as it is the same object."""
        self.parts = self._unpack(frame)
        self.frame = frame
        return self.parts


def unpack_text(frame: bytes) -> Sequence[Part]:
    """WebSocket messages of a text format."""
    # What a publisher nested as raw JSON may be no UTF-8; that must not be everybody's problem.
    return [({"type": "websocket.send", "text": str(one, "utf-8", "replace")}, len(one)) for one in _split(frame)]


def unpack_binary(frame: bytes) -> Sequence[Part]:
    """WebSocket messages of a binary format."""
    return [({"type": "websocket.send", "bytes": one}, len(one)) for one in _split(frame)]


def unpack_body(frame: bytes) -> Sequence[Part]:
    """A piece of the body of a response."""
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
