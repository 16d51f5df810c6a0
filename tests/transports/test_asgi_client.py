"""One client under ASGI, on servers of every temper: what is sent in which order, and every way to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from analytics_hub.contracts import Handshake
from analytics_hub.hub import Hub
from analytics_hub.protocol import encode
from analytics_hub.protocol.formats import JSON
from analytics_hub.transports._asgi.app_state import AppState, Limits
from analytics_hub.transports._asgi.borrowed_task import BorrowedTask
from analytics_hub.transports._asgi.client import WebSocketClient
from analytics_hub.transports._asgi.messages import WIRES
from analytics_hub.transports._origins import Origins

from .asgi_peer import Message, Server, running
from .fake_hub import SOMEBODY, FakeHub, FakeSession

pytestmark = pytest.mark.anyio

WIRE = WIRES["json"]
Send = Callable[[Message], Awaitable[None]]
Wrap = Callable[[Send], Any]


class Stage:
    """A fake hub, and connections to it without a handshake; `wrap` stands between the client and its server."""

    def __init__(self, limits: Limits | None = None, wrap: Wrap | None = None) -> None:
        self.hub = FakeHub()
        self.desk = AppState(cast("Hub", self.hub), Origins(), limits or Limits())
        self.wrap = wrap

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        client = WebSocketClient(self.desk, self.desk.envelopes(JSON), receive, self.wrap(send) if self.wrap else send)
        hub = cast("Hub", self.hub)
        client.open(lambda transport: hub.connect(transport, WIRE, SOMEBODY, Handshake()))
        await client.serve()

    @asynccontextmanager
    async def peer(self, room: int | None = None) -> AsyncIterator[tuple[Server, FakeSession]]:
        known = len(self.hub.sessions)
        with anyio.fail_after(30):
            # Without a handshake: that is another room's.
            async with running(self.app, {"type": "none"}, room=room) as server:
                await self.hub.until(lambda: len(self.hub.sessions) > known)
                yield server, self.hub.sessions[-1]
            assert server.error is None


def item(number: int, size: int = 0) -> bytes:
    return encode([number, "x" * size])


async def numbers(server: Server, count: int) -> list[int]:
    return [number for _ in range(count) for number, _ in await server.read_frame()]


# --- messages -------------------------------------------------------------------------------------------------------


async def test_all_members_of_a_cohort_are_sent_the_same_text() -> None:
    stage = Stage()
    async with stage.peer() as (one, first), stage.peer() as (two, second):
        frame = WIRE.frame([item(1)])

        assert first.transport.write(frame)
        assert second.transport.write(frame)

        assert (await one.read())["text"] is (await two.read())["text"]


async def test_a_middleware_that_changes_a_message_changes_it_for_one_client() -> None:
    """As those that compress do."""

    def wrap(send: Send) -> Send:
        async def enclose(message: Message) -> None:
            if "text" in message:
                message["text"] = f"[{message['text']}]"
            await send(message)

        return enclose

    stage = Stage(wrap=wrap)
    async with stage.peer() as (one, first), stage.peer() as (two, second):
        frame = WIRE.frame([item(1)])
        first.transport.write(frame)
        second.transport.write(frame)

        assert await one.read_frame() == await two.read_frame() == [[[1, ""]]]


async def test_several_frames_of_one_write_are_messages_of_their_own() -> None:
    stage = Stage()
    async with stage.peer() as (server, session):
        session.transport.write(WIRE.frame([item(1), item(2)]) + WIRE.frame([]) + WIRE.frame([item(3)]))

        assert [await server.read_frame() for _ in range(3)] == [[[1, ""], [2, ""]], [], [[3, ""]]]


async def test_text_that_is_no_utf_8_is_the_publishers_problem_alone() -> None:
    stage = Stage()
    async with stage.peer() as (server, session):
        session.transport.write(WIRE.frame([b'"\xff"']))

        assert (await server.read_frame()) == ["\ufffd"]


# --- a server that is slow ------------------------------------------------------------------------------------------


async def test_what_a_server_does_not_take_waits_in_order_up_to_a_bound() -> None:
    stage = Stage(Limits(max_unsent=1000))
    async with stage.peer(room=2) as (server, session):
        answers = [session.write(item(number, 300)) for number in range(7)]

        assert answers[0]
        assert not answers[-1]
        assert await numbers(server, 7) == list(range(7))
        await stage.hub.until(lambda: session.resumed)
        assert session.resumed == 1
        assert session.write(item(7))
        assert await numbers(server, 1) == [7]


async def test_one_large_write_is_no_congestion_where_send_always_waits() -> None:
    """On Trio and with Granian nothing is sent at once, and a fast client could lose what it misses meanwhile."""

    def wrap(send: Send) -> Send:
        async def later(message: Message) -> None:
            await anyio.lowlevel.checkpoint()
            await send(message)

        return later

    stage = Stage(Limits(max_unsent=1000), wrap=wrap)
    async with stage.peer() as (server, session):
        for number in range(3):
            assert session.write(item(number, 5000))
            assert await numbers(server, 1) == [number]
            await anyio.wait_all_tasks_blocked()
        assert session.write(item(3, 5000))
        assert not session.write(item(4)), "the one before still waits"
        await stage.hub.until(lambda: session.resumed)


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

    stage = Stage(wrap=wrap)
    async with stage.peer() as (server, session):
        for number in range(5):
            session.write(item(number))

        assert await numbers(server, 5) == list(range(5))
        assert most == 1


class Sending:
    """Something to await that is no coroutine."""

    def __init__(self, sending: Awaitable[None]) -> None:
        self._sending = sending

    def __await__(self) -> Any:
        return self._sending.__await__()


@pytest.mark.parametrize("is_future", [False, True])
async def test_send_may_return_anything_that_can_be_awaited(is_future: bool) -> None:
    """Granian's returns a future of its own and is under way by then."""
    if is_future and not is_asyncio():
        pytest.skip("Trio has no futures")

    def wrap(send: Send) -> Callable[[Message], Awaitable[None]]:
        if is_future:
            return lambda message: asyncio.ensure_future(send(message))
        return lambda message: Sending(send(message))

    stage = Stage(wrap=wrap)
    async with stage.peer(room=1) as (server, session):
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


