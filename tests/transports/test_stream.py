"""A connection over a fake socket: buffering, reading, deadlines and ends."""

from __future__ import annotations

import socket
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.transports._sockets.connection import LINGER_BYTES, ROOM, Connection
from analytics_hub.transports._sockets.loop import SelectorLoop
from analytics_hub.transports._sockets.poller import READ, WRITE, Poller, Readiness
from analytics_hub.transports._sockets.protocol import ConnectionProtocol
from analytics_hub.transports._sockets.tls import TLS

from .peer import Clock


class FakeSocket:
    """Takes as many bytes at a time as the script has, or raises its errors; everything once it is exhausted."""

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

    def poll(self) -> Readiness:
        return []

    def wake(self) -> None: ...

    def close(self) -> None: ...


class Recording(ConnectionProtocol):
    """A protocol that records its events, with its connection over a fake socket."""

    def __init__(self, script: list[int | OSError] | None = None, tls: TLS | None = None) -> None:
        self.fake = FakeSocket(script)
        self.poller = FakePoller()
        self.events: list[object] = []
        self.loop = SelectorLoop(cast("Poller", self.poller), Clock())
        self.connection = Connection(self.loop, cast("socket.socket", self.fake))
        self.connection.set_protocol(self)
        if tls is not None:
            self.connection.start_tls(tls)

    def data_received(self, data: bytes) -> None:
        self.events.append(data)

    def buffer_drained(self, was_full: bool) -> None:
        self.events.append("drained, full" if was_full else "drained")

    def connection_lost(self) -> None:
        self.events.append("lost")

    def deadline_passed(self) -> None:
        self.events.append("deadline")

    def turn(self) -> None:
        """Call the handlers of `call_soon`, as the loop does."""
        soon, self.loop._soon = self.loop._soon, []
        for handler in soon:
            handler.socket_ready(READ | WRITE)


FRAMES = st.binary(min_size=1, max_size=40_000)


@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(0, 30_000), max_size=40))
def test_all_bytes_arrive_in_order_however_many_the_kernel_takes(frames: list[bytes], script: list[int]) -> None:
    """And `write` returns False exactly while more than `ROOM` bytes are unsent."""
    stream = Recording([*script])
    written = b""
    for frame in frames:
        written += frame
        was_taken = stream.connection.write(frame)

        waiting = len(written) - len(stream.fake.sent)
        assert was_taken == (waiting <= ROOM)
        assert bool(stream.poller.events & WRITE) == bool(waiting)
        if not was_taken:
            while stream.poller.events & WRITE:
                stream.connection.socket_ready(WRITE)
            assert stream.events.pop() == "drained, full"
    while stream.poller.events & WRITE:
        stream.connection.socket_ready(WRITE)

    assert stream.fake.sent == written
    assert stream.poller.events == READ


def test_a_few_unsent_bytes_are_no_congestion() -> None:
    stream = Recording([10_000, 0])

    assert stream.connection.write(b"a" * 10_001)
    assert stream.connection.write(b"b" * (ROOM - 1))
    assert not stream.connection.write(b"c")
    stream.connection.socket_ready(WRITE)
    assert stream.events == []
    stream.connection.socket_ready(WRITE)
    assert stream.events == ["drained, full"]


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError(), TimeoutError(), OSError(9, "bad")])
@pytest.mark.parametrize("script", [[], [5]])
def test_a_write_error_is_reported_in_the_next_turn(error: OSError, script: list[int]) -> None:
    stream = Recording([*script, error])

    assert stream.connection.write(b"0123456789")
    if script:  # the error is raised by what the loop sends
        stream.connection.socket_ready(WRITE)
    assert stream.connection.write(b"more")
    assert stream.events == []

    stream.turn()
    stream.turn()

    assert stream.events == ["lost"]
    assert stream.fake.is_closed
    assert stream.connection.write(b"more")


def test_an_error_while_reading_closes() -> None:
    stream = Recording()
    stream.fake.incoming = [b"x", ConnectionResetError()]

    stream.connection.socket_ready(READ)
    stream.connection.socket_ready(READ)
    stream.connection.socket_ready(READ)

    assert stream.events == [b"x", "lost"]


def test_nothing_is_read_while_paused() -> None:
    stream = Recording()
    stream.fake.incoming = [b"x"]

    stream.connection.pause_reading()
    assert stream.poller.events == 0
    stream.connection.socket_ready(READ)
    assert stream.events == []

    stream.connection.resume_reading()
    stream.connection.resume_reading()
    assert stream.poller.events == READ
    stream.connection.socket_ready(READ)
    assert stream.events == [b"x"]


def test_the_last_write_goes_behind_unsent_bytes_and_nothing_follows_it() -> None:
    stream = Recording([3])
    stream.connection.write(b"frames")
    stream.connection.write_last(b" bye")

    assert stream.connection.write(b" late")
    stream.connection.finish(1.0)
    stream.connection.finish(1.0)
    assert not stream.fake.is_shut
    stream.connection.socket_ready(WRITE)

    assert stream.fake.sent == b"frames bye"
    assert stream.fake.is_shut
    assert not stream.fake.is_closed
    stream.fake.incoming = [b"whatever", b""]
    stream.connection.socket_ready(READ)
    stream.connection.socket_ready(READ)
    assert stream.fake.is_closed
    assert not stream.fake.was_reset


def test_a_peer_that_keeps_sending_after_the_end_is_reset() -> None:
    stream = Recording()
    stream.connection.finish(1.0)
    stream.fake.incoming = [b"x" * 2048] * (LINGER_BYTES // 2048 + 1)

    while not stream.fake.is_closed:
        stream.connection.socket_ready(READ)

    assert stream.fake.was_reset
    assert stream.events == ["lost"]


def test_aborting_with_unsent_bytes_resets() -> None:
    stream = Recording([3])
    stream.connection.write(b"frames")

    stream.connection.abort()
    stream.connection.abort()

    assert stream.fake.was_reset
    assert stream.events == ["lost"]
    assert stream.poller.events == 0


def test_a_replaced_deadline_does_not_pass_at_its_old_time() -> None:
    stream = Recording()
    clock = cast("Clock", stream.loop.clock)
    stream.connection.set_deadline(1.0)
    stream.connection.set_deadline(5.0)
    clock.now += 2.0
    stream.loop.now = clock.now

    assert [*stream.loop.timers.pop_due(clock.now)] == []
    stream.connection.timer_expired()
    assert stream.events == []

    clock.now += 4.0
    stream.loop.now = clock.now
    assert [*stream.loop.timers.pop_due(clock.now)] == [stream.connection]
    stream.connection.timer_expired()
    assert stream.events == ["deadline"]
