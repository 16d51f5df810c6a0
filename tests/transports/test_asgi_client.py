"""One client under ASGI, on servers that differ: what is sent in which order, and every way to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from analytics_hub.contracts import Handshake, Peer
from analytics_hub.protocol import encode
from analytics_hub.protocol.formats import JSON
from analytics_hub.transports._asgi.app_state import AppState, Limits
from analytics_hub.transports._asgi.borrowed_task import BorrowedTask
from analytics_hub.transports._asgi.client import WebSocketClient
from analytics_hub.transports._asgi.messages import WIRES
from analytics_hub.transports._origins import Origins

from .asgi_peer import Message, Server, running
from .fake_gateway import ALICE, FakeGateway, FakeSession

pytestmark = pytest.mark.anyio

WIRE = WIRES["json"]
Send = Callable[[Message], Awaitable[None]]
Wrap = Callable[[Send], Any]


class Rig:
    """A fake gateway, and connections to it without a handshake; `wrap` is a middleware around `send`."""

    def __init__(self, limits: Limits | None = None, wrap: Wrap | None = None) -> None:
        self.gateway = FakeGateway()
        self.state = AppState(self.gateway, Origins(), limits or Limits())
        self.wrap = wrap

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        send = self.wrap(send) if self.wrap else send
        client = WebSocketClient(self.state, self.state.message_cache(JSON), receive, send)
        client.connect(lambda transport: self.gateway.connect(transport, WIRE, Peer(Handshake(), ALICE)))
        await client.serve()

    @asynccontextmanager
    async def peer(self, room: int | None = None) -> AsyncIterator[tuple[Server, FakeSession]]:
        known = len(self.gateway.sessions)
        with anyio.fail_after(30):
            # Without a handshake, which `test_asgi_websocket.py` covers.
            async with running(self.app, {"type": "none"}, room=room) as server:
                await self.gateway.until(lambda: len(self.gateway.sessions) > known)
                yield server, self.gateway.sessions[-1]
            assert server.error is None


def item(number: int, size: int = 0) -> bytes:
    return encode([number, "x" * size])


async def numbers(server: Server, count: int) -> list[int]:
    return [number for _ in range(count) for number, _ in await server.read_frame()]


# --- messages


async def test_all_members_of_a_cohort_are_sent_the_same_text() -> None:
    rig = Rig()
    async with rig.peer() as (one, first), rig.peer() as (two, second):
        frame = WIRE.frame([item(1)])

        assert first.transport.write(frame)
        assert second.transport.write(frame)

        assert (await one.read())["text"] is (await two.read())["text"]


async def test_a_middleware_that_changes_a_message_changes_it_for_one_client() -> None:
    """Those that compress do."""

    def wrap(send: Send) -> Send:
        async def enclose(message: Message) -> None:
            if "text" in message:
                message["text"] = f"[{message['text']}]"
            await send(message)

        return enclose

    rig = Rig(wrap=wrap)
    async with rig.peer() as (one, first), rig.peer() as (two, second):
        frame = WIRE.frame([item(1)])
        first.transport.write(frame)
        second.transport.write(frame)

        assert await one.read_frame() == await two.read_frame() == [[[1, ""]]]


async def test_several_frames_of_one_write_are_messages_of_their_own() -> None:
    rig = Rig()
    async with rig.peer() as (server, session):
        session.transport.write(WIRE.frame([item(1), item(2)]) + WIRE.frame([]) + WIRE.frame([item(3)]))

        assert [await server.read_frame() for _ in range(3)] == [[[1, ""], [2, ""]], [], [[3, ""]]]


async def test_invalid_utf_8_of_a_publisher_is_replaced() -> None:
    rig = Rig()
    async with rig.peer() as (server, session):
        session.transport.write(WIRE.frame([b'"\xff"']))

        assert (await server.read_frame()) == ["\ufffd"]


# --- slow servers


async def test_messages_wait_in_order_for_a_slow_server_up_to_a_bound() -> None:
    rig = Rig(Limits(max_unsent=1000))
    async with rig.peer(room=2) as (server, session):
        answers = [session.write(item(number, 300)) for number in range(7)]

        assert answers[0]
        assert not answers[-1]
        assert await numbers(server, 7) == list(range(7))
        await rig.gateway.until(lambda: session.resumed)
        assert session.resumed == 1
        assert session.write(item(7))
        assert await numbers(server, 1) == [7]


async def test_one_large_write_is_no_congestion_where_send_always_waits() -> None:
    """On Trio and with Granian nothing is sent at once, and a fast client could lose items meanwhile."""

    def wrap(send: Send) -> Send:
        async def later(message: Message) -> None:
            await anyio.lowlevel.checkpoint()
            await send(message)

        return later

    rig = Rig(Limits(max_unsent=1000), wrap=wrap)
    async with rig.peer() as (server, session):
        for number in range(3):
            assert session.write(item(number, 5000))
            assert await numbers(server, 1) == [number]
            await anyio.wait_all_tasks_blocked()
        assert session.write(item(3, 5000))
        assert not session.write(item(4)), "the one before still waits"
        await rig.gateway.until(lambda: session.resumed)


async def test_one_message_at_a_time_for_each_connection() -> None:
    running_now = most = 0

    def wrap(send: Send) -> Send:
        async def slowly(message: Message) -> None:
            nonlocal running_now, most
            running_now += 1
            most = max(most, running_now)
            await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            await send(message)
            running_now -= 1

        return slowly

    rig = Rig(wrap=wrap)
    async with rig.peer() as (server, session):
        for number in range(5):
            session.write(item(number))

        assert await numbers(server, 5) == list(range(5))
        assert most == 1


class Sending:
    """An awaitable that is no coroutine."""

    def __init__(self, sending: Awaitable[None]) -> None:
        self._sending = sending

    def __await__(self) -> Any:
        return self._sending.__await__()


@pytest.mark.parametrize("is_future", [False, True])
async def test_send_may_return_any_awaitable(is_future: bool) -> None:
    """Granian's returns a future, and has begun by then."""
    if is_future and not is_asyncio():
        pytest.skip("Trio has no futures")

    def wrap(send: Send) -> Callable[[Message], Awaitable[None]]:
        if is_future:
            return lambda message: asyncio.ensure_future(send(message))
        return lambda message: Sending(send(message))

    rig = Rig(wrap=wrap)
    async with rig.peer(room=1) as (server, session):
        for number in range(4):
            session.write(item(number))

        assert await numbers(server, 4) == list(range(4))
        server.is_lost = True
        session.write(item(4))
        await server.done()
        assert session.disconnected == 1


