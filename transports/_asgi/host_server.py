"""The server that runs this application: which one it is, whether it wants to stop, and how it serves WebSockets.

ASGI has no message for a shutdown. Servers wait for their open responses, and most for their WebSockets too, some of
them for ever, and end the lifespan only then. So the hub has to close its clients at a sign of the server: uvicorn and
hypercorn have one in an object that is a local variable of a coroutine which runs as long as they do; granian and
gunicorn have none, but they handle a signal, in the worker too.

This module reads what servers have never promised. Where it finds nothing, clients are closed as they would be without
it, at the time limit of the server.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_STACKS: Final = ("granian", "daphne", "gunicorn")
"""Servers that are known by the module of a function on the stack only."""
_CLOSES_WEBSOCKETS: Final = frozenset({"uvicorn", "granian"})
_BY_SIGNAL: Final = frozenset({"granian", "gunicorn"})
"""Servers that wait for open responses and show it nowhere."""
_WITHOUT_LIFESPAN: Final = "_spawn_asgi_worker"
"""The function of granian for `--interface asginl`."""


_WSPROTO: Final = (
    "uvicorn serves WebSockets with wsproto here: 13 µs of CPU time for each frame and client, and 3 with websockets"
)


class HostServer:
    """The server of the running event loop. The base is one that is unknown, or shows nothing."""

    ends_process = False
    """Whether it ends with the process. Others may be followed by a server in the same event loop, as in tests."""

    def __init__(self, name: str = "") -> None:
        self.name: Final = name
        """As in the name of its package; empty if it is not known."""

    @property
    def has_lifespan(self) -> bool:
        """Whether it starts and ends the lifespan of its application."""
        return self.name != "daphne"

    @property
    def closes_websockets(self) -> bool:
        """Whether it closes its WebSockets by itself when it stops, and waits only for open responses."""
        return self.name in _CLOSES_WEBSOCKETS

    @property
    def is_stopping(self) -> bool:
        """Whether it has begun to shut down, and waits for open responses."""
        return False

    @property
    def costly_websockets(self) -> str | None:
        """Why its WebSockets cost more than they would have to, and what to do about it."""
        return None

    def clients_connected(self) -> None:
        """There are clients: `is_stopping` is asked from now on."""

    def clients_left(self) -> None:
        """There are no more clients."""


class Uvicorn(HostServer):
    """One or more in the same event loop: of each connection it is not known which one it belongs to."""

    def __init__(self, servers: Sequence[Any]) -> None:
        super().__init__("uvicorn")
        self._servers = servers

    @property
    def is_stopping(self) -> bool:
        return any(server.should_exit or _has_closed(server) for server in self._servers)

    @property
    def has_lifespan(self) -> bool:
        return all(server.config.lifespan != "off" for server in self._servers)

    @property
    def costly_websockets(self) -> str | None:
        config = self._servers[0].config
        if not str(getattr(config.ws_protocol_class, "__module__", "")).endswith(".wsproto_impl"):
            return None
        remedy = "leave out `--ws wsproto`" if config.ws == "wsproto" else "pip install 'analytics-hub[uvicorn]'"
        return f"{_WSPROTO}; {remedy}"


def _has_closed(server: Any) -> bool:
    """Whether it listens no more: `--limit-max-requests` ends it without another sign."""
    listeners = getattr(server, "servers", ())
    return bool(server.started and listeners and not any(each.is_serving() for each in listeners))


class Hypercorn(HostServer):
    def __init__(self, contexts: Sequence[Any]) -> None:
        super().__init__("hypercorn")
        self._contexts = contexts

    @property
    def is_stopping(self) -> bool:
        return any(context.terminated.is_set() for context in self._contexts)


class SignalledServer(HostServer):
    """A server whose signal handlers are called after ours, while there are clients."""

    ends_process = True

    def __init__(self, name: str, *, has_lifespan: bool = True) -> None:
        super().__init__(name)
        self._has_lifespan = has_lifespan
        self._was_signalled = False
        self._handlers: dict[int, Callable[[int, FrameType | None], object]] = {}

    @property
    def is_stopping(self) -> bool:
        return self._was_signalled

    @property
    def has_lifespan(self) -> bool:
        return self._has_lifespan

    def clients_connected(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and handler is not signal.default_int_handler and number not in self._handlers:
                self._handlers[number] = handler
                signal.signal(number, self._handle)
                if sys.platform != "win32":
                    signal.siginterrupt(number, False)  # as event loops set it

    def clients_left(self) -> None:
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            if signal.getsignal(number) == self._handle:  # else another handler has followed, and calls this one
                signal.signal(number, handler)
            else:
                self._handlers[number] = handler

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._was_signalled = True
        self._handlers[number](number, frame)


# By the module of the coroutine: its local variable, the attribute that is our sign, and the server.
_COROUTINES: Final[dict[str, tuple[str, str, Callable[[Sequence[Any]], HostServer]]]] = {
    "uvicorn.server": ("self", "should_exit", Uvicorn),
    "hypercorn.asyncio.run": ("context", "terminated", Hypercorn),
    "hypercorn.trio.run": ("context", "terminated", Hypercorn),
}


def find_server() -> HostServer:
    """The server of the running event loop; to be called in the task of a connection. O(tasks)."""
    found: dict[Callable[[Sequence[Any]], HostServer], dict[int, Any]] = {}
    for frame in _coroutine_frames():
        known = _COROUTINES.get(frame.f_globals.get("__name__", ""))
        if known is not None:
            variable, attribute, kind = known
            value = frame.f_locals.get(variable)
            if hasattr(value, attribute):
                found.setdefault(kind, {})[id(value)] = value
    for kind, values in found.items():
        return kind([*values.values()])
    modules = [(str(frame.f_globals.get("__name__", "")).partition(".")[0], frame.f_code.co_name) for frame in stack()]
    for name, _ in modules:
        if name in _BY_SIGNAL:
            return SignalledServer(name, has_lifespan=(name, _WITHOUT_LIFESPAN) not in modules)
        if name in _STACKS:
            return HostServer(name)
    return HostServer()


def abort_connection() -> None:
    """Close the connection of the running task without sending what waits, if its server lets it be found.

    A server waits until everything was sent, for as long as the kernel tries: a quarter of an hour for a peer that has
    vanished, for ever for one that does not read, and it does not end before.
    """
    for frame in stack():
        if frame.f_code.co_name == "run_asgi" and str(frame.f_globals.get("__name__")).startswith("uvicorn."):
            abort = getattr(getattr(frame.f_locals.get("self"), "transport", None), "abort", None)
            if abort is not None:
                abort()
            return


def stack() -> Iterator[FrameType]:
    """The frames of the caller, innermost first; those of coroutines that await it are among them."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _coroutine_frames() -> Iterator[FrameType]:
    for coroutine in _coroutines():
        while coroutine is not None:
            frame = getattr(coroutine, "cr_frame", None)
            if frame is not None:
                yield frame
            coroutine = getattr(coroutine, "cr_await", None)


def running_loop() -> object:
    """What the event loop of the caller is identified by."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio  # runs, so it is installed

        return trio.lowlevel.current_trio_token()


def _coroutines() -> Iterator[Any]:
    """The coroutines of all tasks of this event loop."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no event loop of asyncio
        trio = sys.modules.get("trio")
        root = None if trio is None else trio.lowlevel.current_root_task()
        places = [] if root is None else [root]
        while places:
            task = places.pop()
            yield task.coro
            for nursery in task.child_nurseries:
                places += nursery.child_tasks
    else:
        for each in tasks:
            yield each.get_coro()
