"""One non-blocking socket of the loop: writes that may be taken in part, and the ways to end.

Subclasses say what received bytes mean. A stream holds nothing for a client that keeps up, because there are many of
them: an unsent tail exists only while there is one.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys
from collections import deque
from typing import Final

from .poller import READ, WRITE
from .selector import SelectorLoop

READ_SIZE: Final = 4096
"""Bytes read at a time: clients say little, and one that floods is read in turn with all others."""

SEND_BUFFER: Final = 256 * 1024
ROOM: Final = 64 * 1024
"""Bytes that may wait here before the writer is asked to hold back: a hiccup of the peer is no congestion yet, and to
treat one as such costs far more than these bytes, because who is held back shares no frames."""
UNSENT_LOW_WATER: Final = 16 * 1024
LINGER_BYTES: Final = 256 * 1024
"""What a peer may still send after our last byte; it is read only so that closing does not destroy that byte."""

# What a stream may still do; it only ever goes down this list.
OPEN: Final = 0
SEALED: Final = 1  # writes nothing new, still reads
FINISHING: Final = 2  # the tail leaves, then the end is announced
LINGERING: Final = 3  # waits for the peer's end
LOST: Final = 4  # the peer has gone, and somebody will soon be told
CLOSED: Final = 5

_WOULD_BLOCK: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def configure(sock: socket.socket) -> None:
    """The options under which "drop oldest" means what it says."""
    sock.setblocking(False)
    # A flush is one `send`; Nagle's algorithm would hold its last segment back until the peer has acknowledged.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Left alone, the kernel takes 3.8 MB of frames that the peer has not read, stale by seconds before anything is
    # dropped, and ten deaf clients hold 40 MB of its memory. Bounded so, they hold 3 MB. It must have room for the
    # largest write of the hub and its bookkeeping: with half of this, a write of 256 KiB is never taken whole, and
    # every client of a busy hub looks congested.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    # `send` also stops when this much has not even left the machine: what waits then waits here, where it can be
    # dropped or superseded, and not there. A peer that never reads is thus given 146 KB, whatever the buffer above.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LOW_WATER)


class Stream:
    """Base of everything that reads and writes a connected socket on a `SelectorLoop`."""

    __slots__ = ("_deadline", "_is_full", "_is_paused", "_phase", "_spare", "_tail", "loop", "sock")

    def __init__(self, loop: SelectorLoop, sock: socket.socket) -> None:
        self.loop = loop
        self.sock = sock
        self._tail: deque[memoryview] | None = None
        """What could not be sent yet; None while everything was and more may be written."""
        self._phase = OPEN
        self._is_full = False
        self._is_paused = False
        self._deadline = 0.0
        self._spare = LINGER_BYTES
        loop.watch(sock, READ, self)
        if isinstance(sock, ssl.SSLSocket):
            loop.call_soon(self)  # who had it before may have left decrypted bytes

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

    # --- writing ---

    def write(self, frame: bytes) -> bool:
        """Take `frame` whole; False once more than `ROOM` waits for the peer, until `drained`."""
        # The hot path: once for each client and flush, most of it the system call. benchmarks/ measures it.
        if self._tail is not None:
            return self._write_behind(frame)
        try:
            sent = self.sock.send(frame)
        except _WOULD_BLOCK:
            sent = 0
        except OSError:
            self._lose()
            return True
        if sent == len(frame):
            return True
        self._tail = deque()
        self._is_full = not self._append(memoryview(frame)[sent:])
        self._watch()
        return not self._is_full

    def _write_behind(self, frame: bytes) -> bool:
        if self._phase == OPEN and not self._append(memoryview(frame)):
            self._is_full = True
            return False
        return True

    def _append(self, rest: memoryview) -> bool:
        assert self._tail is not None
        self._tail.append(rest)
        return sum(map(len, self._tail)) <= ROOM

    def _flush(self) -> None:
        tail = self._tail
        try:
            while tail:
                # TLS wants the same bytes again after a refusal; a view that stays at the head gives them.
                sent = self.sock.send(tail[0])
                if sent < len(tail[0]):
                    tail[0] = tail[0][sent:]
                    return
                tail.popleft()
        except _WOULD_BLOCK:
            return
        except OSError:
            self._lose()
            return
        self._settle()

    def _settle(self) -> None:
        """Nothing waits any more."""
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
            # What was read before the pause, by us or by TLS, makes no descriptor readable.
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
        try:
            data = self.sock.recv(READ_SIZE)
        except _WOULD_BLOCK:
            return
        except OSError:
            self.hang_up()
            return
        if self._phase == LINGERING:
            self._discard(data)
        elif not data:
            self.ended()
        else:
            self.received(data)
        # A TLS record is read whole; what of it did not fit is in no socket that could become readable.
        if self._phase != CLOSED and isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            self.loop.call_soon(self)

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
            if isinstance(self.sock, ssl.SSLSocket):
                _say_goodbye(self.sock)
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
        """A write found the peer gone. Who writes is in the middle of a flush: tell nobody before the next turn."""
        self._phase = LOST
        self._tail = deque()
        self.loop.call_soon(self)

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the socket at once; with `reset`, or a tail, so that the peer and the kernel drop what is under way."""
        if self._phase == CLOSED:
            return
        self._phase = CLOSED
        self.detach()
        if reset or self._tail:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:  # some kernels refuse it once the peer has gone
                pass
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


def _say_goodbye(sock: ssl.SSLSocket) -> None:
    """Send TLS's own end, without waiting for the peer's."""
    try:
        sock.unwrap()
    except (OSError, ValueError):
        pass
