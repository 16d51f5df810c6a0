"""How items become the bytes that a transport writes, and how the bytes that it reads become commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeGuard

from ..protocol import Parsed

Positions = Mapping[str, tuple[str, int]]
"""For each channel of a session its epoch, and the number up to which every item was sent or reported as lost."""


class Wire(Protocol):
    """One format on one kind of transport. Stateless: the frame of a batch serves every session of the format."""

    @property
    def name(self) -> str:
        """Sessions with wires of equal names share cohorts, and thereby frames."""
        ...

    @property
    def has_cursor(self) -> bool:
        """Whether it is a `CursorWire`."""
        ...

    def frame(self, items: Sequence[bytes]) -> bytes:
        """The bytes of one server frame, an array of these encoded JSON items. Never fails."""
        ...

    def parse(self, data: str | bytes) -> list[Parsed]:
        """The commands in one client frame; an invalid one becomes an `InvalidCommand`. Never raises."""
        ...


class CursorWire(Wire, Protocol):
    """A wire that states the position of the client in its frames: a client can resume without keeping count itself."""

    def frame_at(self, items: Sequence[bytes], positions: Positions) -> bytes:
        """Same as `frame`, for every frame except heartbeats.

        `positions` are those of all subscriptions after this frame: a client that subscribes with `since` these gets
        the rest, and nothing twice.
        """
        ...


def is_cursor_wire(wire: Wire) -> TypeGuard[CursorWire]:
    """Whether `wire` has `frame_at`."""
    return wire.has_cursor
