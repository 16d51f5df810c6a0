"""The connections under `HubClient`, against a server that plays a script."""

from __future__ import annotations

import contextlib
import ssl
from typing import Any

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
    ConnectFailed,
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
from analytics_hub.client.target import Target
from analytics_hub.client.websocket import MAX_MESSAGE
from analytics_hub.exceptions import HubError, PermissionDenied
from analytics_hub.protocol import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK

from .stage import HELLO, Peer, Stage, stage

pytestmark = pytest.mark.anyio

ITEM = '{"channel":"a","seq":%d,"type":"t","timestamp":"","data":%d}'


class First(msgspec.Struct):
    first: int


class Second(msgspec.Struct):
    second: int


async def collect(client: HubClient, into: list[Any]) -> None:
    """Follow channel `a` to the end."""
    async with client, client.subscribe("a") as items:
        async for item in items:
            into.append(item)  # noqa: PERF401 - what came before the end is wanted


async def play(played: Stage, **options: Any) -> tuple[list[Any], Exception]:
    """Follow to the end: the data that came, and what was raised."""
    items: list[Any] = []
    with pytest.raises(HubError) as caught:
        await collect(played.client(**options), items)
    return [item.data for item in items], caught.value


async def finish(peer: Peer) -> None:
    await peer.subscribed()
    await peer.close(1000)


async def test_the_handshake_and_the_items() -> None:
    requests: list[Request] = []

    async def scene(peer: Peer) -> None:
        requests.append(await peer.accept())
        await peer.confirm()
        await peer.send(TextMessage(f"[{ITEM % (1, 10)}]"), TextMessage("[]"), TextMessage(f"[{ITEM % (2, 20)}]"))
        await peer.close(1000, "done")

    async with stage(scene) as played:
        data, error = await play(played, headers={"X-Team": "fx"})

    assert data == [10, 20]
    assert str(error) == "the server has ended the connection (1000, done)"
    assert isinstance(error, ConnectionClosed)
    assert error.code == 1000
    assert requests[0].target == "/ws/analytics"
    assert requests[0].subprotocols == [SUBPROTOCOL_JSON]
    assert (b"authorization", b"Bearer token") in requests[0].extra_headers
    assert (b"x-team", b"fx") in requests[0].extra_headers


async def test_fragments_are_joined_and_pings_between_them_answered() -> None:
    pongs: list[Event] = []

    async def scene(peer: Peer) -> None:
        await peer.subscribed()
        whole = f"[{ITEM % (1, 42)}]"
        await peer.send(TextMessage(whole[:9], message_finished=False), Ping(b"x"), TextMessage(whole[9:]))
        pongs.append(await peer.receive())
        await peer.close(1000)

    async with stage(scene) as played:
        data, _ = await play(played)

    assert data == [42]
    assert pongs == [Pong(b"x")]


async def test_what_comes_in_one_packet_with_the_upgrade_is_not_left_lying() -> None:
    async def scene(peer: Peer) -> None:
        assert isinstance(await peer.receive(), Request)
        await peer.send(AcceptConnection(subprotocol=SUBPROTOCOL_JSON), TextMessage('[{"type":"$hello"}]'))
        await peer.confirm()
        await peer.close(1000)

    async with stage(scene) as played:
        await play(played)


async def test_a_lost_connection_is_resumed_where_it_was() -> None:
    selections: list[dict[str, Any]] = []

    async def cut(peer: Peer) -> None:
        selections.append(await peer.subscribed(5))
        await peer.send(TextMessage(f"[{ITEM % (6, 60)}]"))

    async def resume(peer: Peer) -> None:
        selections.append(await peer.subscribed(6))
        await peer.send(TextMessage(f"[{ITEM % (7, 70)}]"))
        await peer.close(1000)

    async with stage(cut, resume) as played:
        data, _ = await play(played)

    assert data == [60, 70]
    assert selections == [{"channel": "a"}, {"channel": "a", "since": {"epoch": "e", "seq": 6}}]
    assert played.sentences == ["disconnected (1006)"]
    assert [event.complete for event in played.events if isinstance(event, Resumed)] == [True]