async def test_what_runs_in_send_has_one_task_and_the_context_of_the_connection() -> None:
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

    stage = Stage(wrap=wrap)
    async with stage.peer(room=1) as (server, session):
        for number in range(3):
            session.write(item(number))
        assert anyio.get_current_task().id == flushing
        assert here.get() == "nothing"

        assert await numbers(server, 3) == [0, 1, 2]


async def test_a_timeout_around_send_ends_its_connection_alone() -> None:
    def wrap(send: Send) -> Send:
        async def impatient(message: Message) -> None:
            with anyio.fail_after(0.01):
                await send(message)

        return impatient

    stage = Stage(wrap=wrap)
    async with stage.peer(room=1) as (_, session), stage.peer() as (other, its):
        session.write(item(1))
        session.write(item(2))
        await stage.hub.until(lambda: session.disconnected)
        its.write(item(3))

        assert await numbers(other, 1) == [3]
        assert not its.disconnected


# --- a server that breaks -------------------------------------------------------------------------------------------


async def test_a_timeout_around_a_send_that_does_not_wait_leaves_nothing_behind() -> None:
    def wrap(send: Send) -> Send:
        async def careful(message: Message) -> None:
            with anyio.fail_after(30), anyio.CancelScope():
                await send(message)

        return careful

    stage = Stage(wrap=wrap)
    async with stage.peer(room=1) as (server, session):
        for number in range(3):
            session.write(item(number))

        assert await numbers(server, 3) == [0, 1, 2]
        session.transport.close(1000, "")
        assert (await server.read())["code"] == 1000


@pytest.mark.parametrize("error", [OSError(), ConnectionResetError(), RuntimeError("after close"), KeyError("x")])
@pytest.mark.parametrize("is_late", [False, True])
async def test_whatever_send_raises_ends_the_connection(error: Exception, is_late: bool) -> None:
    def wrap(send: Send) -> Send:
        async def broken(message: Message) -> None:
            if is_late:
                await anyio.lowlevel.checkpoint()
            raise error

        return broken

    stage = Stage(wrap=wrap)
    async with stage.peer() as (server, session):
        assert session.write(item(1)) in (True, False)
        session.write(item(2))
        await server.done()

        assert session.disconnected == 1
        assert session.write(item(3)), "after its end it swallows"
        assert stage.hub.counters["send-fault"] == isinstance(error, KeyError)