def is_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


async def test_send_runs_as_one_task_and_in_the_context_of_the_connection() -> None:
    here: ContextVar[str] = ContextVar("here", default="nothing")
    flushing = anyio.get_current_task().id

    def wrap(send: Send) -> Send:
        here.set("connection")

        async def traced(message: Message) -> None:
            assert here.get() == "connection"
            token = here.set("inside")
            task = anyio.get_current_task().id
            await send(message)
            assert anyio.get_current_task().id == task != flushing
            here.reset(token)  # raises in another context than that of `set`

        return traced

    rig = Rig(wrap=wrap)
    async with rig.peer(room=1) as (server, session):
        for number in range(3):
            session.write(item(number))
        assert anyio.get_current_task().id == flushing
        assert here.get() == "nothing"

        assert await numbers(server, 3) == [0, 1, 2]


async def test_a_timeout_around_send_ends_only_its_connection() -> None:
    def wrap(send: Send) -> Send:
        async def impatient(message: Message) -> None:
            with anyio.fail_after(0.01):
                await send(message)

        return impatient

    rig = Rig(wrap=wrap)
    async with rig.peer(room=1) as (_, session), rig.peer() as (other, other_session):
        session.write(item(1))
        session.write(item(2))
        await rig.gateway.until(lambda: session.disconnected)
        other_session.write(item(3))

        assert await numbers(other, 1) == [3]
        assert not other_session.disconnected


# --- failing servers


async def test_a_timeout_around_a_send_that_does_not_wait_leaves_nothing_behind() -> None:
    def wrap(send: Send) -> Send:
        async def careful(message: Message) -> None:
            with anyio.fail_after(30), anyio.CancelScope():
                await send(message)

        return careful

    rig = Rig(wrap=wrap)
    async with rig.peer(room=1) as (server, session):
        for number in range(3):
            session.write(item(number))

        assert await numbers(server, 3) == [0, 1, 2]
        session.transport.close(1000, "")
        assert (await server.read())["code"] == 1000