async def test_a_drain_is_followed_to_its_slot() -> None:
    async def drain(peer: Peer) -> None:
        await peer.subscribed()
        await peer.say({"type": "$drain", "in": 0.01})
        await peer.close(1012, "restart")

    async with stage(drain, finish) as played:
        await play(played, jitter=lambda: 1e9)  # anything but the slot would never come

    assert Draining(0.01) in played.events
    assert any(isinstance(event, Disconnected) and event.delay < 0.02 for event in played.events)


@pytest.mark.parametrize(
    ("code", "expected"), [(4400, ConnectionClosed), (4403, PermissionDenied), (4401, TokenRefused), (1013, None)]
)
async def test_close_codes_decide_whether_it_comes_back(code: int, expected: type[Exception] | None) -> None:
    async def scene(peer: Peer) -> None:
        await peer.subscribed()
        await peer.close(code, "because")

    async with stage(scene, *[] if expected else [finish]) as played:
        _, error = await play(played)

    assert type(error) is (expected or ConnectionClosed)
    assert (str(code) in str(error)) == (expected is not None)


async def test_another_token_gets_another_try_and_the_same_does_not() -> None:
    seen: list[Request] = []
    tokens = iter(["first", "second", "second"])

    async def refuse(peer: Peer) -> None:
        seen.append(await peer.accept())
        await peer.close(4401, "expired token")

    async def token() -> str:
        return next(tokens)

    async with stage(refuse, refuse) as played:
        _, error = await play(played, token=token)

    assert isinstance(error, TokenRefused)
    assert error.fault == "expired"
    assert [dict(request.extra_headers)[b"authorization"] for request in seen] == [b"Bearer first", b"Bearer second"]


@pytest.mark.parametrize("answer", [True, False], ids=["refused for now", "never answered"])
async def test_a_fresh_token_that_the_server_has_not_taken_gets_a_connection_of_its_own(answer: bool) -> None:
    seen: list[Request] = []
    tokens = iter(["first"])

    async def expire(peer: Peer) -> None:
        await peer.subscribed()
        await peer.say({"type": "$expiring", "in": 30})
        command = await peer.command()
        if answer:
            await peer.say({"type": "$error", "id": command["id"], "code": "unavailable", "message": "later"})
        await peer.close(4401, "expired token")

    async def finish(peer: Peer) -> None:
        seen.append(await peer.accept())
        await peer.close(1000)

    async with stage(expire, finish) as played:
        _, error = await play(played, token=lambda: next(tokens, "second"))

    assert isinstance(error, ConnectionClosed)
    assert [dict(request.extra_headers)[b"authorization"] for request in seen] == [b"Bearer second"]


async def test_who_gives_out_tokens_may_fail_for_a_while_or_for_good() -> None:
    answers: list[Any] = ["first", ValueError("down, secret"), "second", PermissionDenied("you have left us")]

    def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    async def cut(peer: Peer) -> None:
        await peer.subscribed()

    async with stage(cut, cut) as played:
        _, error = await play(played, token=token)

    assert str(error) == "you have left us"
    assert played.sentences == ["disconnected (1006)", "no token: ValueError", "disconnected (1006)"]


async def test_what_a_token_function_raises_at_first_is_raised_as_it_is() -> None:
    def wrong() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with HubClient("ws://localhost:1", wrong):
            raise AssertionError
    with pytest.raises(HubError, match="this is no token") as caught:
        async with HubClient("ws://localhost:1", "two\r\nlines"):
            raise AssertionError
    assert "lines" not in str(caught.value)


async def test_an_expiring_token_is_renewed_on_the_living_connection() -> None:
    commands: list[Any] = []
    tokens = iter(["first", "second"])

    async def scene(peer: Peer) -> None:
        await peer.subscribed()
        await peer.say({"type": "$expiring", "in": 30})
        commands.append(await peer.command())
        await peer.close(1000)

    async with stage(scene) as played:
        await play(played, token=lambda: next(tokens))

    assert commands == [{"action": "auth", "id": 2, "token": "second"}]


