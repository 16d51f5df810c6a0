"""A wire that states the client's position in its frames, and a client that keeps count independently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from analytics_hub.core.wire import Positions

from .rig import Peer
from .wire import Fields, LineWire

Cursor = dict[str, tuple[str, int]]
_MARK = "$cursor"


@dataclass(frozen=True)
class CursorWire(LineWire):
    """The cursor is the last item of each frame, where a test can read it easily."""

    name: str = "cursor"

    @property
    def has_cursor(self) -> bool:
        return True

    def frame_at(self, items: Sequence[bytes], positions: Positions) -> bytes:
        return self.frame([*items, msgspec.json.encode({"type": _MARK, "at": positions})])


@dataclass
class Cut:
    """A frame that a client has read: its items, the position after it, and whether more answers came in its write."""

    items: list[Fields]
    cursor: Cursor
    has_more_answers: bool


def cuts(peer: Peer) -> list[Cut]:
    """Every place at which the stream of a client could be cut. Heartbeats have no cursor."""
    found = []
    for write in peer.writes:
        are_answers = not any("seq" in item for frame in write for item in frame)
        for number, frame in enumerate(write, 1):
            if frame:
                *items, mark = frame
                assert mark["type"] == _MARK
                cursor = {channel: (epoch, seq) for channel, (epoch, seq) in mark["at"].items()}
                found.append(Cut(items, cursor, are_answers and number < len(write)))
    return found


def last_cursor(peer: Peer) -> Cursor:
    return cuts(peer)[-1].cursor


def since(cursor: Cursor) -> list[Fields]:
    """The subscriptions that resume there."""
    return [
        {"channel": channel, "since": {"epoch": epoch, "seq": seq}} for channel, (epoch, seq) in sorted(cursor.items())
    ]