@pytest.mark.parametrize("error", [OSError(), ConnectionResetError(), RuntimeError("after close"), KeyError("x")])
@pytest.mark.parametrize("is_late", [False, True])
async def test_any_exception_of_send_ends_the_connection(error: Exception, is_late: bool) -> None:
    def wrap(send: Send) -> Send:
        async def broken(message: Message) -> None:
            if is_late:
                await anyio.lowlevel.checkpoint()
            raise error

        return broken

    rig = Rig(wrap=wrap)
    async with rig.peer() as (server, session):
        assert session.write(item(1)) in (True, False)
        session.write(item(2))
        await server.done()

        assert session.disconnected == 1
        assert session.write(item(3)), "after its end it ignores writes"
        assert rig.gateway.counters["send-fault"] == isinstance(error, KeyError)


async def test_nothing_is_sent_after_send_has_raised() -> None:
    calls = 0

    def wrap(send: Send) -> Send:
        async def broken(message: Message) -> None:
            nonlocal calls
            calls += 1
            raise KeyError

        return broken

    rig = Rig(wrap=wrap)
    async with rig.peer() as (server, session):
        session.transport.write(WIRE.frame([item(1)]) + WIRE.frame([item(2)]))
        await server.done()

        assert calls == 1
        assert rig.gateway.counters["send-fault"] == 1


async def test_a_send_that_waits_is_cancelled_if_its_peer_leaves_at_the_same_time() -> None:
    """Also if its borrowed task is new and has not begun to sleep."""
    ended = anyio.Event()

    def wrap(send: Send) -> Send:
        async def hang(message: Message) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

        return hang

    rig = Rig(wrap=wrap)
    async with rig.peer() as (server, session):
        server.disconnect()
        session.write(item(1))
        await server.done()
        if is_asyncio():  # on Trio it has not begun yet, and never will
            await ended.wait()


async def test_there_are_no_more_spare_tasks_than_clients() -> None:
    """The rest must not be kept after a thousand congested clients have left."""
    if not is_asyncio():
        return
    state = Rig().state
    for _ in range(3):
        state.client_admitted()
    spare = state.borrowed_tasks.spare
    spare += [BorrowedTask(spare) for _ in range(3)]
    tasks = [borrowed.task for borrowed in spare]

    for left in (2, 1, 0):
        state.client_left()
        await anyio.wait_all_tasks_blocked()

        assert len(spare) == sum(not task.done() for task in tasks) == left


async def test_a_send_that_returns_at_its_timeout_leaves_a_task_that_can_be_cancelled() -> None:
    begun, gate, ended = anyio.Event(), anyio.Event(), anyio.Event()
    limit = anyio.CancelScope()

    def wrap(send: Send) -> Send:
        async def hesitant(message: Message) -> None:
            if "[1," in message["text"]:
                with limit:
                    await gate.wait()
                await send(message)
                return
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

        return hesitant

    rig = Rig(wrap=wrap)
    async with rig.peer() as (one, first), rig.peer() as (two, second):
        first.write(item(1))
        await anyio.wait_all_tasks_blocked()
        gate.set()
        limit.cancel()
        assert await numbers(one, 1) == [1]
        await anyio.wait_all_tasks_blocked()
        second.write(item(2))
        await begun.wait()
        two.disconnect()
        await ended.wait()


async def test_a_disconnect_is_noticed_by_receive_where_send_does_not_raise() -> None:
    rig = Rig(wrap=lambda send: _ignore)
    async with rig.peer() as (server, session):
        session.write(item(1))
        server.disconnect(1000)
        await server.done()

        assert session.disconnected == 1


async def _ignore(message: Message) -> None:
    pass


async def test_a_receive_that_raises_ends_the_connection() -> None:
    rig = Rig()

    async def receive() -> Message:
        raise ValueError("secret")

    with anyio.fail_after(30):
        await rig.app({}, receive, _ignore)

    assert rig.gateway.session.disconnected == 1
    assert rig.gateway.counters["receive-fault"] == 1


# --- the end


async def test_the_close_code_comes_after_what_was_written() -> None:
    rig = Rig()
    async with rig.peer(room=1) as (server, session):
        for number in range(3):
            session.write(item(number))
        session.transport.close(4503, "too slow")
        session.write(item(3))

        assert await numbers(server, 3) == [0, 1, 2]
        assert await server.read() == {"type": "websocket.close", "code": 4503, "reason": "too slow"}
        await server.done()
        assert session.disconnected == 1