async def test_after_a_send_that_raised_there_is_no_other() -> None:
    calls = 0

    def wrap(send: Send) -> Send:
        async def broken(message: Message) -> None:
            nonlocal calls
            calls += 1
            raise KeyError

        return broken

    stage = Stage(wrap=wrap)
    async with stage.peer() as (server, session):
        session.transport.write(WIRE.frame([item(1)]) + WIRE.frame([item(2)]))
        await server.done()

        assert calls == 1
        assert stage.hub.counters["send-fault"] == 1


async def test_a_send_that_has_to_wait_is_cancelled_when_its_peer_leaves_in_the_same_moment() -> None:
    """Also if the peer was the first to be waited for, and its courier has not even begun to sleep."""
    ended = anyio.Event()

    def wrap(send: Send) -> Send:
        async def hang(message: Message) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

        return hang

    stage = Stage(wrap=wrap)
    async with stage.peer() as (server, session):
        server.lose()
        session.write(item(1))
        await server.done()
        if is_asyncio():  # on Trio it has not begun yet, and never will
            await ended.wait()


async def test_couriers_leave_with_those_who_have_needed_them() -> None:
    """Who stays must not keep one for each of a thousand that took nothing for a while and have gone."""
    if not is_asyncio():
        return
    desk = Stage().desk
    for _ in range(3):
        desk.joined()
    spare = desk.couriers.spare
    spare += [BorrowedTask(spare) for _ in range(3)]
    tasks = [courier.task for courier in spare]

    for left in (2, 1, 0):
        desk.left()
        await anyio.wait_all_tasks_blocked()

        assert len(spare) == sum(not task.done() for task in tasks) == left


async def test_a_send_that_ends_in_the_moment_of_its_timeout_leaves_a_courier_that_can_be_cancelled() -> None:
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

    stage = Stage(wrap=wrap)
    async with stage.peer() as (one, first), stage.peer() as (two, second):
        first.write(item(1))
        await anyio.wait_all_tasks_blocked()
        gate.set()
        limit.cancel()
        assert await numbers(one, 1) == [1]
        await anyio.wait_all_tasks_blocked()
        second.write(item(2))
        await begun.wait()
        two.lose()
        await ended.wait()


async def test_a_server_that_is_silent_about_a_peer_that_left_still_says_it_to_receive() -> None:
    stage = Stage(wrap=lambda send: _swallow)
    async with stage.peer() as (server, session):
        session.write(item(1))
        server.lose(1000)
        await server.done()

        assert session.disconnected == 1


async def _swallow(message: Message) -> None:
    pass


async def test_a_receive_that_raises_is_the_end() -> None:
    stage = Stage()

    async def receive() -> Message:
        raise ValueError("secret")

    with anyio.fail_after(30):
        await stage.app({}, receive, _swallow)

    assert stage.hub.session.disconnected == 1
    assert stage.hub.counters["receive-fault"] == 1


# --- the end --------------------------------------------------------------------------------------------------------


async def test_the_close_code_comes_after_what_was_written() -> None:
    stage = Stage()
    async with stage.peer(room=1) as (server, session):
        for number in range(3):
            session.write(item(number))
        session.transport.close(4503, "too slow")
        session.write(item(3))

        assert await numbers(server, 3) == [0, 1, 2]
        assert await server.read() == {"type": "websocket.close", "code": 4503, "reason": "too slow"}
        await server.done()
        assert session.disconnected == 1


async def test_a_send_that_never_returns_is_given_up() -> None:
    stage = Stage(Limits(close_timeout=0.01), wrap=lambda send: _never)
    async with stage.peer() as (server, session):
        session.write(item(1))
        session.transport.close(1012, "")
        await server.done()

        assert not server.sent


async def _never(message: Message) -> None:
    await anyio.sleep_forever()


