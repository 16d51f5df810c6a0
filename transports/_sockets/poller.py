"""What waits for many sockets at once: one selector, or where that cannot be waited on, a task for each direction.

Both report readiness as it is at the moment (level-triggered): who leaves bytes behind is called again.
"""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio
import anyio.abc

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


class Handler(Protocol):
    """One socket's owner, as the loop sees it."""

    def ready(self, events: int) -> None:
        """The socket is ready for these of `READ` and `WRITE`, or was a moment ago. Must not block."""

    def due(self) -> None:
        """The time this handler asked for has come."""

    def fail(self, error: Exception) -> None:
        """One of the above raised `error`: end this one, nothing else."""


Readiness = list[tuple[Handler, int]]


class Poller(Protocol):
    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        """Report `events` of `sock` to `handler` from now on. None of them is allowed: `forget` follows in any case."""

    def forget(self, sock: socket.socket) -> None:
        """Must be called before `sock` is closed."""

    async def wait(self) -> None:
        """Return once something is ready, or `wake` was called."""

    def take(self) -> Readiness: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


def open_poller(group: anyio.abc.TaskGroup) -> Poller:
    """The best poller of this platform."""
    selector = selectors.DefaultSelector()
    return SelectorPoller(selector) if hasattr(selector, "fileno") else TaskPoller(group)


class SelectorPoller:
    """All sockets in one selector, whose own descriptor is what the event loop waits on.

    A selector's descriptor is readable while any of its sockets is ready. So the event loop (asyncio, uvloop or Trio)
    knows one descriptor whatever the number of clients, and one wake-up serves all that became ready together.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._descriptor: int = selector.fileno()  # type: ignore[attr-defined]  # not in BaseSelector
        self._alarm, self._button = socket.socketpair()
        self._alarm.setblocking(False)
        self._button.setblocking(False)
        selector.register(self._alarm, READ, self)

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        if not events:
            self.forget(sock)
        elif self._knows(sock):
            self._selector.modify(sock, events, handler)
        else:
            self._selector.register(sock, events, handler)

    def forget(self, sock: socket.socket) -> None:
        if self._knows(sock):
            self._selector.unregister(sock)

    def _knows(self, sock: socket.socket) -> bool:
        # By number: asked for an unknown socket, the mapping formats its `repr` first, a fifth of a whole handshake.
        return sock.fileno() in self._selector.get_map()

    async def wait(self) -> None:
        await anyio.wait_readable(self._descriptor)

    def take(self) -> Readiness:
        return [(key.data, events) for key, events in self._selector.select(0)]

    def wake(self) -> None:
        with suppress(BlockingIOError):  # full: it rings already
            self._button.send(b"\0")

    def close(self) -> None:
        self._selector.close()
        self._alarm.close()
        self._button.close()

    # The poller is the handler of its own alarm.

    def ready(self, events: int) -> None:
        with suppress(BlockingIOError):
            while self._alarm.recv(4096):
                pass

    def due(self) -> None: ...

    def fail(self, error: Exception) -> None: ...


@dataclass(eq=False, slots=True)
class _Watched:
    events: int
    handler: Handler
    waiting: int = 0
    """The directions that a task waits for at the moment."""
    taken: anyio.Event = field(default_factory=anyio.Event)


class TaskPoller:
    """A task for each socket and direction: the fallback for Windows, whose selectors have no descriptor.

    It costs a few KB and a few task switches for each client; everything above is the same.
    """

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group
        self._watched: dict[socket.socket, _Watched] = {}
        self._ready: list[tuple[_Watched, int]] = []
        self._alarm = anyio.Event()

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        if not events:
            self.forget(sock)
            return
        watched = self._watched.setdefault(sock, _Watched(events, handler))
        watched.events, watched.handler = events, handler
        for direction in (READ, WRITE):
            if events & direction & ~watched.waiting:
                watched.waiting |= direction
                self._group.start_soon(self._wait_for, sock, watched, direction)

    def forget(self, sock: socket.socket) -> None:
        if watched := self._watched.pop(sock, None):
            watched.events = 0
            watched.taken.set()
            anyio.notify_closing(sock)  # wakes its tasks, which find nothing to wait for

    async def _wait_for(self, sock: socket.socket, watched: _Watched, direction: int) -> None:
        wait = anyio.wait_readable if direction == READ else anyio.wait_writable
        try:
            while watched.events & direction:
                await wait(sock)
                self._ready.append((watched, direction))
                self._alarm.set()
                await watched.taken.wait()  # else it would spin until the loop has read
        except (anyio.ClosedResourceError, OSError, ValueError):  # the socket was closed meanwhile
            pass
        finally:
            watched.waiting &= ~direction

    async def wait(self) -> None:
        await self._alarm.wait()

    def take(self) -> Readiness:
        self._alarm = anyio.Event()
        ready, self._ready = self._ready, []
        taken: Readiness = []
        for watched, direction in ready:
            watched.taken.set()
            watched.taken = anyio.Event()
            if events := watched.events & direction:
                taken.append((watched.handler, events))
        return taken

    def wake(self) -> None:
        self._alarm.set()

    def close(self) -> None:
        for sock in [*self._watched]:
            self.forget(sock)
