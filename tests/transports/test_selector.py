"""The loop and its pollers: timers, fairness, the error boundary, and the fallback without a selector."""

from __future__ import annotations

import logging
import selectors
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.transports._sockets import serve as life
from analytics_hub.transports._sockets.loop import SLICE, TICK, SelectorLoop, Timers
from analytics_hub.transports._sockets.poller import (
    READ,
    WRITE,
    Handler,
    Poller,
    SelectorPoller,
    TaskPoller,
    open_poller,
)

from .fake_gateway import FakeGateway
from .peer import CLOSE, PING, PONG, TEXT, Clock, Peer, Received, frame, is_served, serving

pytestmark = pytest.mark.anyio


@dataclass(eq=False)
class Recorder:
    """A handler that records its calls."""

    on_ready: Callable[[int], None] = lambda events: None
    on_due: Callable[[], None] = lambda: None
    events: list[int] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    fails_to_fail: bool = False

    def socket_ready(self, events: int) -> None:
        self.events.append(events)
        self.on_ready(events)

    def timer_expired(self) -> None:
        self.events.append(0)
        self.on_due()

    def fail(self, error: Exception) -> None:
        self.failures.append(error)
        if self.fails_to_fail:
            raise error


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield left, right


# --- timers


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=30), st.floats(0, 100))
def test_a_timer_expires_once_and_never_early_nor_a_tick_late(requested: list[tuple[float, bool]], now: float) -> None:
    timers = Timers()
    handlers = [Recorder() for _ in requested]
    for handler, (when, _) in zip(handlers, requested, strict=True):
        timers.add(when, handler)
    for handler, (when, is_discarded) in zip(handlers, requested, strict=True):
        if is_discarded:
            timers.discard(when, handler)
            timers.discard(when, handler)
    wanted = {id(handler): when for handler, (when, is_back) in zip(handlers, requested, strict=True) if not is_back}

    taken = [id(handler) for handler in timers.pop_due(now)]

    assert len(taken) == len(set(taken))
    assert all(wanted[one] <= now + 1e-9 for one in taken)
    assert {one for one, when in wanted.items() if when <= now - TICK} <= set(taken)
    left = [when for one, when in wanted.items() if one not in taken]
    assert timers.next_time() >= min(left, default=timers.next_time()) - 1e-9
    assert [*timers.pop_due(now)] == []


# --- the loop


async def run_loop(script: Callable[[SelectorLoop], None], is_finished: Callable[[], bool], clock: Clock) -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            poller = open_poller(group)
            loop = SelectorLoop(poller, clock)
            script(loop)
            await loop.run(is_finished)
            poller.close()
            group.cancel_scope.cancel()


async def test_a_handler_is_called_while_its_socket_is_ready() -> None:
    with pair() as (left, right):

        def read(events: int) -> None:
            left.recv(1)

        reader = Recorder(read)
        right.send(b"abc")

        await run_loop(lambda loop: loop.watch(left, READ, reader), lambda: len(reader.events) == 3, Clock())

        assert reader.events == [READ] * 3


async def test_an_exception_is_passed_to_the_handler_that_raised_it(caplog: pytest.LogCaptureFixture) -> None:
    error = RuntimeError("boom")

    def explode(events: int) -> None:
        raise error

    with pair() as (left, right):
        good, bad, worse = Recorder(), Recorder(explode), Recorder(explode, fails_to_fail=True)

        def script(loop: SelectorLoop) -> None:
            loop.call_soon(bad)
            loop.call_soon(worse)
            loop.watch(left, WRITE, good)
            loop.watch(right, 0, good)

        await run_loop(script, lambda: bool(good.events and bad.failures and worse.failures), Clock())

    assert bad.failures == worse.failures == [error]
    assert not good.failures
    assert "could not be ended" in caplog.text


async def test_timers_use_the_injected_clock() -> None:
    clock = Clock()
    first, second = Recorder(), Recorder(lambda events: None)

    def advance(events: int) -> None:
        clock.now += 1.0

    mover = Recorder(advance)

    def script(loop: SelectorLoop) -> None:
        loop.timers.add(clock.now + 0.9, first)
        loop.timers.add(clock.now + 5.0, second)
        loop.call_soon(mover)

    await run_loop(script, lambda: bool(first.events), clock)

    assert first.events == [0]
    assert second.events == []


