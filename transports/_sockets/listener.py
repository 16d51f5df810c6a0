"""Accepts connections, and survives a lack of descriptors or memory."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from ...telemetry import ThrottledLogger
from .loop import SelectorLoop
from .options import configure
from .poller import READ

ACCEPTS: Final = 64
"""Connections accepted at a time, so that a burst of them does not delay the others."""
FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 1.0
# The process or the machine has run out of a resource for a while; the listening socket itself is intact.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

IN_USE: Final = (
    "Address already in use: another process listens on port {1} of {0}. A hub is one process: where a server or a "
    "reloader starts several, start the hub in one of them, and publish from the others with HubPublisher"
)

ConnectionAccepted = Callable[[socket.socket, object], None]
Count = Callable[[str], None]


class Listener:
    """Accepts connections on one socket. While there are no descriptors left, it pauses."""

    def __init__(self, loop: SelectorLoop, sock: socket.socket, accepted: ConnectionAccepted, count: Count) -> None:
        self._loop = loop
        self._sock = sock
        self._accepted = accepted
        self._count = count
        self._throttled = ThrottledLogger(loop.clock)
        self._pause = 0.0
        self._resumes_at = 0.0
        loop.watch(sock, READ, self)

    def socket_ready(self, events: int) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                self._recover()  # not before the queue is empty: until then the next accept may fail again
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._back_off(error)
                    return
                continue  # that client has gone before it was accepted
            self._start(sock, address)

    def _start(self, sock: socket.socket, address: object) -> None:
        try:
            configure(sock)
            self._accepted(sock, address)
        except Exception:  # noqa: BLE001  # the client has gone, or there is no memory
            self._count("accept-failed")
            sock.close()

    def _back_off(self, error: OSError) -> None:
        # The socket stays readable, so retrying at once would spin; closing connections is the application's decision.
        name = errno.errorcode.get(error.errno or 0, "error").lower()
        self._count(f"accept-{name}")
        if not self._pause:
            message = "cannot accept connections for now: %s"
            self._throttled.log(logging.WARNING, "accept", message, os.strerror(error.errno or 0))
        self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
        self._resumes_at = self._loop.clock() + self._pause
        self._loop.forget(self._sock)
        self._loop.timers.add(self._resumes_at, self)

    def _recover(self) -> None:
        if self._pause:
            self._pause = 0.0
            self._throttled.log(logging.WARNING, "accept-again", "accepting connections again")

    def timer_expired(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.watch(self._sock, READ, self)

    def fail(self, error: Exception) -> None:
        self._count("accept-failed")

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.timers.discard(self._resumes_at, self)
            self._loop.forget(self._sock)
            self._sock.close()
