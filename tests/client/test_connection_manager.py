"""The connections of `HubClient`, against a server that runs scripts."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from analytics_hub.client import (
    ClientClosed,
    ConnectionClosed,
    Disconnected,
    Draining,
    HandshakeRefused,
    HubClient,
    NotAHub,
    Resumed,
    Subscription,
    TokenRefused,
)
from analytics_hub.client import Event as ClientEvent
from analytics_hub.client.target import Address
from analytics_hub.client.websocket import MAX_MESSAGE
from analytics_hub.exceptions import HubError, PermissionDenied
from analytics_hub.protocol import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK

from .scripted_server import HELLO, Peer, Script, ScriptedServer, scripted_server

pytestmark = pytest.mark.anyio

ITEM = '{"channel":"a","seq":%d,"type":"t","timestamp":"","data":%d}'


class First(msgspec.Struct):
    first: int


class Second(msgspec.Struct):
    second: int


async def follow(client: HubClient, into: list[Any]) -> None:
    """Follow channel `a` to the end."""
    async with client, client.subscribe("a") as items:
        async for item in items:
            into.append(item)  # noqa: PERF401 - keep the items that came before the exception


class Outcome(NamedTuple):
    """The data that came, what was raised, and what the client has reported."""

    data: list[Any]
    error: Exception
    events: list[ClientEvent]
    disconnects: list[str]


async def run_client(server: ScriptedServer, **options: Any) -> Outcome:
    """Follow channel `a` to the end."""
    items: list[Any] = []
    with pytest.raises(HubError) as caught:
        await follow(server.client(**options), items)
    return Outcome([item.data for item in items], caught.value, server.events, server.disconnects)


async def run(*scripts: Script, **options: Any) -> Outcome:
    """Follow channel `a` of a server with these scripts to the end."""
    async with scripted_server(*scripts) as server:
        return await run_client(server, **options)


async def run_until_reported(server: ScriptedServer, client: HubClient, count: int) -> None:
    """Follow channel `a` until there were `count` events."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow, client, [])
        while len(server.events) < count:
            await checkpoint()
        tasks.cancel_scope.cancel()


def authorizations(requests: list[Request]) -> list[bytes]:
    return [dict(request.extra_headers)[b"authorization"] for request in requests]


def answering(answers: list[Any]) -> Callable[[], str]:
    """A token function that returns or raises the next of `answers`."""

    def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    return token


async def subscribe_and_close(peer: Peer) -> None:
    await peer.accept_subscription()
    await peer.close(1000)


async def subscribe_and_drop(peer: Peer) -> None:
    """The server ends the connection without a close frame."""
    await peer.accept_subscription()


# --- messages


async def test_the_handshake_and_the_items() -> None:
    requests: list[Request] = []

    async def script(peer: Peer) -> None:
        requests.append(await peer.accept())
        await peer.confirm_subscription()
        await peer.send(TextMessage(f"[{ITEM % (1, 10)}]"), TextMessage("[]"), TextMessage(f"[{ITEM % (2, 20)}]"))
        await peer.close(1000, "done")

    outcome = await run(script, headers={"X-Team": "fx"})

    assert outcome.data == [10, 20]
    assert str(outcome.error) == "the server has ended the connection (1000, done)"
    assert isinstance(outcome.error, ConnectionClosed)
    assert outcome.error.code == 1000
    assert requests[0].target == "/ws/analytics"
    assert requests[0].subprotocols == [SUBPROTOCOL_JSON]
    assert authorizations(requests) == [b"Bearer token"]
    assert (b"x-team", b"fx") in requests[0].extra_headers


async def test_fragments_are_joined_and_pings_between_them_answered() -> None:
    pongs: list[Event] = []

    async def script(peer: Peer) -> None:
        await peer.accept_subscription()
        whole = f"[{ITEM % (1, 42)}]"
        await peer.send(TextMessage(whole[:9], message_finished=False), Ping(b"x"), TextMessage(whole[9:]))
        pongs.append(await peer.receive())
        await peer.close(1000)

    outcome = await run(script)

    assert outcome.data == [42]
    assert pongs == [Pong(b"x")]


async def test_messages_in_the_packet_of_the_upgrade_are_received() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(AcceptConnection(subprotocol=SUBPROTOCOL_JSON), TextMessage('[{"type":"$hello"}]'))
        await peer.confirm_subscription()
        await peer.close(1000)

    await run(script)