async def test_a_token_that_cannot_be_renewed_is_used_to_its_end() -> None:
    answers: list[Any] = ["first", ValueError("down"), "first"]
    heard: list[Event] = []

    def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    async def scene(peer: Peer) -> None:
        await peer.subscribed()
        for _ in range(2):
            left = len(answers)
            await peer.say({"type": "$expiring", "in": 30})
            while len(answers) == left:
                await checkpoint()
        await peer.send(CloseConnection(1000))
        heard.append(await peer.receive())

    async with stage(scene) as played:
        await play(played, token=token)

    assert [type(event) for event in heard] == [CloseConnection]


async def test_a_refresh_that_is_asked_for_is_answered_or_raises() -> None:
    tokens = iter(["first", "second", "third"])

    async def scene(peer: Peer) -> None:
        await peer.accept()
        command = await peer.command()
        await peer.say({"type": "$authenticated", "id": command["id"], "expires": None})
        command = await peer.command()
        await peer.say({"type": "$error", "id": command["id"], "code": "forbidden", "message": "another subject"})
        await peer.closed()

    async with stage(scene) as played, played.client(lambda: next(tokens)) as client:
        await client.refresh()
        with pytest.raises(PermissionDenied, match="another subject"):
            await client.refresh()


async def test_a_refresh_without_a_fresher_token_is_over_at_once() -> None:
    async def scene(peer: Peer) -> None:
        await peer.accept()
        await peer.closed()

    tokens = iter(["first"])
    async with stage(scene) as played, played.client(lambda: next(tokens, None)) as client:
        await client.refresh()
        assert client.state == "open"


async def test_the_token_may_be_the_first_message() -> None:
    commands: list[Any] = []

    async def scene(peer: Peer) -> None:
        request = await peer.receive()
        assert isinstance(request, Request)
        assert b"authorization" not in dict(request.extra_headers)
        await peer.send(AcceptConnection())
        commands.append(await peer.command())
        await peer.say(HELLO)
        await peer.confirm()
        await peer.close(1000)

    async with stage(scene) as played:
        await play(played, token_in="message")

    assert commands == [{"action": "auth", "id": 1, "token": "token"}]


async def test_without_a_token_none_is_sent_and_a_server_that_wants_one_is_left() -> None:
    async def scene(peer: Peer) -> None:
        request = await peer.receive()
        assert isinstance(request, Request)
        assert b"authorization" not in dict(request.extra_headers)
        await peer.send(AcceptConnection())
        id = (await peer.command())["id"]
        await peer.say({"type": "$error", "id": id, "code": "unauthenticated", "message": "the first command ..."})
        await peer.closed()

    async with stage(scene) as played:
        _, error = await play(played, token=None)

    assert isinstance(error, TokenRefused)
    assert error.fault == "missing"


@pytest.mark.parametrize(
    ("status", "expected"), [(401, TokenRefused), (403, PermissionDenied), (404, HandshakeRefused)]
)
async def test_a_refused_handshake_ends_it_with_the_servers_sentence(status: int, expected: type[Exception]) -> None:
    async def scene(peer: Peer) -> None:
        await peer.receive()
        await peer.send(RejectConnection(status_code=status, has_body=True), RejectData(b"go away", True))

    async with stage(scene) as played:
        _, error = await play(played)

    assert type(error) is expected
    assert f"HTTP {status}, go away" in str(error)


async def test_a_busy_server_is_asked_again_when_it_says() -> None:
    async def busy(peer: Peer) -> None:
        await peer.receive()
        await peer.send(RejectConnection(status_code=503, headers=[(b"retry-after", b"0")]))

    async with stage(busy, finish) as played:
        await play(played)

    assert played.sentences == ["refused for now (HTTP 503)"]