async def test_a_send_that_never_returns_is_cancelled_after_close_timeout() -> None:
    rig = Rig(Limits(close_timeout=0.01), wrap=lambda send: _never)
    async with rig.peer() as (server, session):
        session.write(item(1))
        session.transport.close(1012, "")
        await server.done()

        assert not server.sent


async def _never(message: Message) -> None:
    await anyio.sleep_forever()


async def test_a_peer_that_ignores_the_close_is_abandoned_after_close_timeout() -> None:
    rig = Rig(Limits(close_timeout=0.01))
    async with rig.peer() as (server, session):
        server.ignores_close = True
        session.transport.close(1012, "bye")
        await server.done()

        assert (await server.read())["code"] == 1012


async def test_a_server_that_refuses_a_standard_close_code_gets_a_substitute() -> None:
    """Autobahn, and thereby Daphne, accepts 1000 and 3000 to 4999."""

    def wrap(send: Send) -> Send:
        async def picky(message: Message) -> None:
            if message["type"] == "websocket.close" and 1000 < message["code"] < 3000:
                raise Exception("invalid close code")
            await send(message)

        return picky

    rig = Rig(wrap=wrap)
    async with rig.peer() as (server, session):
        session.transport.close(1012, "restart")
        assert (await server.read())["code"] == 4503
    async with rig.peer() as (server, session):
        server.send_to_app("x" * 70_000)
        assert (await server.read())["code"] == 4400


@pytest.mark.parametrize(
    ("close", "is_close_sent", "code"), [(None, False, 1001), (4401, False, 4401), (1012, True, 1012)]
)
async def test_a_cancelled_connection_sends_one_close(close: int | None, is_close_sent: bool, code: int) -> None:
    rig = Rig()
    server = Server(rig.app, {"type": "none"})
    server.ignores_close = True
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            await rig.gateway.until(lambda: rig.gateway.sessions)
            if close is not None:
                rig.gateway.session.transport.close(close, "")
            if is_close_sent:
                await server.until(lambda: server.sent)
            tasks.cancel_scope.cancel()

    assert server.error is None
    assert rig.gateway.session.disconnected == 1
    assert [message["code"] for message in server.sent] == [code]


async def test_a_connection_that_is_cancelled_during_send_sends_no_close() -> None:
    rig = Rig(wrap=lambda send: _never)
    server = Server(rig.app, {"type": "none"})
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            await rig.gateway.until(lambda: rig.gateway.sessions)
            rig.gateway.session.write(item(1))
            tasks.cancel_scope.cancel()

    assert server.error is None
    assert rig.gateway.session.disconnected == 1


@pytest.mark.parametrize("error", [OSError(), RuntimeError("closed"), KeyError("x")])
async def test_a_close_that_cannot_be_sent_ends_the_connection(error: Exception) -> None:
    def wrap(send: Send) -> Send:
        async def broken(message: Message) -> None:
            raise error

        return broken

    rig = Rig(wrap=wrap)
    async with rig.peer() as (server, session):
        session.transport.close(1012, "")
        await server.done()

        assert session.disconnected == 1
        assert rig.gateway.counters["send-fault"] == isinstance(error, KeyError)


async def test_a_peer_may_leave_before_the_close_is_sent() -> None:
    rig = Rig()
    async with rig.peer(room=1) as (server, session):
        session.write(item(1))
        session.write(item(2))
        session.transport.close(1012, "")
        await anyio.wait_all_tasks_blocked()
        server.disconnect()
        await server.done()

        assert len(server.sent) == 1


async def test_a_hub_that_closes_before_connect_ends_the_client_with_1012() -> None:
    rig = Rig()
    rig.gateway.is_closed = True
    server = Server(rig.app, {"type": "none"})
    with anyio.fail_after(30):
        await server.run()

    assert (await server.read())["code"] == 1012


# --- reading


async def test_messages_reach_the_hub_unchanged() -> None:
    rig = Rig()
    async with rig.peer() as (server, session):
        server.send_to_app('{"a":"é"}')
        server.send_to_app(b"\x80")
        server.put({"type": "websocket.receive"}, {"type": "something.new"})
        server.put({"type": "websocket.receive", "text": "", "bytes": None})
        await rig.gateway.until(lambda: len(session.received) == 3)

        assert session.received == ['{"a":"é"}', b"\x80", ""]
        assert rig.gateway.counters["odd-message"] == 1


