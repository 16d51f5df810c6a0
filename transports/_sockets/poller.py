"""Waits for many sockets at once: with one selector, or where that has no descriptor, a task for each direction.

Both are level-triggered: a handler that leaves bytes unread is called again.
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
    """The owner of one socket. Its methods must not block."""

    def socket_ready(self, events: int) -> None:
        """The socket is ready for `events`, of `READ` and `WRITE`, or was when it was polled."""

    def timer_expired(self) -> None: ...

    def fail(self, error: Exception) -> None:
        """One of the methods above has raised `error`: end this connection only."""


Readiness = list[tuple[Handler, int]]


class Poller(Protocol):
    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        """Report `events` of `sock` to `handler` from now on; none is allowed. `forget` must follow."""

    def forget(self, sock: socket.socket) -> None:
        """Must be called before `sock` is closed."""

    async def wait(self) -> None:
        """Return once something is ready, or `wake` was called."""

    def poll(self) -> Readiness:
        """The sockets that are ready, without waiting."""
        ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


def open_poller(group: anyio.abc.TaskGroup) -> Poller:
    """The best poller of this platform."""
    selector = selectors.DefaultSelector()
    return SelectorPoller(selector) if hasattr(selector, "fileno") else TaskPoller(group)


class SelectorPoller:
    """All sockets in one selector; the event loop waits on the descriptor of the selector.

    A selector's descriptor is readable while any of its sockets is ready. So the event loop (asyncio, uvloop or Trio)
    watches one descriptor whatever the number of clients, and one wake-up serves all that became ready together.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._descriptor: int = selector.fileno()  # type: ignore[attr-defined]  # not in BaseSelector
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        selector.register(self._wake_reader, READ, self)

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        if not events:
            self.forget(sock)
        elif self._is_registered(sock):
            self._selector.modify(sock, events, handler)
        else:
            self._selector.register(sock, events, handler)

    def forget(self, sock: socket.socket) -> None:
        if self._is_registered(sock):
            self._selector.unregister(sock)

    def _is_registered(self, sock: socket.socket) -> bool:
        # By number: for an unknown socket the mapping formats its `repr` first, a fifth of the cost of a handshake.
        return sock.fileno() in self._selector.get_map()

    async def wait(self) -> None:
        await anyio.wait_readable(self._descriptor)

    def poll(self) -> Readiness:
        return [(key.data, events) for key, events in self._selector.select(0)]

    def wake(self) -> None:
        with suppress(BlockingIOError):  # full: the reader is ready already
            self._wake_writer.send(b"\0")

    def close(self) -> None:
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    # The poller is the handler of its own socket.

    def socket_ready(self, events: int) -> None:
        with suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass

    def timer_expired(self) -> None: ...

    def fail(self, error: Exception) -> None: ...


@dataclass(eq=False, slots=True)
class _Watched:
    events: int
    handler: Handler
    waiting: int = 0
    """The directions for which a task is waiting."""
    polled: anyio.Event = field(default_factory=anyio.Event)


class TaskPoller:
    """A task for each socket and direction: the fallback for Windows, where selectors have no descriptor.

    It costs a few KB and a few task switches for each client; the rest of the transport is the same.
    """

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group
        self._watched: dict[socket.socket, _Watched] = {}
        self._ready: list[tuple[_Watched, int]] = []
        self._wakeup = anyio.Event()

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
            watched.polled.set()
            anyio.notify_closing(sock)  # wakes its tasks, which then end

    async def _wait_for(self, sock: socket.socket, watched: _Watched, direction: int) -> None:
        wait = anyio.wait_readable if direction == READ else anyio.wait_writable
        try:
            while watched.events & direction:
                await wait(sock)
                self._ready.append((watched, direction))
                self._wakeup.set()
                await watched.polled.wait()  # otherwise it would spin until the loop has read
        except (anyio.ClosedResourceError, OSError, ValueError):  # the socket was closed meanwhile
            pass
        finally:
            watched.waiting &= ~direction

    async def wait(self) -> None:
        await self._wakeup.wait()

    def poll(self) -> Readiness:
        self._wakeup = anyio.Event()
        ready, self._ready = self._ready, []
        found: Readiness = []
        for watched, direction in ready:
            watched.polled.set()
            watched.polled = anyio.Event()
            if events := watched.events & direction:
                found.append((watched.handler, events))
        return found

    def wake(self) -> None:
        self._wakeup.set()

    def close(self) -> None:
        for sock in [*self._watched]:
            self.forget(sock)
