"""How items become what a transport writes, and how what it reads becomes commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeGuard

from ..protocol import Parsed

Positions = Mapping[str, tuple[str, int]]
"""For each channel of a session its epoch, and the number up to which it has everything or was told what it lost."""


class Wire(Protocol):
    """One format on one kind of transport. Stateless: the frame of a batch serves every session of the format."""

    @property
    def name(self) -> str:
        """Sessions whose wires have equal names share cohorts, and by that frames."""
        ...

    @property
    def has_cursor(self) -> bool:
        """Whether it is a `CursorWire`."""
        ...

    def frame(self, items: Sequence[bytes]) -> bytes:
        """The bytes of one server frame, an array of these encoded JSON items. Never fails."""
        ...

    def parse(self, data: str | bytes) -> list[Parsed]:
        """The commands in one client frame; what is none becomes `Refused`. Never raises."""
        ...


class CursorWire(Wire, Protocol):
    """A wire whose frames say where their reader stands, so that a client resumes without keeping count itself."""

    def frame_at(self, items: Sequence[bytes], positions: Positions) -> bytes:
        """As `frame`, for every frame but heartbeats.

        `positions` are those of all subscriptions after this frame: who subscribes with `since` these gets what is
        left, nothing of it twice.
        """
        ...


def is_cursor_wire(wire: Wire) -> TypeGuard[CursorWire]:
    """Whether to ask `wire` for `frame_at`."""
    return wire.has_cursor