async def test_an_older_server_gets_json() -> None:
    offered: list[Any] = []

    async def script(peer: Peer) -> None:
        offered.extend((await peer.accept()).subprotocols)
        await peer.confirm_subscription()
        await peer.close(1000)

    await run(script, encoding="msgpack")

    assert offered == [SUBPROTOCOL_MSGPACK, SUBPROTOCOL_JSON]


async def test_the_client_leaves_a_server_that_is_not_a_hub() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(BytesMessage(b"not what was negotiated"))
        await peer.wait_closed()

    outcome = await run(script)

    assert isinstance(outcome.error, NotAHub)


async def test_the_size_of_a_message_is_bounded() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(TextMessage(" " * (MAX_MESSAGE + 1)))
        await peer.wait_eof()

    outcome = await run(script)

    assert "too big" in str(outcome.error)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"hello\r\n\r\n", id="not HTTP"),
        pytest.param(b"\x16\x03\x01", id="TLS"),
        pytest.param(b"HTTP/1.1 101 x\r\n\r\n", id="no upgrade"),
        pytest.param(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", id="no acceptance"),
        pytest.param(b"HTTP/1.1 101 x\r\nSec-WebSocket-Protocol: \xff\r\n\r\n", id="not ASCII"),
    ],
)
async def test_an_invalid_answer_to_the_handshake_is_a_protocol_error(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive()
        await peer.stream.send(answer)
        await peer.stream.send_eof()
        await peer.wait_eof()

    outcome = await run(script)

    assert "protocol error (1002" in str(outcome.error)


async def test_an_invalid_frame_is_a_protocol_error() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.stream.send(b"\xff\xff")
        await peer.wait_closed()

    outcome = await run(script)

    assert "protocol error (1002" in str(outcome.error)


# --- reconnecting


async def test_a_lost_connection_is_resumed_at_the_position() -> None:
    selections: list[dict[str, Any]] = []

    async def drop(peer: Peer) -> None:
        selections.append(await peer.accept_subscription(5))
        await peer.send(TextMessage(f"[{ITEM % (6, 60)}]"))

    async def resume(peer: Peer) -> None:
        selections.append(await peer.accept_subscription(6))
        await peer.send(TextMessage(f"[{ITEM % (7, 70)}]"))
        await peer.close(1000)

    outcome = await run(drop, resume)

    assert outcome.data == [60, 70]
    assert selections == [{"channel": "a"}, {"channel": "a", "since": {"epoch": "e", "seq": 6}}]
    assert outcome.disconnects == ["disconnected (1006)"]
    assert [event.complete for event in outcome.events if isinstance(event, Resumed)] == [True]


async def test_the_client_reconnects_in_the_slot_of_a_drain() -> None:
    async def drain(peer: Peer) -> None:
        await peer.accept_subscription()
        await peer.send_items({"type": "$drain", "in": 0.01})
        await peer.close(1012, "restart")

    outcome = await run(drain, subscribe_and_close, jitter=lambda: 1e9)  # any other delay would exceed the timeout

    assert Draining(0.01) in outcome.events
    assert any(isinstance(event, Disconnected) and event.delay < 0.02 for event in outcome.events)


def refusing(status: int, text: bytes, targets: list[str] | None = None) -> Script:
    async def script(peer: Peer) -> None:
        request = await peer.receive_request()
        if targets is not None:
            targets.append(request.target)
        await peer.send(RejectConnection(status_code=status, has_body=True), RejectData(text, True))

    return script


async def test_a_refused_handshake_raises_the_text_of_the_server() -> None:
    outcome = await run(*[refusing(404, b"go away")] * 3)

    assert type(outcome.error) is HandshakeRefused
    assert str(outcome.error) == "refused (HTTP 404, go away)"


async def test_the_websocket_is_looked_for_at_every_place_and_then_kept() -> None:
    targets: list[str] = []

    async def drop(peer: Peer) -> None:
        targets.append((await peer.accept()).target)
        await peer.confirm_subscription()

    async with scripted_server(
        refusing(404, b"", targets), refusing(500, b"", targets), drop, subscribe_and_close
    ) as server:
        server.url += "/live?tenant=a"
        outcome = await run_client(server)

    assert targets == ["/live/ws/analytics?tenant=a", "/live/ws?tenant=a", "/live?tenant=a"]
    assert outcome.disconnects == ["disconnected (1006)"]


@pytest.mark.parametrize(
    ("statuses", "reported"),
    [([404, 403, 404], "refused (HTTP 403, 403)"), ([403, 426, 404], "refused (HTTP 403, 403)"), ([401], "HTTP 401")],
)
async def test_the_refusal_that_tells_most_is_raised(statuses: list[int], reported: str) -> None:
    outcome = await run(*[refusing(status, str(status).encode()) for status in statuses])

    assert reported in str(outcome.error)


async def test_a_place_that_may_only_be_down_is_tried_again() -> None:
    outcome = await run(refusing(404, b""), refusing(502, b""), refusing(404, b""), subscribe_and_close)

    assert outcome.disconnects == ["temporarily refused (HTTP 502)"]


async def test_the_client_tries_a_busy_server_again() -> None:
    async def busy(peer: Peer) -> None:
        await peer.receive()
        await peer.send(RejectConnection(status_code=503))

    outcome = await run(busy, subscribe_and_close)

    assert outcome.disconnects == ["temporarily refused (HTTP 503)"]


async def test_retry_after_is_the_minimum_delay_up_to_a_day() -> None:
    async def busy(peer: Peer) -> None:
        await peer.receive()
        await peer.send(RejectConnection(status_code=503, headers=[(b"retry-after", b"99999999")]))

    async with scripted_server(busy) as server:
        await run_until_reported(server, server.client(), 1)

    assert server.events == [Disconnected("temporarily refused (HTTP 503)", 86_400)]


async def test_the_client_tries_again_while_no_server_listens() -> None:
    async with scripted_server() as server:
        pass  # closed now
    with anyio.fail_after(30):
        await run_until_reported(server, server.client(), 3)

    url = Address.parse(server.url).sockets[0].url
    assert server.disconnects[:3] == [f"cannot connect to {url}: Connection refused"] * 3


async def test_a_silent_server_is_left_after_the_timeout() -> None:
    def on_event(event: ClientEvent) -> None:
        server.events.append(event)
        scope.cancel()  # before the next attempt

    async with scripted_server(Peer.wait_eof) as server:
        with anyio.CancelScope() as scope:
            await run_client(server, timeout=0.05, on_event=on_event)

    assert server.disconnects == [f"no answer from {Address.parse(server.url).sockets[0].url}"]


async def test_without_on_event_disconnects_are_logged_and_so_are_its_exceptions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(event: object) -> None:
        raise ZeroDivisionError

    async with scripted_server(subscribe_and_drop, subscribe_and_close) as server:
        await run_client(server, on_event=None)
    async with scripted_server(subscribe_and_close) as server:
        await run_client(server, on_event=broken)

    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["disconnected (1006); reconnecting in 0.0 s"]
    assert "on_event failed" in caplog.text


# --- tokens


async def test_after_a_rejected_token_only_another_one_is_tried() -> None:
    requests: list[Request] = []
    tokens = iter(["first", "second", "second"])

    async def refuse(peer: Peer) -> None:
        requests.append(await peer.accept())
        await peer.close(4401, "expired token")

    async def token() -> str:
        return next(tokens)

    outcome = await run(refuse, refuse, token=token)

    assert isinstance(outcome.error, TokenRefused)
    assert outcome.error.fault == "expired"
    assert authorizations(requests) == [b"Bearer first", b"Bearer second"]


@pytest.mark.parametrize("has_answer", [True, False], ids=["temporarily refused", "never answered"])
async def test_a_fresh_token_that_was_not_accepted_is_tried_with_a_new_connection(has_answer: bool) -> None:
    requests: list[Request] = []
    tokens = iter(["first"])

    async def expire(peer: Peer) -> None:
        await peer.accept_subscription()
        await peer.send_items({"type": "$expiring", "in": 30})
        command = await peer.receive_command()
        if has_answer:
            await peer.send_items({"type": "$error", "id": command["id"], "code": "unavailable", "message": "later"})
        await peer.close(4401, "expired token")

    async def accept(peer: Peer) -> None:
        requests.append(await peer.accept())
        await peer.close(1000)

    outcome = await run(expire, accept, token=lambda: next(tokens, "second"))

    assert isinstance(outcome.error, ConnectionClosed)
    assert authorizations(requests) == [b"Bearer second"]


async def test_a_failing_token_function_is_called_again_unless_it_raises_a_hub_error() -> None:
    token = answering(["first", ValueError("down, secret"), "second", PermissionDenied("the account is closed")])

    outcome = await run(subscribe_and_drop, subscribe_and_drop, token=token)

    assert str(outcome.error) == "the account is closed"
    assert outcome.disconnects == ["disconnected (1006)", "cannot get a token: ValueError", "disconnected (1006)"]


async def test_an_exception_of_the_first_call_of_the_token_function_is_raised_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        async with HubClient("ws://localhost:1", answering([ZeroDivisionError()])):
            raise AssertionError
    with pytest.raises(HubError, match="the token is invalid") as caught:
        async with HubClient("ws://localhost:1", "two\r\nlines"):
            raise AssertionError
    assert "lines" not in str(caught.value)


async def test_an_expiring_token_is_renewed_on_the_open_connection() -> None:
    commands: list[Any] = []

    async def script(peer: Peer) -> None:
        await peer.accept_subscription()
        await peer.send_items({"type": "$expiring", "in": 30})
        commands.append(await peer.receive_command())
        await peer.close(1000)

    await run(script, token=answering(["first", "second"]))

    assert commands == [{"action": "auth", "id": 2, "token": "second"}]


async def test_a_token_that_cannot_be_renewed_is_used_until_it_expires() -> None:
    answers: list[Any] = ["first", ValueError("down"), "first"]
    received: list[Event] = []

    async def script(peer: Peer) -> None:
        await peer.accept_subscription()
        for _ in range(2):
            left = len(answers)
            await peer.send_items({"type": "$expiring", "in": 30})
            while len(answers) == left:
                await checkpoint()
        await peer.send(CloseConnection(1000))
        received.append(await peer.receive())

    await run(script, token=answering(answers))

    assert [type(event) for event in received] == [CloseConnection]


async def test_refresh_returns_when_the_server_has_accepted_and_raises_a_refusal() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        command = await peer.receive_command()
        await peer.send_items({"type": "$authenticated", "id": command["id"], "expires": None})
        command = await peer.receive_command()
        refusal = {"type": "$error", "id": command["id"], "code": "forbidden", "message": "another subject"}
        await peer.send_items(refusal)
        await peer.wait_closed()

    token = answering(["first", "second", "third"])
    async with scripted_server(script) as server, server.client(token) as client:
        await client.refresh()
        with pytest.raises(PermissionDenied, match="another subject"):
            await client.refresh()


async def test_refresh_without_a_newer_token_returns_at_once() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.wait_closed()

    tokens = iter(["first"])
    async with scripted_server(script) as server, server.client(lambda: next(tokens, None)) as client:
        await client.refresh()
        assert client.state == "open"


async def test_the_token_may_be_sent_in_the_first_message() -> None:
    commands: list[Any] = []

    async def script(peer: Peer) -> None:
        request = await peer.receive_request()
        assert b"authorization" not in dict(request.extra_headers)
        await peer.send(AcceptConnection())
        commands.append(await peer.receive_command())
        await peer.send_items(HELLO)
        await peer.confirm_subscription()
        await peer.close(1000)

    await run(script, token_in="message")

    assert commands == [{"action": "auth", "id": 1, "token": "token"}]


async def test_a_client_without_a_token_leaves_a_server_that_requires_one() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.receive_request()
        assert b"authorization" not in dict(request.extra_headers)
        await peer.send(AcceptConnection())
        id = (await peer.receive_command())["id"]
        await peer.send_items({"type": "$error", "id": id, "code": "unauthenticated", "message": "..."})
        await peer.wait_closed()

    outcome = await run(script, token=None)

    assert isinstance(outcome.error, TokenRefused)
    assert outcome.error.fault == "missing"
    assert outcome.disconnects == [], "there is no other token to wait for"


# --- the application


async def test_an_exception_of_the_application_is_raised_unchanged() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept_subscription()
        await peer.wait_closed()

    async with scripted_server(script) as server:
        with pytest.raises(ZeroDivisionError):
            async with server.client() as client, client.subscribe("a"):
                raise ZeroDivisionError


async def test_an_exception_of_the_application_survives_a_cancellation() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.wait_closed()

    async def fail_late(server: ScriptedServer) -> None:
        with anyio.CancelScope() as scope:
            async with server.client():
                scope.cancel()
                try:
                    await checkpoint()
                finally:
                    raise ZeroDivisionError

    async with scripted_server(script) as server:
        with pytest.raises(ZeroDivisionError):
            await fail_late(server)


async def test_an_invalid_subscription_does_not_affect_the_others() -> None:
    async def drop(peer: Peer) -> None:
        await peer.accept_subscription()
        while len(refused) < 4:
            await checkpoint()

    refused: list[str] = []
    invalid: list[dict[str, Any]] = [{"channel": "\ud800"}, {"last": -1}, {"max_hz": 0}, {"type": First | Second}]
    async with (
        scripted_server(drop, subscribe_and_close) as server,
        server.client() as client,
        client.subscribe("a") as items,
    ):
        for options in invalid:
            with pytest.raises((ValueError, TypeError)) as caught:
                await client.subscribe(options.pop("channel", "b"), **options).__aenter__()
            refused.append(str(caught.value))
        with pytest.raises(ConnectionClosed):
            await anext(items)
    assert refused[2] == "invalid subscription: Expected `float` > 0.0 - at `$.max_hz`"


async def test_use_before_entering_and_after_leaving_is_refused() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept_subscription()
        await peer.wait_closed()

    client = HubClient("ws://localhost:1")
    with pytest.raises(HubError, match="enter the client first"):
        await client.subscribe("a").__aenter__()
    with pytest.raises(RuntimeError, match="enter the subscription first"):
        await anext(client.subscribe("a"))
    async with scripted_server(script) as server:
        async with server.client() as client:
            items = client.subscribe("a")
            await items.__aenter__()
            assert client.state == "open"
        state: str = client.state
        assert state == "closed"
        for use in (items.__anext__, client.subscribe("b").__aenter__):
            with pytest.raises(HubError, match="the client is closed"):
                await use()
        with pytest.raises(HubError, match="entered only once"):
            await client.__aenter__()


async def test_the_reader_of_a_closed_subscription_gets_an_exception() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept_subscription()
        await peer.wait_closed()

    messages: list[str] = []

    async def read(items: Subscription[Any]) -> None:
        with pytest.raises(ClientClosed) as caught:
            await anext(items)
        messages.append(str(caught.value))

    async with scripted_server(script) as server, server.client() as client, anyio.create_task_group() as tasks:
        async with client.subscribe("a") as items:
            tasks.start_soon(read, items)
            await anyio.wait_all_tasks_blocked()
        await read(items)

    assert messages == ["the subscription to 'a' is closed"] * 2


async def test_invalid_arguments_raise_where_they_are_passed() -> None:
    client = HubClient("ws://localhost:1")

    with pytest.raises(ValueError, match="mutually exclusive"):
        client.subscribe("a", last=1, snapshot=True)
    with pytest.raises(ValueError, match="buffer is 0; it must be at least 1"):
        client.subscribe("a", buffer=0)
    with pytest.raises(ValueError, match="cannot be refreshed"):
        await client.refresh()
    for name, value in (("X Y", "secret"), ("X-Y", "secret\r\n"), ("X-Y", " secret")):
        with pytest.raises(ValueError, match=f"the header '{name}' cannot be sent") as caught:
            HubClient("ws://localhost:1", headers={name: value})
        assert "secret" not in str(caught.value)


# --- TLS


async def test_the_client_tries_again_after_an_incomplete_tls_handshake() -> None:
    async def drop(peer: Peer) -> None:
        await peer.stream.receive()

    async def second(peer: Peer) -> None:
        await peer.stream.receive()
        reconnected.set()
        await anyio.sleep_forever()

    reconnected = anyio.Event()
    async with scripted_server(drop, second) as server:
        server.url = server.url.replace("ws", "wss")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow, server.client(), [])
            await reconnected.wait()
            tasks.cancel_scope.cancel()

    assert server.disconnects == [f"{server.url}/ws/analytics closed the connection during the TLS handshake"]