@pytest.mark.parametrize("event", [TextMessage('{"no":"array"}'), BytesMessage(b"x")], ids=["object", "binary"])
async def test_a_server_that_is_no_hub_is_left(event: Event) -> None:
    async def scene(peer: Peer) -> None:
        await peer.accept()
        await peer.send(event)
        await peer.closed()

    async with stage(scene) as played:
        _, error = await play(played)

    assert isinstance(error, NotAHub)


async def test_a_message_has_a_bound() -> None:
    async def scene(peer: Peer) -> None:
        await peer.accept()
        await peer.send(TextMessage(" " * (MAX_MESSAGE + 1)))
        with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            while True:
                await peer.stream.receive()

    async with stage(scene) as played:
        _, error = await play(played)

    assert "too big" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"hello\r\n\r\n", id="no HTTP"),
        pytest.param(b"\x16\x03\x01", id="TLS"),
        pytest.param(b"HTTP/1.1 101 x\r\n\r\n", id="no upgrade"),
        pytest.param(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", id="no acceptance"),
        pytest.param(b"HTTP/1.1 101 x\r\nSec-WebSocket-Protocol: \xff\r\n\r\n", id="no ASCII"),
    ],
)
async def test_answers_that_are_no_upgrade_end_it_without_a_traceback(answer: bytes) -> None:
    async def scene(peer: Peer) -> None:
        await peer.receive()
        await peer.stream.send(answer)
        await peer.stream.send_eof()
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await peer.stream.receive()

    async with stage(scene) as played:
        _, error = await play(played)

    assert "protocol error (1002" in str(error)


async def test_frames_against_the_protocol_end_it() -> None:
    async def scene(peer: Peer) -> None:
        await peer.accept()
        await peer.stream.send(b"\xff\xff")
        await peer.closed()

    async with stage(scene) as played:
        _, error = await play(played)

    assert "protocol error (1002" in str(error)


async def test_an_older_server_is_spoken_to_in_json() -> None:
    offered: list[Any] = []

    async def scene(peer: Peer) -> None:
        offered.extend((await peer.accept()).subprotocols)
        await peer.confirm()
        await peer.close(1000)

    async with stage(scene) as played:
        await play(played, encoding="msgpack")

    assert offered == [SUBPROTOCOL_MSGPACK, SUBPROTOCOL_JSON]


async def test_where_nobody_listens_it_tries_again() -> None:
    async with stage() as played:
        pass  # closed now
    enough = anyio.Event()

    def report(event: Any) -> None:
        played.events.append(event)
        if len(played.events) == 3:
            enough.set()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, played.client(on_event=report), [])
            await enough.wait()
            tasks.cancel_scope.cancel()

    url = Target.parse(played.url).url
    assert played.sentences[:3] == [f"cannot connect to {url}: Connection refused"] * 3


async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async def silent(peer: Peer) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await peer.stream.receive()

    def notice(event: ClientEvent) -> None:
        played.events.append(event)
        scope.cancel()  # or it would go on, with as little time for the next attempt

    async with stage(silent) as played:
        with anyio.CancelScope() as scope:
            await play(played, timeout=0.05, on_event=notice)

    assert played.sentences == [f"no answer from {Target.parse(played.url).url}"]


async def test_failures_without_a_listener_are_logged_and_those_of_a_listener_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def cut(peer: Peer) -> None:
        await peer.subscribed()

    def broken(event: object) -> None:
        raise ZeroDivisionError

    async with stage(cut, finish) as played:
        await play(played, on_event=None)
    async with stage(finish) as played:
        await play(played, on_event=broken)

    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == ["disconnected (1006); again in 0.0 s"]
    assert "on_event failed" in caplog.text


async def test_an_error_of_the_application_comes_out_as_it_is() -> None:
    async def scene(peer: Peer) -> None:
        await peer.subscribed()
        await peer.closed()

    async with stage(scene) as played:
        with pytest.raises(ZeroDivisionError):
            async with played.client() as client, client.subscribe("a"):
                raise ZeroDivisionError


