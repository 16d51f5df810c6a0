"""Server-sent events: what a batch, a heartbeat and the end look like. The streams themselves belong to the servers.

A batch is an event `batch` whose data is the array of items and whose id is a cursor over all channels
(`cursor.py`), so that a browser's `EventSource` resumes by itself. Heartbeats are comments.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from ...core.wire import Positions
from ...hub import Hub
from ...protocol import CloseCode, Parsed
from ...protocol.formats import JSON
from .._abilities import Abilities
from .._refusal import close_item
from .cursor import encode_cursor

ABILITIES: Final = Abilities(
    transport="sse",
    formats=("JSON",),
    has_handshake=True,
    refuses_with_status=True,
    takes_commands=False,
    tells_binary=False,
    shows_heartbeats=False,
    has_close_codes=False,
    feels_slowness=True,
    ends_silence=False,
    compresses="nobody",
)

CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"
_HEARTBEAT: Final = b":\n\n"
_STAY_AWAY: Final = frozenset({CloseCode.TRY_AGAIN_LATER, CloseCode.MALFORMED, CloseCode.TOO_MANY_COMMANDS})
"""Close codes after which a client that comes back at once makes it worse."""


class EventWire:
    """Batches as events. A frame says where its stream stands once it was received."""

    name = "sse.json"
    has_cursor = True

    def frame(self, items: Sequence[bytes]) -> bytes:
        return _event(items) if items else _HEARTBEAT

    def frame_at(self, items: Sequence[bytes], positions: Positions) -> bytes:
        # No id at all leaves the browser with the one it has: before `$subscribed` that is where it resumes from.
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


def greet(hub: Hub) -> bytes:
    """The first bytes of a stream: how long a browser waits before it reconnects, never all of them equally long."""
    return _retry(hub.tuning.reconnect_min * random.uniform(1.0, 2.0))  # noqa: S311  # jitter is no secret


def say_goodbye(hub: Hub, code: int, reason: str) -> bytes:
    """The last bytes of a stream: `$close`, and without an id, so that the place to resume from is the one before."""
    tuning = hub.tuning
    wait = b""
    if code in _STAY_AWAY:
        wait = _retry(random.uniform(tuning.reconnect_min, tuning.reconnect_max))  # noqa: S311
    return wait + _event([close_item(code, reason)])


def _retry(seconds: float) -> bytes:
    return b"retry: %d\n\n" % round(seconds * 1000)
