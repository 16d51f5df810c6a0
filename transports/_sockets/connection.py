"""One non-blocking socket of the loop: reading, TLS, and the ways to end. Subclasses say what received bytes mean."""

from __future__ import annotations

import socket
import struct
import sys
from collections import deque
from contextlib import suppress
from typing import Final

from .loop import SelectorLoop
from .poller import READ, WRITE
from .tls import TLS
from .writer import CLOSED, FINISHING, LINGERING, LOST, OPEN, SEALED, WOULD_BLOCK, Link, Outlet

READ_SIZE: Final = 4096
"""Bytes read at a time: clients say little, and one that floods is read in turn with all others."""

LINGER: Final = 1.0
"""Seconds that a peer has to read why it was cut off, or to hang up after both have said goodbye."""
LINGER_BYTES: Final = 256 * 1024
"""What a peer may still send after our last byte; it is read only so that closing does not destroy that byte."""

_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Stream(Outlet):
    """Base of everything that reads and writes a connected socket on a `SelectorLoop`."""

    __slots__ = ("_deadline", "_is_paused", "_spare", "loop")

    def __init__(self, loop: SelectorLoop, link: Link) -> None:
        super().__init__(link)
        self.loop = loop
        self._is_paused = False
        self._deadline = 0.0
        self._spare = LINGER_BYTES
        self._watch()
        if self._tls is not None and self._tls.is_fed:
            loop.call_soon(self)  # what came with the end of the handshake is in no socket that could become readable

    # --- for subclasses to say what it means ---

    def received(self, data: bytes) -> None:
        """Bytes of the peer, in order."""

    def ended(self) -> None:
        """The peer will send nothing more."""
        self.hang_up()

    def drained(self) -> None:
        """The tail has left. `_is_full` tells whether a writer waits for that."""

    def expired(self) -> None:
        """The deadline has passed."""
        self.hang_up(reset=True)

    def closed(self) -> None:
        """Called once, when the socket is closed, whoever closed it."""

    @property
    def buffered(self) -> int:
        """Bytes that wait here, in both directions."""
        return sum(map(len, self._tail)) if self._tail else 0

    # --- what becomes of what was written ---

    def _settle(self) -> None:
        if self._phase == FINISHING:
            self._linger()
            return
        if self._phase == OPEN:
            self._tail = None
        self._watch()
        self.drained()

    # --- reading ---

    def pause_reading(self) -> None:
        self._is_paused = True
        self._watch()

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._watch()
            # What was read before the pause makes no descriptor readable.
            self.loop.call_soon(self)

    def confirmed(self, frames: int) -> None:
        """The socket tells what the peer has not taken."""

    def ready(self, events: int) -> None:
        if self._phase >= LOST:
            if self._phase == LOST:
                self.hang_up()
            return
        if self._tail:
            self._flush()
        if events & READ and not self._is_paused and self._phase < LOST:
            self._read()

    def _read(self) -> None:
        tls = self._tls
        try:
            data = self.sock.recv(READ_SIZE) if tls is None else self._decrypt(tls)
        except WOULD_BLOCK:
            return
        except OSError:
            self.hang_up()
            return
        if self._phase >= FINISHING and (data or self._phase == LINGERING):
            self._discard(data)
        elif not data:
            self.ended()
        else:
            self.received(data)
            if tls is not None and tls.has_ended:  # which makes no descriptor readable
                self.loop.call_soon(self)

    def _decrypt(self, tls: TLS) -> bytes:
        """As `recv`: raises `BlockingIOError` while the peer has said nothing, and any `OSError` of TLS."""
        if tls.has_ended:
            return b""
        if not tls.is_fed:
            tls.feed(self.sock.recv(READ_SIZE))
        try:
            data = tls.decrypt()
        finally:
            self._push(tls)
        if self._phase >= LOST or not (data or tls.has_ended):
            raise BlockingIOError
        return data

    # --- ending ---

    def seal(self, last: bytes) -> None:
        """Write `last` after what waits, and nothing after it."""
        self.write(last)
        if self._phase == OPEN:
            self._phase = SEALED
            self._tail = self._tail or deque()

    def finish(self, seconds: float) -> None:
        """Let the tail leave, announce the end, wait for the peer's; all of it within `seconds`."""
        if self._phase >= FINISHING:
            return
        if self._tls is not None:
            tls, self._tls = self._tls, None  # what still comes is counted, not read
            tls.say_goodbye()
            self._push(tls)
            if self._phase >= FINISHING:  # lost in saying it
                return
        self._phase = FINISHING
        self._is_paused = False
        self.set_deadline(seconds)
        if self._tail:
            self._watch()
        else:
            self._linger()

    def _linger(self) -> None:
        # Closing with bytes unread sends a reset, and a reset may overtake our last bytes on the peer's side.
        self._phase = LINGERING
        self._tail = deque()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.hang_up()
        else:
            self._watch()

    def _discard(self, data: bytes) -> None:
        if not data:
            self.hang_up()
        else:
            self._has_patience(len(data))

    def _has_patience(self, count: int) -> bool:
        """Whether the peer may still say `count` bytes after our last; if not, it is cut off."""
        self._spare -= count
        if self._spare < 0:
            self.hang_up(reset=True)
        return self._spare >= 0

    def _lose(self) -> None:
        self._phase = LOST
        self._tail = deque()
        self.loop.call_soon(self)

    def hang_up(self, *, reset: bool = False) -> None:
        if self._phase == CLOSED:
            return
        self._phase = CLOSED
        self.detach()
        if reset or self._tail:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:  # some kernels refuse it once the peer has gone
                pass
        elif self._tls is not None:
            with suppress(OSError):
                self._tls.say_goodbye()
                self.sock.send(self._tls.take_answers())
        self._tls = None
        self._tail = deque()
        self.sock.close()
        self.closed()

    def leave(self) -> None:
        """The server ends: close now, and say so if that takes no time."""
        self.hang_up()

    def detach(self) -> None:
        """Leave the loop: no timer and no readiness will come any more."""
        self.loop.timers.discard(self._deadline, self)
        self.loop.forget(self.sock)

    def fail(self, error: Exception) -> None:
        self.hang_up(reset=True)

    # --- what to wait for ---

    def set_deadline(self, seconds: float) -> None:
        """Call `expired` in `seconds`; replaces the deadline before it."""
        self.loop.timers.discard(self._deadline, self)
        self._deadline = self.loop.clock() + seconds
        self.loop.timers.add(self._deadline, self)

    def due(self) -> None:
        # A deadline that was moved in the turn that took it from the wheel comes again.
        if self._phase < LOST and self._deadline <= self.loop.now + 1.0e-6:
            self.expired()

    def _watch(self) -> None:
        if self._phase < CLOSED:
            self.loop.watch(self.sock, (0 if self._is_paused else READ) | (WRITE if self._tail else 0), self)
