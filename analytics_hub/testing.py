"""For tests of an application: a clock that stands still until it is advanced."""

from __future__ import annotations

from .hub import Hub


class ManualClock:
    """Both clocks of a hub: `Hub(..., clock=clock, wall_clock=clock.wall)`, then `clock.attach(hub)`.

    Nothing that depends on time happens until `advance` is called: intervals, rates, heartbeats, expiry. Only the
    timeouts of calls of the application (`authenticate`, the grace of a shutdown) use the real clock.
    """

    def __init__(self, now: float = 1_000.0, wall: float = 1_768_800_000.0) -> None:
        self._now = now
        self._wall = wall
        self._hubs: list[Hub] = []

    def __call__(self) -> float:
        """Monotonic seconds."""
        return self._now

    def wall(self) -> float:
        """Unix time in seconds."""
        return self._wall

    def attach(self, hub: Hub) -> Hub:
        """Wake `hub` whenever the clock is changed; returns it."""
        self._hubs.append(hub)
        return hub

    def advance(self, seconds: float) -> None:
        """Move both clocks; the hub reacts in the next turns of the event loop. Call it on the thread of that loop."""
        self._now += seconds
        self.shift_wall(seconds)

    def shift_wall(self, seconds: float) -> None:
        """Move the wall clock alone, in either direction, as an administrator or a daemon might."""
        self._wall += seconds
        for hub in self._hubs:
            hub.wake()