async def test_a_tls_connection_that_breaks_is_resumed(
    server_side: ssl.SSLContext, client_side: ssl.SSLContext
) -> None:
    async def wrap(peer: Peer) -> Peer:
        return Peer(await TLSStream.wrap(peer.stream, server_side=True, ssl_context=server_side))

    async def drop(peer: Peer) -> None:
        await (await wrap(peer)).accept_subscription()

    async def corrupt(peer: Peer) -> None:
        await (await wrap(peer)).accept_subscription()
        await peer.stream.send(b"not TLS")
        await peer.wait_eof()

    async def close(peer: Peer) -> None:
        await subscribe_and_close(await wrap(peer))

    async with scripted_server(drop, corrupt, close) as server:
        server.url = server.url.replace("ws://127.0.0.1", "wss://localhost")
        outcome = await run_client(server, ssl_context=client_side)

    assert isinstance(outcome.error, ConnectionClosed)
    first, second = outcome.disconnects
    assert first == "disconnected (1006)"
    assert second.startswith("the connection is broken: [SSL")


async def test_a_server_without_tls_is_reported_as_such() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.stream.receive()
        await peer.stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.wait_eof()

    async with scripted_server(refuse) as server:
        server.url = server.url.replace("ws", "wss")
        await run_until_reported(server, server.client(jitter=lambda: 1.0), 1)

    assert "[SSL: WRONG_VERSION_NUMBER]" in server.disconnects[0]