async def test_a_peer_that_never_answers_the_close_is_given_up() -> None:
    stage = Stage(Limits(close_timeout=0.01))
    async with stage.peer() as (server, session):
        server.is_stubborn = True
        session.transport.close(1012, "bye")
        await server.done()

        assert (await server.read())["code"] == 1012


async def test_a_server_that_refuses_a_standard_code_gets_one_of_ours() -> None:
    """Autobahn, and by that Daphne, takes 1000 and 3000 to 4999."""

    def wrap(send: Send) -> Send:
        async def picky(message: Message) -> None:
            if message["type"] == "websocket.close" and 1000 < message["code"] < 3000:
                raise Exception("invalid close code")
            await send(message)

        return picky

    stage = Stage(wrap=wrap)
    async with stage.peer() as (server, session):
        session.transport.close(1012, "restart")
        assert (await server.read())["code"] == 4503
    async with stage.peer() as (server, session):
        server.say("x" * 70_000)
        assert (await server.read())["code"] == 4400


async def test_a_server_that_cancels_has_the_peer_told_first() -> None:
    stage = Stage()
    server = Server(stage.app, {"type": "none"})
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            await stage.hub.until(lambda: stage.hub.sessions)
            tasks.cancel_scope.cancel()

    assert server.error is None
    assert stage.hub.session.disconnected == 1
    assert server.sent[-1]["code"] == 1001


async def test_a_server_that_cancels_in_the_middle_of_a_message_has_no_other_sent() -> None:
    stage = Stage(wrap=lambda send: _never)
    server = Server(stage.app, {"type": "none"})
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            await stage.hub.until(lambda: stage.hub.sessions)
            stage.hub.session.write(item(1))
            tasks.cancel_scope.cancel()

    assert server.error is None
    assert stage.hub.session.disconnected == 1


async def test_a_server_that_cancels_in_the_moment_of_the_close_changes_nothing_about_it() -> None:
    stage = Stage()
    server = Server(stage.app, {"type": "none"})
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            await stage.hub.until(lambda: stage.hub.sessions)
            stage.hub.session.transport.close(4401, "expired")
            tasks.cancel_scope.cancel()

    assert server.error is None
    assert [message["code"] for message in server.sent] == [4401]


async def test_a_server_that_cancels_after_the_close_has_no_other_sent() -> None:
    stage = Stage()
    server = Server(stage.app, {"type": "none"})
    server.is_stubborn = True
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            await stage.hub.until(lambda: stage.hub.sessions)
            stage.hub.session.transport.close(1012, "restart")
            await server.until(lambda: server.sent)
            tasks.cancel_scope.cancel()

    assert server.error is None
    assert [message["code"] for message in server.sent] == [1012]


@pytest.mark.parametrize("error", [OSError(), RuntimeError("closed"), KeyError("x")])
async def test_a_close_that_cannot_be_sent_is_the_end_as_well(error: Exception) -> None:
    def wrap(send: Send) -> Send:
        async def broken(message: Message) -> None:
            raise error

        return broken

    stage = Stage(wrap=wrap)
    async with stage.peer() as (server, session):
        session.transport.close(1012, "")
        await server.done()

        assert session.disconnected == 1
        assert stage.hub.counters["send-fault"] == isinstance(error, KeyError)


async def test_a_peer_that_leaves_while_it_is_told_goodbye() -> None:
    stage = Stage()
    async with stage.peer(room=1) as (server, session):
        session.write(item(1))
        session.write(item(2))
        session.transport.close(1012, "")
        await anyio.wait_all_tasks_blocked()
        server.lose()
        await server.done()

        assert len(server.sent) == 1


async def test_a_hub_that_closes_in_the_last_moment_takes_nobody() -> None:
    stage = Stage()
    stage.hub.is_closed = True
    server = Server(stage.app, {"type": "none"})
    with anyio.fail_after(30):
        await server.run()

    assert (await server.read())["code"] == 1012


# --- reading --------------------------------------------------------------------------------------------------------


async def test_messages_reach_the_hub_as_they_are() -> None:
    stage = Stage()
    async with stage.peer() as (server, session):
        server.say('{"a":"é"}')
        server.say(b"\x80")
        server.put({"type": "websocket.receive"}, {"type": "something.new"})
        server.put({"type": "websocket.receive", "text": "", "bytes": None})
        await stage.hub.until(lambda: len(session.received) == 3)

        assert session.received == ['{"a":"é"}', b"\x80", ""]
        assert stage.hub.counters["odd-message"] == 1


