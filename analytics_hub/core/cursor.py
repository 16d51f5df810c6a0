"""The position of a client after each frame, for wires that state it in their frames.

A flush first takes entries from the readers, then makes its frames, the last one first: it ends at the positions of the
readers, and a frame before it ends below every entry of a later one. Other wires never come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..protocol import MAX_FRAME_BYTES
from .reader import Reader
from .ring import Entry
from .session import Session
from .wire import CursorWire, Positions

_POSITION_BYTES: Final = 32  # a number, an epoch and the separators


def positions_of(readers: Mapping[str, Reader]) -> Positions:
    """The positions of these readers. O(subscriptions)."""
    return {
        name: (reader.log.epoch, reader.position if reader.is_plain else reader.resume_position)
        for name, reader in readers.items()
    }


def cursor_bytes(readers: Mapping[str, Reader]) -> int:
    """The size of a cursor over these readers in a frame: an estimate that leaves room for any item beside it."""
    return min(sum([len(name) + _POSITION_BYTES for name in readers]), MAX_FRAME_BYTES // 8)


def frames_at(wire: CursorWire, entries: Sequence[Entry], size: int, readers: Mapping[str, Reader]) -> bytes:
    """The frames of one write, of up to `size` items each, that were taken from `readers`."""
    positions = positions_of(readers)
    last, *others = reversed(range(0, len(entries), size))
    frames = [wire.frame_at([entry.data for entry in entries[last:]], positions)]
    end = last
    for start in others:
        positions = _before(entries[end : end + size], positions)
        frames.append(wire.frame_at([entry.data for entry in entries[start:end]], positions))
        end = start
    frames.reverse()
    return b"".join(frames)


def control_frames_at(wire: CursorWire, frames: Sequence[Sequence[bytes]], session: Session) -> bytes:
    """The frames of one write from the control queue of a session, from which their items were removed already.

    Until the client has been told of every subscription that began and ended, with the losses there, it keeps the
    position that it had before.
    """
    current = _current_positions(session)
    before = current if session.announced is None else session.announced
    parts = [wire.frame_at(items, before) for items in frames[:-1]]
    if not session.control_queue:
        session.announced = None
        before = current
    parts.append(wire.frame_at(frames[-1], before))
    return b"".join(parts)


def keep_announced(session: Session) -> None:
    """Call before the subscriptions of a session change: until the change is announced, the client keeps its position.

    Does nothing for wires without a cursor.
    """
    if session.announced is None and session.wire.has_cursor:
        session.announced = _current_positions(session)


def _current_positions(session: Session) -> Positions:
    """The positions of a session after everything that it is owed."""
    return positions_of(session.cohort.readers) if session.cohort is not None else {}


def _before(entries: Sequence[Entry], positions: Positions) -> Positions:
    earlier = dict(positions)
    for entry in entries:
        epoch, seq = earlier[entry.channel]
        earlier[entry.channel] = epoch, min(seq, entry.seq - 1)
    return earlier
