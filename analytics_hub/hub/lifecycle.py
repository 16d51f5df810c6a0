"""The state of a hub, the thread and the process it belongs to, and its clock."""

from __future__ import annotations

import os
from threading import get_ident
from typing import Final, Literal
from weakref import WeakSet

from ..clock import Clock
from ..core.engine import Engine
from ..exceptions import HubClosed, HubError

State = Literal["new", "entering", "open", "draining", "closed", "forked"]

NOT_RUNNING: Final = (
    "the hub is not running; add `async with hub:` around the application's lifespan. If another process runs it, "
    "publish over HTTP, with HubPublisher. Hub(before_start='keep') keeps what is published before the hub starts"
)
FORKED: Final = (
    "the hub runs in the parent process, from which this one (pid {pid}) was forked: no client would get what is "
    "published here. Publish over HTTP, with HubPublisher, or enter a hub in this process"
)
_CALLABLE_BEFORE: Final = ("new", "entering", "closed")


class Lifecycle:
    """Shared by everything in this package. `thread` is that of the event loop, None before the hub is entered."""

    __slots__ = ("__weakref__", "clock", "engine", "number", "state", "thread")

    def __init__(self, clock: Clock, number: int = 0) -> None:
        self.engine: Engine
        """That of the current life."""
        self.clock = clock
        self.number = number
        """How often the hub was entered."""
        self.state: State = "new"
        self.thread: int | None = None

    def entering(self) -> None:
        """Begin a life; raises `HubClosed` during one."""
        if self.state in ("entering", "open", "draining"):
            raise HubClosed(f"the hub is {self.state} already; it can be entered again after it was left")
        self.state = "entering"
        _serving.add(self)

    def enter(self) -> None:
        """The hub is entered, on the thread of its event loop."""
        self.thread = get_ident()
        self.state = "open"

    def tick(self) -> float:
        """Pass both clocks to the engine; returns the monotonic one."""
        now = self.clock.monotonic()
        self.engine.tell_time(now, self.clock.wall())
        return now

    @property
    def has_not_started(self) -> bool:
        return self.state in ("new", "entering")

    def check_open(self) -> None:
        """Raise `HubClosed` unless the hub accepts items."""
        if self.has_not_started:
            raise HubClosed(NOT_RUNNING)
        self.check_process()
        if self.state != "open":
            raise HubClosed("the hub has been shut down; nothing more can be published")

    def check_process(self) -> None:
        """Raise `HubClosed` in a process that was forked from the one that serves."""
        if self.state == "forked":
            raise HubClosed(FORKED.format(pid=os.getpid()))

    def check_thread(self, call: str) -> None:
        """Raise `HubError` outside the thread of the event loop."""
        self.check_process()
        if get_ident() != self.thread:
            raise HubError(f"{call} was called from another thread; only publish and delete may be")

    def check_thread_if_entered(self, call: str) -> None:
        """As `check_thread`; while no event loop serves the hub any thread may call."""
        if self.state not in _CALLABLE_BEFORE:
            self.check_thread(call)


_serving: Final[WeakSet[Lifecycle]] = WeakSet()
"""The hubs that were entered in this process."""


def _mark_forked() -> None:
    """The parent goes on to serve, this process does not: it has a copy of every session, and no thread for them."""
    for life in list(_serving):
        if life.state in ("entering", "open", "draining"):
            life.state = "forked"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)
