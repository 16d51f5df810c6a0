"""The writing half of a connection: whole frames in, and what the kernel does not take at once waits here.

It holds nothing for a peer that keeps up, because there are many of them: a tail exists only while there is one.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Final, NamedTuple

from .tls import TLS

ROOM: Final = 64 * 1024
"""Bytes that may wait here before the writer is asked to hold back: a hiccup of the peer is no congestion yet, and to
treat one as such costs far more than these bytes, because who is held back shares no frames."""

# What a stream may still do; it only ever goes down this list.
OPEN: Final = 0
SEALED: Final = 1  # writes nothing new, still reads
FINISHING: Final = 2  # the tail leaves, then the end is announced
LINGERING: Final = 3  # waits for the peer's end
LOST: Final = 4  # the peer has gone, and somebody will soon be told
CLOSED: Final = 5

WOULD_BLOCK: Final = (BlockingIOError, InterruptedError)


class Link(NamedTuple):
    """A connected socket, the TLS on it, and what of that could not be sent yet."""

    sock: socket.socket
    tls: TLS | None = None
    tail: deque[memoryview] | None = None


class Outlet:
    """Base of `Stream`, which knows when to write what waits, and what becomes of a connection."""

    __slots__ = ("_is_full", "_phase", "_tail", "_tls", "sock")

    def __init__(self, link: Link) -> None:
        self.sock = link.sock
        self._tls = link.tls
        """None in plain text, and once its end was said."""
        self._tail = link.tail
        """What could not be sent yet, as it goes over the line; None while everything was and more may be written."""
        self._phase = OPEN
        self._is_full = False

    # --- for `Stream` to say what it means ---

    def _settle(self) -> None:
        """Nothing waits any more."""
        raise NotImplementedError

    def _lose(self) -> None:
        """The peer has gone. Who writes is in the middle of a flush: tell nobody before the next turn."""
        raise NotImplementedError

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the socket at once; with `reset`, or a tail, so that the peer and the kernel drop what is under way."""
        raise NotImplementedError

    def _watch(self) -> None:
        """Have the loop tell when there is room, if something waits."""
        raise NotImplementedError

    # --- writing ---

    def write(self, frame: bytes) -> bool:
        """Take `frame` whole; False once more than `ROOM` waits for the peer, until `drained`."""
        # The hot path: once for each client and flush, most of it the system call. benchmarks/ measures it.
        if self._tail is not None:
            return self._write_behind(frame)
        try:
            if self._tls is not None:
                frame = self._tls.encrypt(frame)
            sent = self.sock.send(frame)
        except WOULD_BLOCK:
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
        if self._phase != OPEN:
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
        """Send what TLS itself has to say, whatever the phase: its records count, and none may be left out."""
        if not (answers := tls.take_answers()):
            return
        sent = 0
        if self._tail:
            tls.unsent += len(answers)
            if tls.unsent > ROOM:  # a peer that asks and asks, and reads nothing
                self.hang_up(reset=True)
                return
        else:
            tls.unsent = 0
            try:
                sent = self.sock.send(answers)
            except WOULD_BLOCK:
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
        except WOULD_BLOCK:
            return
        except OSError:
            self._lose()
            return
        self._settle()