@pytest.mark.parametrize("message", ["x" * 11, "é" * 6, b"x" * 11], ids=["text", "characters", "binary"])
async def test_a_message_that_is_too_large_ends_the_connection(message: str | bytes) -> None:
    rig = Rig(Limits(max_message=10))
    async with rig.peer() as (server, session):
        server.send_to_app("x" * 10)
        server.send_to_app("é" * 5)
        server.send_to_app(message)
        server.send_to_app("never")

        assert (await server.read())["code"] == 1009
        assert len(session.received) == 2


async def test_no_message_is_received_or_lost_during_a_pause() -> None:
    rig = Rig()
    async with rig.peer() as (server, session):
        session.transport.pause_reading()
        session.transport.pause_reading()
        for number in range(5):
            server.send_to_app(str(number))
        await anyio.wait_all_tasks_blocked()
        calls = server.receive_calls

        assert session.received == []
        assert calls == 1, "one message is in hand, and no further one is received"
        session.transport.resume_reading()
        session.transport.resume_reading()
        await rig.gateway.until(lambda: len(session.received) == 5)
        assert session.received == list("01234")


async def test_a_client_can_be_closed_during_a_pause() -> None:
    rig = Rig()
    async with rig.peer() as (server, session):
        session.transport.pause_reading()
        server.send_to_app("x")
        await anyio.wait_all_tasks_blocked()
        session.transport.close(4408, "late")

        assert (await server.read())["code"] == 4408
        await server.done()
        assert session.received == []


async def test_an_exception_of_the_hub_ends_only_that_client() -> None:
    rig = Rig()

    def fail(session: FakeSession, data: str | bytes) -> None:
        raise ZeroDivisionError

    rig.gateway.on_data = fail
    async with rig.peer() as (server, _):
        server.send_to_app("x")

        assert (await server.read())["code"] == 1011
        assert rig.gateway.counters["connection-fault"] == 1


# --- confirmations


async def test_a_client_that_never_confirms_has_no_window() -> None:
    rig = Rig(Limits(max_unconfirmed=2, max_unconfirmed_bytes=10))
    async with rig.peer() as (_, session):
        assert all(session.write(item(number)) for number in range(10))


async def test_unconfirmed_frames_are_limited() -> None:
    rig = Rig(Limits(max_unconfirmed=4))
    async with rig.peer() as (_, session):
        assert session.write(item(0))
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(1)
        assert [session.write(item(number)) for number in range(4)] == [True, True, True, False]

        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(2)
        assert session.resumed == 0, "three of four are still above half"
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(3)
        assert session.resumed == 1
        assert [session.write(item(number)) for number in range(2)] == [True, False]


async def test_unconfirmed_bytes_are_limited() -> None:
    rig = Rig(Limits(max_unconfirmed_bytes=1000))
    async with rig.peer() as (_, session):
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(0)
        assert [session.write(item(number, 400)) for number in range(3)] == [True, True, False]

        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(1)
        assert session.resumed == 0
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(2)
        assert session.resumed == 1


async def test_invalid_confirmations_are_harmless() -> None:
    rig = Rig(Limits(max_unconfirmed=2))
    async with rig.peer() as (_, session):
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(2**53 - 1)
        assert session.write(item(0))
        assert not session.write(item(1)), "frames that were not sent yet are not confirmed"
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(2)
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(0)
        assert session.resumed == 1
        assert session.write(item(2))


async def test_frames_sent_before_the_first_confirmation_count() -> None:
    rig = Rig(Limits(max_unconfirmed=4))
    async with rig.peer() as (_, session):
        for number in range(10):
            session.write(item(number))
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(5)

        assert not session.write(item(10))
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(11)
        assert session.resumed == 1


async def test_both_the_server_and_the_window_must_have_room() -> None:
    rig = Rig(Limits(max_unsent=100, max_unconfirmed=100))
    async with rig.peer(room=1) as (server, session):
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(0)
        assert [session.write(item(number, 90)) for number in range(3)][-1] is False
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(1)
        assert session.resumed == 0
        assert await numbers(server, 3) == [0, 1, 2]
        await rig.gateway.until(lambda: session.resumed)
