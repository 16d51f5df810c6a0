"""The state of a hub, the thread it belongs to, and its clock."""

from __future__ import annotations

from threading import get_ident
from typing import Literal

from ..clock import Clock
from ..core.engine import Engine
from ..exceptions import HubClosed, HubError

State = Literal["new", "open", "draining", "closed"]


class Lifecycle:
    """Shared by everything in this package. `thread` is that of the event loop, None before the hub is entered."""

    __slots__ = ("_engine", "clock", "state", "thread")

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self.clock = clock
        self.state: State = "new"
        self.thread: int | None = None

    def enter(self) -> None:
        """The hub is entered, on the thread of its event loop."""
        self.thread = get_ident()
        self.state = "open"

    def tick(self) -> float:
        """Pass both clocks to the engine; returns the monotonic one."""
        now = self.clock.monotonic()
        self._engine.tell_time(now, self.clock.wall())
        return now

    def check_open(self) -> None:
        """Raise `HubClosed` unless the hub accepts items."""
        if self.state == "new":
            raise HubClosed("the hub is not running; add `async with hub:` around the application's lifespan")
        if self.state != "open":
            raise HubClosed("the hub has been shut down; nothing more can be published")

    def check_thread(self, call: str) -> None:
        """Raise `HubError` outside the thread of the event loop."""
        if get_ident() != self.thread:
            raise HubError(f"{call} was called from another thread; only publish and delete may be")

    def check_thread_if_entered(self, call: str) -> None:
        """As `check_thread`; before the hub is entered any thread may call."""
        if self.thread is not None:
            self.check_thread(call)
