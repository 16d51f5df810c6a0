"""One non-blocking socket of the loop, with TLS where there is some: buffering, deadlines, and the ways to end.

A connection knows nothing of what its bytes mean. It has a `protocol` for that, which an upgrade replaces: a TLS
handshake, an HTTP request, then a WebSocket, a stream of events or lines, all over the same object.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections import deque
from contextlib import suppress
from typing import Final

from .loop import SelectorLoop
from .poller import READ, WRITE
from .protocol import ConnectionProtocol
from .tls import TLS

ROOM: Final = 64 * 1024
"""Unsent bytes up to which `write` returns True: a hiccup of the peer is no congestion yet, and treating it as such
costs more than these bytes, because a stalled session shares no frames."""
READ_SIZE: Final = 4096
"""Bytes read at a time: clients send little, and one that floods takes turns with all others."""

LINGER: Final = 1.0
"""Seconds that a peer has to read why it was disconnected, or to close its side after both close frames."""
LINGER_BYTES: Final = 256 * 1024
"""Bytes that a peer may send after our last one; they are read only so that closing does not destroy that byte."""

# The phases of a connection. They only ever go down this list.
OPEN: Final = 0
LAST_WRITTEN: Final = 1  # writes nothing new, still reads
CLOSING: Final = 2  # sends what is buffered, then the end of the stream
LINGERING: Final = 3  # waits for the peer's end
LOST: Final = 4  # the peer has gone; the next turn of the loop closes the socket
CLOSED: Final = 5

_READING: Final = 0
_PAUSED: Final = 1
_EOF: Final = 2  # a socket at its end stays readable for ever, so it is not watched

_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
_NEVER: Final = 1.0e18
_WOULD_BLOCK: Final = (BlockingIOError, InterruptedError)
_NO_PROTOCOL: Final = ConnectionProtocol()


class Connection:
    """A connected socket on a `SelectorLoop`, and the hub's `Transport` for the session of its protocol.

    There are many of them, most with nothing to send: the buffer exists only while there are unsent bytes.
    """

    __slots__ = (
        "_deadline", "_is_full", "_late_bytes", "_reading", "_tail", "_tls", "loop", "phase", "protocol", "sock",
    )  # fmt: skip

    def __init__(self, loop: SelectorLoop, sock: socket.socket) -> None:
        self.loop = loop
        self.sock = sock
        self.protocol = _NO_PROTOCOL
        self.phase = OPEN
        self._tls: TLS | None = None
        """None in plain text, and once the end of TLS was sent."""
        self._tail: deque[memoryview] | None = None
        """Unsent bytes, encrypted where there is TLS; None while there are none and more may be written."""
        self._is_full = False
        self._reading = _READING
        self._late_bytes = LINGER_BYTES
        self._deadline = _NEVER
        self._watch()

    # --- for protocols ---

    @property
    def is_paused(self) -> bool:
        """Whether reading was paused, by `pause_reading`."""
        return self._reading == _PAUSED

    @property
    def has_eof(self) -> bool:
        """Whether the peer has ended its side, and the protocol continues writing."""
        return self._reading == _EOF

    @property
    def has_unsent(self) -> bool:
        """Whether bytes wait for the peer, or nothing more may be written."""
        return self._tail is not None

    @property
    def buffered(self) -> int:
        """Bytes that wait in this process, in both directions."""
        return (sum(map(len, self._tail)) if self._tail else 0) + self.protocol.buffered

    def set_protocol(self, protocol: ConnectionProtocol) -> None:
        """Let `protocol` have the events from now on."""
        self.protocol = protocol

    def start_tls(self, tls: TLS) -> None:
        """Encrypt and decrypt with `tls` from now on; its handshake is done."""
        self._tls = tls
        if tls.is_fed:
            self.loop.call_soon(self)  # what came with the end of the handshake makes no descriptor readable

    # --- writing ---

    def write(self, frame: bytes) -> bool:
        """Take `frame` whole; False once more than `ROOM` bytes are unsent, until `buffer_drained`."""
        # The hot path: once for each client and flush, most of it the system call. benchmarks/ measures it.
        if self._tail is not None:
            return self._write_behind(frame)
        try:
            if self._tls is not None:
                frame = self._tls.encrypt(frame)
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
        if self.phase != OPEN:
            return True
        if self._tls is not None:
            try:
                frame = self._tls.encrypt(frame)
            except OSError:
                self._lose()
                return True
        if self._append(memoryview(frame)):
            return True
        self._is_full = True
        return False

    def _append(self, rest: memoryview) -> bool:
        assert self._tail is not None
        self._tail.append(rest)
        return sum(map(len, self._tail)) <= ROOM

    def _push(self, tls: TLS) -> None:
        """Send the records of TLS itself, in any phase: they are numbered, so none may be left out."""
        if not (answers := tls.take_answers()):
            return
        sent = 0
        if self._tail:
            tls.unsent += len(answers)
            if tls.unsent > ROOM:  # a peer that requests key updates without end, and reads nothing
                self.abort(reset=True)
                return
        else:
            tls.unsent = 0
            try:
                sent = self.sock.send(answers)
            except _WOULD_BLOCK:
                pass
            except OSError:
                self._lose()
                return
        if sent < len(answers):
            self._tail = self._tail or deque()
            self._append(memoryview(answers)[sent:])
            self._watch()

    def _flush(self) -> None:
        tail = self._tail
        try:
            while tail:
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
        if self.phase == CLOSING:
            self._linger()
            return
        if self.phase != OPEN:
            self._watch()
            return
        self._tail = None
        was_full, self._is_full = self._is_full, False
        self._watch()
        self.protocol.buffer_drained(was_full)

    # --- reading ---

    def pause_reading(self) -> None:
        if self._reading == _READING:
            self._reading = _PAUSED
            self._watch()

    def resume_reading(self) -> None:
        if self._reading == _PAUSED:
            self._reading = _READING
            self._watch()
            if self.protocol.buffered or (self._tls is not None and (self._tls.is_fed or self._tls.has_ended)):
                self.loop.call_soon(self)  # what was read before the pause makes no descriptor readable

    def confirmed(self, frames: int) -> None:
        """The socket tells what the peer has not taken."""

    def socket_ready(self, events: int) -> None:
        if self.phase >= LOST:
            if self.phase == LOST:
                self.abort()
            return
        if self._tail:
            self._flush()
        if events & READ and self._reading == _READING and self.phase < LOST:
            self._read()

    def _read(self) -> None:
        if self.phase < CLOSING and not self.protocol.process_backlog():
            return
        if self._reading != _READING or self.phase >= LOST:  # since then
            return
        tls = self._tls
        try:
            data = self.sock.recv(READ_SIZE) if tls is None else self._decrypt(tls)
        except _WOULD_BLOCK:
            return
        except OSError:
            self.abort()
            return
        if self.phase >= CLOSING and (data or self.phase == LINGERING):
            if not data:
                self.abort()
            else:
                self.count_late_bytes(len(data))
        elif not data:
            self._end_reading()
        else:
            self.protocol.data_received(data)
            if tls is not None and tls.has_ended:  # which makes no descriptor readable
                self.loop.call_soon(self)

    def _end_reading(self) -> None:
        if self._tls is not None:  # TLS 1.2 and older cannot end one direction only (RFC 5246 §7.2.1)
            self.abort()
            return
        self._reading = _EOF
        if self.protocol.eof_received():
            self._watch()
        else:
            self.abort()

    def _decrypt(self, tls: TLS) -> bytes:
        """As `recv`: raises `BlockingIOError` while there is no data of the peer, and any `OSError` of TLS."""
        if tls.has_ended:
            return b""
        if not tls.is_fed:
            tls.feed(self.sock.recv(READ_SIZE))
        try:
            data = tls.decrypt()
        finally:
            self._push(tls)
        if self.phase >= LOST or not (data or tls.has_ended):
            raise BlockingIOError
        return data

    # --- ending ---

    def close(self, code: int, reason: str) -> None:
        """Called by the hub. The protocol sends its close frame behind what was written."""
        if self.phase == OPEN:
            self.protocol.close(code, reason)

    def write_last(self, data: bytes) -> None:
        """Write `data`, and nothing after it."""
        self.write(data)
        if self.phase == OPEN:
            self.phase = LAST_WRITTEN
            self._tail = self._tail or deque()

    def finish(self, seconds: float) -> None:
        """Send what is buffered and the end of the stream, then wait for the peer's end; all of it within `seconds`."""
        if self.phase >= CLOSING:
            return
        if self._tls is not None:
            tls, self._tls = self._tls, None  # later bytes are counted, not decrypted
            tls.shutdown()
            self._push(tls)
            if self.phase >= CLOSING:  # the peer has gone meanwhile
                return
        self.phase = CLOSING
        if self._reading == _PAUSED:
            self._reading = _READING
        self.set_deadline(seconds)
        if self._tail:
            self._watch()
        else:
            self._linger()

    def _linger(self) -> None:
        # Closing with bytes unread sends a reset, and a reset may overtake our last bytes on the peer's side.
        self.phase = LINGERING
        self._reading = _READING
        self._tail = deque()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()
        else:
            self._watch()
            self.protocol.end_sent()

    def count_late_bytes(self, count: int) -> bool:
        """Count what the peer has sent after our last byte; False if that is too much, and the connection is reset."""
        self._late_bytes -= count
        if self._late_bytes < 0:
            self.abort(reset=True)
        return self._late_bytes >= 0

    def _lose(self) -> None:
        # The caller is in the middle of a flush of the hub, so the protocol learns of it in the next turn.
        self.phase = LOST
        self._tail = deque()
        self.loop.call_soon(self)

    def abort(self, *, reset: bool = False) -> None:
        """Close the socket now. With `reset`, or unsent bytes, the peer and the kernel drop what is in flight."""
        if self.phase == CLOSED:
            return
        self.phase = CLOSED
        self.cancel_deadline()
        self.loop.forget(self.sock)
        if reset or self._tail:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:  # some kernels refuse it once the peer has gone
                pass
        elif self._tls is not None:
            with suppress(OSError):
                self._tls.shutdown()
                self.sock.send(self._tls.take_answers())
        self._tls = None
        self._tail = deque()
        self.sock.close()
        self.protocol.connection_lost()
        self.protocol = _NO_PROTOCOL  # which refers to this connection: a cycle that only the collector would free

    def fail(self, error: Exception) -> None:
        self.protocol.fail(error)

    # --- what to wait for ---

    def set_deadline(self, seconds: float) -> None:
        """Have `deadline_passed` called in `seconds`; replaces the deadline before it."""
        self.cancel_deadline()
        self._deadline = self.loop.clock() + seconds
        self.loop.timers.add(self._deadline, self)

    def cancel_deadline(self) -> None:
        self.loop.timers.discard(self._deadline, self)
        self._deadline = _NEVER

    def timer_expired(self) -> None:
        # A deadline that was moved in the turn that took it from the wheel passes later.
        if self.phase < LOST and self._deadline <= self.loop.now + 1.0e-6:
            self.protocol.deadline_passed()

    def _watch(self) -> None:
        if self.phase < CLOSED:
            read = READ if self._reading == _READING else 0
            self.loop.watch(self.sock, read | (WRITE if self._tail else 0), self)
