"""A clock that stands still until it is advanced."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..clock import Clock
from ..exceptions import HubError
from ..hub import Hub

if TYPE_CHECKING:
    from collections.abc import Iterator


class ManualClock:
    """Both clocks of a hub: `Hub(..., clock=clock, wall_clock=clock.wall)`, then `clock.attach(hub)`.

    For a hub that was made without it: `with clock.installed(hub):` around the `async with` that enters it.

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

    @contextmanager
    def installed(self, hub: Hub) -> Iterator[None]:
        """Be the clock of `hub`, which must not be open; revocations that it remembers are forgotten."""
        if hub.is_open:
            raise HubError("the clock of a hub is set before the hub is entered")
        before = hub._life.clock
        hub._set_clock(Clock(self, self.wall), hub._life.number)
        self.attach(hub)
        try:
            yield
        finally:
            self._hubs.remove(hub)
            if not hub.is_open:
                hub._set_clock(before, hub._life.number)

    def advance(self, seconds: float) -> None:
        """Move both clocks; the hub reacts in the next turns of its event loop. Any thread may call it."""
        self._now += seconds
        self.shift_wall(seconds)

    def shift_wall(self, seconds: float) -> None:
        """Move the wall clock alone, in either direction, as an administrator or a daemon might."""
        self._wall += seconds
        for hub in self._hubs:
            if hub.is_open:
                hub._driver.wake_threadsafe()
