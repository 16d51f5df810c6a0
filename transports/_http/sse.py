"""Server-sent events: the form of a batch, a heartbeat and the end. The streams themselves belong to the servers.

A batch is an event `batch`. Its data is the array of items, its id a cursor over all channels (`cursor.py`), so that a
browser's `EventSource` resumes by itself. Heartbeats are comments.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from ...contracts import Gateway
from ...core.wire import Positions
from ...protocol import CloseCode, Parsed
from ...protocol.formats import JSON
from .._refusal import close_item
from .cursor import encode_cursor

CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"
_HEARTBEAT: Final = b":\n\n"
_LONG_RETRY: Final = frozenset({CloseCode.TRY_AGAIN_LATER, CloseCode.MALFORMED, CloseCode.TOO_MANY_COMMANDS})
"""Close codes after which an immediate reconnect would make matters worse."""


class EventWire:
    """Batches as events. Each frame has the position of its stream after the frame was received."""

    name = "sse.json"
    has_cursor = True

    def frame(self, items: Sequence[bytes]) -> bytes:
        return _event(items) if items else _HEARTBEAT

    def frame_at(self, items: Sequence[bytes], positions: Positions) -> bytes:
        # Without an id the browser keeps the last one: before `$subscribed` that is where it resumes from.
        if not positions:
            return self.frame(items)
        return b"id: %b\n%b" % (encode_cursor(positions).encode(), _event(items))

    def parse(self, data: str | bytes) -> list[Parsed]:
        return JSON.parse(data)


WIRE: Final = EventWire()


def _event(items: Sequence[bytes]) -> bytes:
    data = JSON.join(items)
    if b"\n" in data or b"\r" in data:
        # Between tokens of JSON that was published raw; within a text they are always escaped.
        data = data.replace(b"\n", b" ").replace(b"\r", b" ")
    return b"event: batch\ndata: %b\n\n" % data


def greet(gateway: Gateway) -> bytes:
    """The first bytes of a stream: how long a browser waits before it reconnects, with jitter."""
    return _retry(gateway.tuning.reconnect_min * random.uniform(1.0, 2.0))  # noqa: S311  # jitter is no secret


def say_goodbye(gateway: Gateway, code: int, reason: str) -> bytes:
    """The last bytes of a stream: `$close`, without an id, so that the position to resume from stays unchanged."""
    tuning = gateway.tuning
    retry = b""
    if code in _LONG_RETRY:
        retry = _retry(random.uniform(tuning.reconnect_min, tuning.reconnect_max))  # noqa: S311
    return retry + _event([close_item(code, reason)])


def _retry(seconds: float) -> bytes:
    return b"retry: %d\n\n" % round(seconds * 1000)
