"""The time, as the driver last stated it."""

from __future__ import annotations

from ..protocol import Timestamps


class CurrentTime:
    """`now` is monotonic and paces everything; the time of day serves timestamps and the expiry of tokens only."""

    __slots__ = ("_format", "_offset", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._offset = 0.0
        self._format = Timestamps().format

    def set(self, now: float, wall: float) -> None:
        """The time of day is `wall` (Unix seconds) at `now`."""
        self.now = now
        self._offset = wall - now

    @property
    def wall(self) -> float:
        """Unix seconds."""
        return self.now + self._offset

    def stamp(self) -> str:
        """RFC 3339, as items carry it."""
        return self._format(self.now + self._offset)