@pytest.mark.parametrize("message", ["x" * 11, "é" * 6, b"x" * 11], ids=["text", "characters", "binary"])
async def test_a_message_too_big_ends_the_connection(message: str | bytes) -> None:
    stage = Stage(Limits(max_message=10))
    async with stage.peer() as (server, session):
        server.say("x" * 10)
        server.say("é" * 5)
        server.say(message)
        server.say("never")

        assert (await server.read())["code"] == 1009
        assert len(session.received) == 2


async def test_a_pause_is_felt_by_the_sender_and_nothing_is_lost() -> None:
    stage = Stage()
    async with stage.peer() as (server, session):
        session.transport.pause_reading()
        session.transport.pause_reading()
        for number in range(5):
            server.say(str(number))
        await anyio.wait_all_tasks_blocked()
        asked = server.listening

        assert session.received == []
        assert asked == 1, "one message is in hand, and no further one is asked for"
        session.transport.resume_reading()
        session.transport.resume_reading()
        await stage.hub.until(lambda: len(session.received) == 5)
        assert session.received == list("01234")


async def test_a_client_is_closed_while_it_is_paused() -> None:
    stage = Stage()
    async with stage.peer() as (server, session):
        session.transport.pause_reading()
        server.say("x")
        await anyio.wait_all_tasks_blocked()
        session.transport.close(4408, "late")

        assert (await server.read())["code"] == 4408
        await server.done()
        assert session.received == []


async def test_a_fault_of_the_hub_ends_that_client_only() -> None:
    stage = Stage()

    def fail(session: FakeSession, data: str | bytes) -> None:
        raise ZeroDivisionError

    stage.hub.on_data = fail
    async with stage.peer() as (server, _):
        server.say("x")

        assert (await server.read())["code"] == 1011
        assert stage.hub.counters["connection-fault"] == 1


# --- confirmations --------------------------------------------------------------------------------------------------


async def test_a_client_that_never_confirms_has_no_window() -> None:
    stage = Stage(Limits(max_unconfirmed=2, max_unconfirmed_bytes=10))
    async with stage.peer() as (_, session):
        assert all(session.write(item(number)) for number in range(10))


async def test_a_client_that_confirms_is_held_back_by_frames() -> None:
    stage = Stage(Limits(max_unconfirmed=4))
    async with stage.peer() as (_, session):
        assert session.write(item(0))
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(1)
        assert [session.write(item(number)) for number in range(4)] == [True, True, True, False]

        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(2)
        assert session.resumed == 0, "three of four is no room yet"
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(3)
        assert session.resumed == 1
        assert [session.write(item(number)) for number in range(2)] == [True, False]


async def test_a_client_that_confirms_is_held_back_by_bytes() -> None:
    stage = Stage(Limits(max_unconfirmed_bytes=1000))
    async with stage.peer() as (_, session):
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(0)
        assert [session.write(item(number, 400)) for number in range(3)] == [True, True, False]

        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(1)
        assert session.resumed == 0
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(2)
        assert session.resumed == 1


async def test_confirmations_that_make_no_sense_do_no_harm() -> None:
    stage = Stage(Limits(max_unconfirmed=2))
    async with stage.peer() as (_, session):
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
    stage = Stage(Limits(max_unconfirmed=4))
    async with stage.peer() as (_, session):
        for number in range(10):
            session.write(item(number))
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(5)

        assert not session.write(item(10))
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(11)
        assert session.resumed == 1


async def test_both_the_server_and_the_window_must_have_room() -> None:
    stage = Stage(Limits(max_unsent=100, max_unconfirmed=100))
    async with stage.peer(room=1) as (server, session):
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(0)
        assert [session.write(item(number, 90)) for number in range(3)][-1] is False
        await anyio.wait_all_tasks_blocked()
        session.transport.confirmed(1)
        assert session.resumed == 0
        assert await numbers(server, 3) == [0, 1, 2]
        await stage.hub.until(lambda: session.resumed)