async def test_an_error_of_the_application_survives_a_cancellation() -> None:
    async def scene(peer: Peer) -> None:
        await peer.accept()
        await peer.closed()

    async def fail_late(played: Stage) -> None:
        with anyio.CancelScope() as scope:
            async with played.client():
                scope.cancel()
                try:
                    await checkpoint()
                finally:
                    raise ZeroDivisionError

    async with stage(scene) as played:
        with pytest.raises(ZeroDivisionError):
            await fail_late(played)


async def test_what_cannot_be_subscribed_to_harms_nobody_else() -> None:
    async def cut(peer: Peer) -> None:
        await peer.subscribed()
        while len(refused) < 4:
            await checkpoint()

    async def finish(peer: Peer) -> None:
        await peer.subscribed()
        await peer.close(1000)

    refused: list[str] = []
    wrong: list[dict[str, Any]] = [{"channel": "\ud800"}, {"last": -1}, {"max_hz": 0}, {"type": First | Second}]
    async with stage(cut, finish) as played, played.client() as client, client.subscribe("a") as items:
        for options in wrong:
            with pytest.raises((ValueError, TypeError)) as caught:
                await client.subscribe(options.pop("channel", "b"), **options).__aenter__()
            refused.append(str(caught.value))
        with pytest.raises(ConnectionClosed):
            await anext(items)
    assert refused[2] == "this cannot be subscribed to: Expected `float` > 0.0 - at `$.max_hz`"


async def test_a_client_that_was_left_says_so() -> None:
    async def scene(peer: Peer) -> None:
        await peer.subscribed()
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while not isinstance(await peer.receive(), CloseConnection):
                pass

    client = HubClient("ws://localhost:1")
    with pytest.raises(HubError, match="enter the client first"):
        await client.subscribe("a").__aenter__()
    with pytest.raises(RuntimeError, match="enter the subscription first"):
        await anext(client.subscribe("a"))
    async with stage(scene) as played:
        async with played.client() as client:
            items = client.subscribe("a")
            await items.__aenter__()
            assert client.state == "open"
        left: str = client.state
        assert left == "closed"
        for use in (items.__anext__, client.subscribe("b").__aenter__):
            with pytest.raises(HubError, match="the client has been left"):
                await use()
        with pytest.raises(HubError, match="entered once"):
            await client.__aenter__()


async def test_a_reader_of_a_subscription_that_was_left_is_told() -> None:
    async def scene(peer: Peer) -> None:
        await peer.subscribed()
        await peer.closed()

    told: list[str] = []

    async def read(items: Subscription[Any]) -> None:
        with pytest.raises(ClientClosed) as caught:
            await anext(items)
        told.append(str(caught.value))

    async with stage(scene) as played, played.client() as client, anyio.create_task_group() as tasks:
        async with client.subscribe("a") as items:
            tasks.start_soon(read, items)
            await anyio.wait_all_tasks_blocked()
        await read(items)

    assert told == ["the subscription to 'a' has been left"] * 2


async def test_wrong_arguments_are_told_where_they_are_given() -> None:
    client = HubClient("ws://localhost:1")

    with pytest.raises(ValueError, match="exclude each other"):
        client.subscribe("a", last=1, snapshot=True)
    with pytest.raises(ValueError, match="buffer is 0"):
        client.subscribe("a", buffer=0)
    with pytest.raises(ValueError, match="nothing to ask"):
        await client.refresh()
    for name, value in (("X Y", "secret"), ("X-Y", "secret\r\n"), ("X-Y", " secret")):
        with pytest.raises(ValueError, match=f"the header '{name}' cannot be sent") as caught:
            HubClient("ws://localhost:1", headers={name: value})
        assert "secret" not in str(caught.value)


async def test_a_server_that_hangs_up_during_the_tls_handshake_is_tried_again() -> None:
    async def hang_up(peer: Peer) -> None:
        await peer.stream.receive()

    async def notice(peer: Peer) -> None:
        await peer.stream.receive()
        again.set()
        await anyio.sleep_forever()

    again = anyio.Event()
    async with stage(hang_up, notice) as played:
        url = played.url.replace("ws", "wss")
        client = HubClient(url, on_event=played.events.append, jitter=lambda: 0.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, client, [])
            await again.wait()
            tasks.cancel_scope.cancel()

    assert played.sentences == [f"{url}/ws/analytics hung up during the TLS handshake"]


