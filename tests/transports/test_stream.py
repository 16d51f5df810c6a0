"""What a stream does with what the kernel takes, against a property and by hand; no sockets."""

from __future__ import annotations

import socket
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.transports._sockets.connection import LINGER_BYTES, Stream
from analytics_hub.transports._sockets.loop import SelectorLoop
from analytics_hub.transports._sockets.poller import READ, WRITE, Poller, Readiness
from analytics_hub.transports._sockets.tls import TLS
from analytics_hub.transports._sockets.writer import ROOM, Link

from .peer import Clock


class FakeSocket:
    """Takes as many bytes at a time as a list says, an error for each that is one, and everything after its end."""

    def __init__(self, script: list[int | OSError] | None = None) -> None:
        self.script = script or []
        self.sent = b""
        self.incoming: list[bytes | OSError] = []
        self.is_closed = False
        self.is_shut = False
        self.was_reset = False

    def send(self, data: bytes | memoryview) -> int:
        step = self.script.pop(0) if self.script else len(data)
        if isinstance(step, OSError):
            raise step
        taken = min(step, len(data))
        if not taken:
            raise BlockingIOError
        self.sent += data[:taken]
        return taken

    def recv(self, size: int) -> bytes:
        if not self.incoming:
            raise BlockingIOError
        data = self.incoming.pop(0)
        if isinstance(data, OSError):
            raise data
        return data

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR
        self.is_shut = True

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        self.was_reset = name == socket.SO_LINGER

    def close(self) -> None:
        self.is_closed = True


class FakePoller:
    def __init__(self) -> None:
        self.events = 0

    def watch(self, sock: socket.socket, events: int, handler: object) -> None:
        self.events = events

    def forget(self, sock: socket.socket) -> None:
        self.events = 0

    async def wait(self) -> None: ...

    def take(self) -> Readiness:
        return []

    def wake(self) -> None: ...

    def close(self) -> None: ...


class Recording(Stream):
    def __init__(self, script: list[int | OSError] | None = None, tls: TLS | None = None) -> None:
        self.fake = FakeSocket(script)
        self.poller = FakePoller()
        self.told: list[object] = []
        loop = SelectorLoop(cast("Poller", self.poller), Clock())
        super().__init__(loop, Link(cast("socket.socket", self.fake), tls))

    def received(self, data: bytes) -> None:
        self.told.append(data)

    def drained(self) -> None:
        self.told.append("drained")

    def closed(self) -> None:
        self.told.append("closed")

    def turn(self) -> None:
        """What the loop does for handlers that asked to be called."""
        soon, self.loop._soon = self.loop._soon, []
        for handler in soon:
            handler.ready(READ | WRITE)


FRAMES = st.binary(min_size=1, max_size=40_000)


@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(0, 30_000), max_size=40))
def test_whatever_the_kernel_takes_everything_arrives_in_order(frames: list[bytes], script: list[int]) -> None:
    """And `write` says no exactly while more than `ROOM` waits."""
    stream = Recording([*script])
    written = b""
    for frame in frames:
        written += frame
        was_taken = stream.write(frame)

        waiting = len(written) - len(stream.fake.sent)
        assert was_taken == (waiting <= ROOM)
        assert bool(stream.poller.events & WRITE) == bool(waiting)
        if not was_taken:
            while stream.poller.events & WRITE:
                stream.ready(WRITE)
            assert stream.told.pop() == "drained"
    while stream.poller.events & WRITE:
        stream.ready(WRITE)

    assert stream.fake.sent == written
    assert stream.poller.events == READ


def test_a_hiccup_is_no_congestion() -> None:
    stream = Recording([10_000, 0])

    assert stream.write(b"a" * 10_001)
    assert stream.write(b"b" * (ROOM - 1))
    assert not stream.write(b"c")
    stream.ready(WRITE)
    assert stream.told == []
    stream.ready(WRITE)
    assert stream.told == ["drained"]


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError(), TimeoutError(), OSError(9, "bad")])
@pytest.mark.parametrize("script", [[], [5]])
def test_a_write_to_a_peer_that_has_gone_is_swallowed_and_told_later(error: OSError, script: list[int]) -> None:
    stream = Recording([*script, error])

    assert stream.write(b"0123456789")
    if script:  # the error is met by what the loop sends
        stream.ready(WRITE)
    assert stream.write(b"more")
    assert stream.told == []

    stream.turn()
    stream.turn()

    assert stream.told == ["closed"]
    assert stream.fake.is_closed
    assert stream.write(b"more")


def test_an_error_while_reading_closes() -> None:
    stream = Recording()
    stream.fake.incoming = [b"x", ConnectionResetError()]

    stream.ready(READ)
    stream.ready(READ)
    stream.ready(READ)

    assert stream.told == [b"x", "closed"]


def test_nothing_is_read_while_paused() -> None:
    stream = Recording()
    stream.fake.incoming = [b"x"]

    stream.pause_reading()
    assert stream.poller.events == 0
    stream.ready(READ)
    assert stream.told == []

    stream.resume_reading()
    stream.resume_reading()
    stream.turn()
    assert stream.told == [b"x"]
    assert stream.poller.events == READ


def test_the_last_word_goes_behind_the_tail_and_nothing_goes_behind_it() -> None:
    stream = Recording([3])
    stream.write(b"frames")
    stream.seal(b" bye")

    assert stream.write(b" late")
    stream.finish(1.0)
    stream.finish(1.0)
    assert not stream.fake.is_shut
    stream.ready(WRITE)

    assert stream.fake.sent == b"frames bye"
    assert stream.fake.is_shut
    assert not stream.fake.is_closed
    stream.fake.incoming = [b"whatever", b""]
    stream.ready(READ)
    stream.ready(READ)
    assert stream.fake.is_closed
    assert not stream.fake.was_reset


def test_a_peer_that_goes_on_talking_after_the_end_is_reset() -> None:
    stream = Recording()
    stream.finish(1.0)
    stream.fake.incoming = [b"x" * 2048] * (LINGER_BYTES // 2048 + 1)

    while not stream.fake.is_closed:
        stream.ready(READ)

    assert stream.fake.was_reset
    assert stream.told == ["closed"]


def test_closing_with_a_tail_resets() -> None:
    stream = Recording([3])
    stream.write(b"frames")

    stream.hang_up()
    stream.hang_up()

    assert stream.fake.was_reset
    assert stream.told == ["closed"]
    assert stream.poller.events == 0


def test_a_deadline_that_was_moved_does_not_come_at_its_old_time() -> None:
    stream = Recording()
    clock = cast("Clock", stream.loop.clock)
    stream.set_deadline(1.0)
    stream.set_deadline(5.0)
    clock.now += 2.0
    stream.loop.now = clock.now

    assert [*stream.loop.timers.take(clock.now)] == []
    stream.due()
    assert not stream.fake.is_closed

    clock.now += 4.0
    stream.loop.now = clock.now
    assert [*stream.loop.timers.take(clock.now)] == [stream]
    stream.due()
    assert stream.fake.is_closed
