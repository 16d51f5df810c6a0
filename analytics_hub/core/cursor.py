"""Where a client stands after each frame, for wires that tell it.

A flush takes from the readers first, then its frames are made, the last one first: it ends where the readers now are.
A frame before it ends below whatever is in a later one. Other wires never come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..protocol import MAX_FRAME_BYTES
from .cohort import Reader
from .ring import Entry
from .session import Session
from .wire import CursorWire, Positions

_POSITION_BYTES: Final = 32  # a number, an epoch and what stands between them


def positions_of(readers: Mapping[str, Reader]) -> Positions:
    """Where these readers are. O(subscriptions)."""
    return {
        name: (reader.log.epoch, reader.position if reader.is_plain else reader.cursor)
        for name, reader in readers.items()
    }


def cursor_bytes(readers: Mapping[str, Reader]) -> int:
    """What a cursor over these readers may take in a frame: an estimate that leaves room for any item beside it."""
    return min(sum([len(name) + _POSITION_BYTES for name in readers]), MAX_FRAME_BYTES // 8)


def frames_at(wire: CursorWire, entries: Sequence[Entry], most: int, readers: Mapping[str, Reader]) -> bytes:
    """The frames of one write, of `most` items each, that was taken from `readers`."""
    positions = positions_of(readers)
    last, *others = reversed(range(0, len(entries), most))
    frames = [wire.frame_at([entry.data for entry in entries[last:]], positions)]
    end = last
    for start in others:
        positions = _before(entries[end : end + most], positions)
        frames.append(wire.frame_at([entry.data for entry in entries[start:end]], positions))
        end = start
    frames.reverse()
    return b"".join(frames)


def speech_at(wire: CursorWire, frames: Sequence[Sequence[bytes]], session: Session) -> bytes:
    """The frames of one write from the lane of a session, whose lane is what remains.

    Until it has heard of all that was begun and ended, with the losses there, it stands where it stood before.
    """
    here = _where_is(session)
    before = here if session.told is None else session.told
    parts = [wire.frame_at(items, before) for items in frames[:-1]]
    if not session.lane:
        session.told = None
        before = here
    parts.append(wire.frame_at(frames[-1], before))
    return b"".join(parts)


def remember(session: Session) -> None:
    """Subscriptions of a session are about to change, of which it will hear later. Nothing for other wires."""
    if session.told is None and session.wire.has_cursor:
        session.told = _where_is(session)


def _where_is(session: Session) -> Positions:
    """Where a session is once it has what it is owed."""
    return positions_of(session.cohort.readers) if session.cohort is not None else {}


def _before(entries: Sequence[Entry], positions: Positions) -> Positions:
    earlier = dict(positions)
    for entry in entries:
        epoch, seq = earlier[entry.channel]
        earlier[entry.channel] = epoch, min(seq, entry.seq - 1)
    return earlier