async def test_a_tls_connection_that_ends_without_a_goodbye_is_resumed(
    server_side: ssl.SSLContext, client_side: ssl.SSLContext
) -> None:
    async def secure(peer: Peer) -> Peer:
        return Peer(await TLSStream.wrap(peer.stream, server_side=True, ssl_context=server_side))

    async def cut(peer: Peer) -> None:
        await (await secure(peer)).subscribed()

    async def spoil(peer: Peer) -> None:
        await (await secure(peer)).subscribed()
        await peer.stream.send(b"no TLS")
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await peer.stream.receive()

    async def end(peer: Peer) -> None:
        await finish(await secure(peer))

    async with stage(cut, spoil, end) as played:
        played.url = played.url.replace("ws://127.0.0.1", "wss://localhost")
        _, error = await play(played, ssl_context=client_side)

    assert isinstance(error, ConnectionClosed)
    first, second = played.sentences
    assert first == "disconnected (1006)"
    assert second.startswith("the connection is broken: [SSL")


async def test_a_server_without_tls_is_told_from_one_that_is_not_there() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.stream.receive()
        await peer.stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        tried.set()
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await peer.stream.receive()

    tried = anyio.Event()
    async with stage(refuse) as played:
        client = HubClient(played.url.replace("ws", "wss"), on_event=played.events.append, jitter=lambda: 1.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, client, [])
            await tried.wait()
            while not played.events:
                await checkpoint()
            tasks.cancel_scope.cancel()

    assert "[SSL: WRONG_VERSION_NUMBER]" in played.sentences[0]


async def test_a_certificate_that_is_not_trusted_is_not_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: object, **kwargs: object) -> object:
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise error

    monkeypatch.setattr(anyio, "connect_tcp", refuse)

    with pytest.raises(ConnectFailed, match="not trusted: self-signed certificate"):
        async with HubClient("wss://localhost"):
            raise AssertionError


class TestTarget:
    @pytest.mark.parametrize(
        ("url", "shown", "authority"),
        [
            ("ws://localhost:7999", "ws://localhost:7999/ws/analytics", "localhost:7999"),
            ("ws://localhost/", "ws://localhost:80/ws/analytics", "localhost"),
            ("wss://hub.example/push?x=1", "wss://hub.example:443/push?x=1", "hub.example"),
            ("wss://hub.example:7999/", "wss://hub.example:7999/ws/analytics", "hub.example:7999"),
            ("ws://[::1]:7999/ws", "ws://[::1]:7999/ws", "[::1]:7999"),
            ("ws://münchen.example/", "ws://xn--mnchen-3ya.example:80/ws/analytics", "xn--mnchen-3ya.example"),
        ],
    )
    def test_urls(self, url: str, shown: str, authority: str) -> None:
        target = Target.parse(url)

        assert target.url == shown
        assert target.authority == authority

    def test_the_token_of_a_url_goes_into_the_header_and_nowhere_else(self) -> None:
        target = Target.parse("ws://localhost:7999/ws/analytics?a=1&token=hidden")

        assert target.token == "hidden"
        assert target.resource == "/ws/analytics?a=1"
        assert "hidden" not in f"{target!r} {target.url}"

    @pytest.mark.parametrize(
        "url", ["", "localhost:7999", "http://localhost", "ws://", "ws://:7999", "ws://x:99999", "ws://x:y", "ws://[x"]
    )
    def test_what_is_no_url_for_it(self, url: str) -> None:
        with pytest.raises(ValueError, match="must begin with ws://"):
            Target.parse(url)

    @pytest.mark.parametrize("url", ["ws://x/a b", "ws://x/ü", "ws://x/a\x7f"])
    def test_paths_that_cannot_be_sent(self, url: str) -> None:
        with pytest.raises(ValueError, match="percent-encoded"):
            Target.parse(url)