async def test_call_soon_from_another_task_wakes_the_loop() -> None:
    handler = Recorder()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            poller = open_poller(group)
            loop = SelectorLoop(poller)
            group.start_soon(loop.run, lambda: len(handler.events) == 3)
            for count in range(1, 4):
                await anyio.wait_all_tasks_blocked()
                loop.call_soon(handler)
                while len(handler.events) < count:
                    await anyio.lowlevel.checkpoint()
            group.start_soon(anyio.lowlevel.checkpoint)
            poller.close()


async def test_other_tasks_run_while_many_handlers_are_ready() -> None:
    """With handlers that take a slice each, another task runs between them, not after all of them."""
    turns = 0
    seen: list[int] = []

    async def application() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    def work(events: int) -> None:
        ends = anyio.current_time() + SLICE * 1.5
        while anyio.current_time() < ends:
            pass
        seen.append(turns)

    async with anyio.create_task_group() as group:
        group.start_soon(application)
        handlers = [Recorder(work) for _ in range(12)]

        def script(loop: SelectorLoop) -> None:
            for handler in handlers:
                loop.call_soon(handler)

        await run_loop(script, lambda: len(seen) == len(handlers), Clock())
        group.cancel_scope.cancel()

    # Trio runs ready tasks in random order, so a handler may follow another directly; without turns it is one value.
    assert len(set(seen)) >= 3


# --- pollers

POLLERS: dict[str, Callable[[anyio.abc.TaskGroup], Poller]] = {
    "selector": lambda group: SelectorPoller(selectors.DefaultSelector()),
    "tasks": TaskPoller,
}


@pytest.mark.parametrize("make", POLLERS.values(), ids=POLLERS.keys())
async def test_pollers_behave_the_same(make: Callable[[anyio.abc.TaskGroup], Poller]) -> None:
    first, second = Recorder(), Recorder()

    async def next_from(poller: Poller) -> list[tuple[Handler, int]]:
        while True:
            await poller.wait()
            taken = [found for found in poller.poll() if found[0] in (first, second)]
            if taken:
                return taken

    with anyio.fail_after(10), pair() as (left, right):
        async with anyio.create_task_group() as group:
            poller = make(group)
            poller.watch(left, READ, first)
            right.send(b"x")
            assert await next_from(poller) == [(first, READ)]
            assert await next_from(poller) == [(first, READ)]  # level-triggered

            poller.watch(left, WRITE, second)
            assert await next_from(poller) == [(second, WRITE)]

            poller.watch(left, 0, second)
            poller.watch(left, READ, second)
            assert await next_from(poller) == [(second, READ)]

            poller.forget(left)
            poller.forget(left)
            poller.wake()
            await poller.wait()
            assert [handler for handler, _ in poller.poll() if handler in (first, second)] == []
            for _ in range(3000):
                poller.wake()
            poller.close()
            group.cancel_scope.cancel()


async def test_a_server_without_a_selector_uses_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows; the rest of the transport is the same."""
    monkeypatch.setattr(life, "open_poller", TaskPoller)
    gateway = FakeGateway()
    async with serving(gateway) as port:
        async with await Peer.open(port, room=4096, then=frame(TEXT, b"0")) as peer:
            session = gateway.session
            count = 0
            while session.write(b'"%d%s"' % (count, b"x" * 4000)):
                count += 1
            session.transport.pause_reading()
            await peer.send_frame(TEXT, b"1")
            for number in range(count + 1):
                assert (await peer.read_frame()).payload.startswith(b'["%dx' % number)
            await gateway.until(lambda: session.resumed == 1)
            assert session.received == ["0"]
            session.transport.resume_reading()
            await peer.send_frame(PING)
            assert await peer.read_frame() == Received(PONG, b"")
            assert session.received == ["0", "1"]
            session.transport.close(1000, "")
            assert (await peer.read_frame()).opcode == CLOSE
            await peer.send_frame(CLOSE, struct.pack("!H", 1000))
            assert await peer.read_end() == b""
        (await Peer.open(port)).reset()
        await gateway.until(lambda: not gateway.connected)
        assert await is_served(port)


async def test_a_selector_without_a_descriptor_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    async with anyio.create_task_group() as group:
        assert isinstance(open_poller(group), TaskPoller)


async def test_an_exception_ends_one_connection_and_its_text_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = FakeGateway()

    def explode(session: object, data: str | bytes) -> None:
        raise RuntimeError(data)

    gateway.on_data = explode
    async with serving(gateway) as port, await Peer.open(port) as peer:
        await peer.send_frame(TEXT, b"a secret token")
        assert (await peer.read_frame()).code == 1011

        assert gateway.counters["connection-fault"] == 1
        assert await is_served(port)
    assert "connection-fault: RuntimeError" in caplog.text
    assert "secret" not in caplog.text
