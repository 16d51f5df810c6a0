"""Admission to the WebSocket transport: tokens, origins, limits, and the plain HTTP on the same port."""

from __future__ import annotations

import logging

import anyio
import anyio.lowlevel
import pytest

from analytics_hub.auth import JWTAuthenticator, mint
from analytics_hub.channels import Channel
from analytics_hub.contracts import Handshake
from analytics_hub.exceptions import AuthenticationError, AuthenticationUnavailable, PermissionDenied
from analytics_hub.http import Request, Response, respond_health
from analytics_hub.hub import Hub
from analytics_hub.identity import Identity
from analytics_hub.transports._websocket.protocol import WebSocketProtocol
from analytics_hub.transports.websocket import Limits, serve

from .fake_gateway import ALICE, FakeGateway
from .peer import CLOSE, PATH, PING, PONG, TEXT, Answer, Clock, Peer, frame, is_served, serving, upgrade

pytestmark = pytest.mark.anyio

SECRET = "an hmac key of thirty-two bytes.."
TOKEN = mint(SECRET, subject="alice", roles=["trader"])
EXPIRED = mint(SECRET, subject="alice", ttl=60, now=1_000_000_000)
PAGE = "Origin: http://127.0.0.1"


def real_hub() -> Hub:
    return Hub([Channel("alerts")], authenticate=JWTAuthenticator(SECRET, algorithms=["HS256"]), grace=0.01)


async def request(port: int, data: bytes) -> Answer:
    async with await Peer.connect(port) as peer:
        await peer.send(data)
        return await peer.read_answer()


async def read_close_of(port: int, request: bytes) -> tuple[int | None, str]:
    """The close frame of a connection that is upgraded and closed at once."""
    async with await Peer.connect(port) as peer:
        await peer.send(request)
        assert (await peer.read_head()).status == 101
        close = await peer.read_frame()
        assert await peer.read_end() == b""
        return close.code, close.reason


# --- tokens


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(upgrade(f"Authorization: Bearer {TOKEN}"), id="header"),
        pytest.param(upgrade(f"Sec-WebSocket-Protocol: analytics-hub.v1.json, bearer.{TOKEN}"), id="subprotocol"),
        pytest.param(upgrade(path=f"{PATH}?token={TOKEN}"), id="query"),
    ],
)
async def test_a_token_may_come_in_three_places_and_is_neither_logged_nor_echoed(
    head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with real_hub() as hub, serving(hub) as port, await Peer.connect(port) as peer:
        await peer.send(head + frame(TEXT, b'{"action":"subscribe","channels":["alerts"]}'))
        answer = await peer.read_head()
        greeting = await peer.read_frame()

        assert answer.status == 101
        assert TOKEN not in str(answer)
        assert b"$hello" in greeting.payload
        (session,) = hub.sessions
        assert session.identity is not None
        assert session.identity.id == "alice"
    assert "eyJ" not in caplog.text


@pytest.mark.parametrize(("token", "sentence"), [(EXPIRED, "expired token"), (TOKEN + "x", "invalid token")])
async def test_an_invalid_token_is_refused_with_a_status_or_a_close_code(token: str, sentence: str) -> None:
    async with real_hub() as hub, serving(hub) as port:
        head = upgrade(f"Authorization: Bearer {token}")

        answer = await request(port, head)
        closed = await read_close_of(port, upgrade(f"Authorization: Bearer {token}", PAGE))

        assert (answer.status, answer.body.decode()) == (401, f"{sentence}\n")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert closed == (4401, sentence)
        assert hub.sessions == []
        assert hub.statistics().counters[f"token-{sentence.removesuffix(' token')}"] == 2


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (AuthenticationError("missing"), 401, 4401),
        (PermissionDenied("no"), 403, 4403),
        (AuthenticationUnavailable(), 503, 1011),
        (RuntimeError("secret"), 503, 1011),
    ],
)
async def test_refusals_of_the_gateway_and_faults(error: Exception, status: int, code: int) -> None:
    gateway = FakeGateway()

    async def admit(handshake: Handshake) -> Identity:
        await anyio.lowlevel.checkpoint()
        raise error

    gateway.on_admit = admit
    async with serving(gateway) as port:
        answer = await request(port, upgrade())
        closed, reason = await read_close_of(port, upgrade(PAGE))

        assert (answer.status, closed) == (status, code)
        assert "secret" not in reason + answer.body.decode()
        assert gateway.sessions == []


async def test_the_handshake_has_everything_known_of_the_peer() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port:
        head = upgrade(
            "Authorization: Bearer secret", "Sec-WebSocket-Protocol: bearer.other", "X-Forwarded-For: 1.2.3.4", PAGE
        )
        async with await Peer.connect(port) as peer:
            await peer.send(head)
            assert (await peer.read_head()).status == 101

    (handshake,) = gateway.handshakes
    assert handshake.token == "secret"
    assert handshake.transport == "websocket"
    assert handshake.path == PATH
    assert handshake.origin == "http://127.0.0.1"
    assert handshake.client == "127.0.0.1"
    assert handshake.headers["x-forwarded-for"] == "1.2.3.4"
    assert "secret" not in str(handshake.headers)
    assert "other" not in str(handshake.headers)


async def test_a_check_is_cancelled_after_the_handshake_timeout() -> None:
    gateway, clock = FakeGateway(), Clock()

    async def admit(handshake: Handshake) -> Identity:
        await anyio.sleep_forever()
        raise AssertionError

    gateway.on_admit = admit
    async with serving(gateway, clock=clock) as port, await Peer.connect(port) as peer:
        await peer.send(upgrade())
        await gateway.until(lambda: gateway.handshakes)
        clock.now += 5.1

        assert (await peer.read_answer()).status == 503
        assert gateway.counters["check-timeout"] == 1


async def test_a_check_that_does_not_begin_in_time_is_answered() -> None:
    gateway, clock = FakeGateway(), Clock()

    async def admit(handshake: Handshake) -> Identity:
        await anyio.sleep_forever()
        raise AssertionError

    gateway.on_admit = admit
    async with serving(gateway, clock=clock, limits=Limits(max_checks=1)) as port:
        peers = [await Peer.connect(port) for _ in range(3)]
        for peer in peers:
            await peer.send(upgrade())
        await gateway.until(lambda: gateway.handshakes)
        assert (await request(port, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")).status == 404  # so all three have been read
        clock.now += 5.1

        for peer in peers:
            assert (await peer.read_answer()).status == 503
            peer.close()
        assert len(gateway.handshakes) == 1


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_slow_handshake_is_ended(sent: bytes) -> None:
    gateway, clock = FakeGateway(), Clock()
    async with serving(gateway, clock=clock) as port, await Peer.connect(port) as peer:
        await peer.send(sent)
        assert await is_served(port)  # so it has been accepted
        clock.now += 5.1

        answer = await peer.read_end()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
        assert gateway.counters["handshake-timeout"] == 1


async def test_a_cancelled_server_cancels_its_checks() -> None:
    gateway = FakeGateway()
    ended: list[bool] = []

    async def admit(handshake: Handshake) -> Identity:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)
        raise AssertionError

    gateway.on_admit = admit
    async with serving(gateway) as port:
        peer = await Peer.connect(port)
        await peer.send(upgrade())
        await gateway.until(lambda: gateway.handshakes)

    assert ended == [True]
    assert await peer.read_end() == b""
    assert gateway.counters["check-timeout"] == 0
    peer.close()


async def test_max_checks_tokens_are_checked_at_a_time() -> None:
    gateway = FakeGateway()
    running = most = 0

    async def admit(handshake: Handshake) -> Identity:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.wait_all_tasks_blocked()  # so that as many as possible run
        running -= 1
        return ALICE

    gateway.on_admit = admit
    async with serving(gateway, limits=Limits(max_checks=3)) as port:
        peers = [await Peer.connect(port) for _ in range(10)]
        for peer in peers:
            await peer.send(upgrade())
        for peer in peers:
            assert (await peer.read_head()).status == 101
            peer.close()

        assert most == 3


async def test_nothing_is_left_of_peers_that_leave_during_their_check() -> None:
    gateway, clock = FakeGateway(), Clock()
    gate = anyio.Event()

    async def admit(handshake: Handshake) -> Identity:
        await gate.wait()
        return ALICE

    gateway.on_admit = admit
    async with serving(gateway, clock=clock, limits=Limits(max_checks=2)) as port:
        leaving = [await Peer.connect(port) for _ in range(4)]
        for peer in leaving:
            await peer.send(upgrade())
        await gateway.until(lambda: len(gateway.handshakes) == 2)
        for peer in leaving:
            peer.reset()
        gate.set()

        assert await is_served(port)
        await gateway.until(lambda: not gateway.connected)


# --- origins, limits


async def test_a_page_of_another_site_is_upgraded_and_closed_with_4403() -> None:
    gateway = FakeGateway()
    async with serving(gateway, origins=["https://friend.example"]) as port:
        assert await read_close_of(port, upgrade("Origin: https://evil.example")) == (
            4403,
            "this origin is not allowed",
        )
        assert await read_close_of(port, upgrade("Origin: null")) == (4403, "this origin is not allowed")
        async with await Peer.open(port, "Origin: https://friend.example"):
            pass
        async with await Peer.open(port, PAGE):
            pass
        assert len(gateway.sessions) == 2


async def test_origins_must_be_a_list() -> None:
    with pytest.raises(TypeError, match="it must be a list of origins"):
        await serve(real_hub(), origins="https://friend.example")


async def test_a_client_over_max_clients_is_refused() -> None:
    gateway = FakeGateway()
    async with serving(gateway, limits=Limits(max_clients=1)) as port:
        async with await Peer.open(port) as peer:
            assert (await request(port, upgrade())).status == 503
            assert await read_close_of(port, upgrade(PAGE)) == (1013, "more than 1 connections")
            await peer.send_frame(CLOSE)
            await peer.read_end()
        await gateway.until(lambda: not gateway.connected)
        assert await is_served(port)


async def test_the_oldest_of_too_many_pending_connections_is_evicted() -> None:
    gateway = FakeGateway()
    async with serving(gateway, limits=Limits(max_pending=3)) as port:
        stalled = [await Peer.connect(port) for _ in range(3)]
        for peer in stalled:
            await peer.send(b"GET ")

        assert await is_served(port)

        assert await stalled[0].read_end() == b""
        assert gateway.counters["handshake-evicted"] == 1
        for peer in stalled:
            peer.close()


async def test_a_draining_hub_refuses_clients() -> None:
    gateway = FakeGateway()

    async def admit(handshake: Handshake) -> Identity:
        gateway.is_draining = True
        return ALICE

    gateway.on_admit = admit
    async with serving(gateway) as port:
        waiting = await Peer.connect(port)
        await waiting.send(upgrade()[:20])
        early = await Peer.connect(port)
        await early.send(upgrade())
        assert (await early.read_answer()).status == 503
        await waiting.send(upgrade(PAGE)[20:])

        assert (await waiting.read_head()).status == 101
        assert (await waiting.read_frame()).code == 1012
        waiting.close()
        early.close()


async def test_a_hub_that_closes_during_the_check_refuses_the_client() -> None:
    gateway = FakeGateway()
    gateway.is_closed = True
    async with serving(gateway) as port:
        assert await read_close_of(port, upgrade()) == (1012, "the hub is shutting down")


async def test_an_error_in_connect_ends_that_client_only(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = FakeGateway()

    def connect(*args: object) -> None:
        raise RuntimeError

    async with serving(gateway) as port:
        with monkeypatch.context() as patch:
            patch.setattr(gateway, "connect", connect)
            assert await read_close_of(port, upgrade()) == (1011, "internal error")
        assert gateway.counters["connection-fault"] == 1
        assert await is_served(port)


# --- HTTP


def respond(request: Request) -> Response | None:
    if request.path == "/echo":
        text = f"{request.method} {request.query} {request.headers.get('x-a')} ".encode()
        return Response(200, text + request.body, headers=[("X-B", "c")])
    if request.path == "/large":
        return Response(200, b"x" * 5_000_000)
    if request.path == "/raise":
        raise RuntimeError("secret")
    if request.path == "/split":
        return Response(200, headers=[("X-B", "c\r\nX-Evil: d")])
    return None


async def test_requests_are_answered_by_the_function() -> None:
    async with serving(FakeGateway(), respond=respond) as port:
        get = await request(port, b"GET /echo?q HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n\r\n")
        post = await request(port, b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
        head = await request(port, b"HEAD /echo HTTP/1.1\r\nHost: h\r\n\r\n")
        old = await request(port, b"GET /echo HTTP/1.0\r\n\r\n")

    assert (get.status, get.body, get.headers["x-b"]) == (200, b"GET q 1 ", "c")
    assert get.headers["connection"] == "close"
    assert post.body == b"POST  None hi"
    assert (head.body, head.headers["content-length"]) == (b"", "11")
    assert old.status == 200


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /nothing", 404),
        ("GET /raise", 500),
        ("GET /split", 500),
        ("DELETE /echo", 405),
        (f"GET {PATH}", 426),
        (f"HEAD {PATH}", 426),
        (f"POST {PATH}", 405),
    ],
)
async def test_requests_that_cannot_be_answered(request_line: str, status: int) -> None:
    gateway = FakeGateway()
    async with serving(gateway, respond=respond) as port:
        answer = await request(port, f"{request_line} HTTP/1.1\r\nHost: h\r\n\r\n".encode())

        assert answer.status == status
        assert b"secret" not in answer.body
        assert "x-evil" not in answer.headers


async def test_without_a_function_every_path_is_404() -> None:
    async with serving(FakeGateway()) as port:
        assert (await request(port, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")).status == 404


async def test_a_large_answer_reaches_a_slow_reader_whole() -> None:
    gateway, clock = FakeGateway(), Clock()
    async with (
        serving(gateway, respond=respond, clock=clock) as port,
        await Peer.connect(port, room=4096) as peer,
    ):
        await peer.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await is_served(port)
        clock.now += 4.9

        answer = await peer.read_answer()

        assert len(answer.body) == 5_000_000
        assert not peer.was_reset


async def test_an_answer_that_is_not_read_is_aborted() -> None:
    gateway, clock = FakeGateway(), Clock()
    async with (
        serving(gateway, respond=respond, clock=clock) as port,
        await Peer.connect(port, room=4096) as peer,
    ):
        await peer.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await is_served(port)
        clock.now += 5.1

        assert len(await peer.read_end()) < 5_000_000
        assert peer.was_reset


async def test_a_refused_upload_still_gets_its_answer() -> None:
    """Closing at once would reset the connection, and the reset could overtake the answer."""
    async with serving(FakeGateway(), respond=respond) as port, await Peer.connect(port) as peer:
        await peer.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)

        assert (await peer.read_answer()).status == 413
        assert not peer.was_reset


async def test_a_client_may_wait_for_100_continue_before_its_body() -> None:
    async with serving(FakeGateway(), respond=respond) as port, await Peer.connect(port) as peer:
        await peer.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await peer.read_head()).status == 100
        await peer.send(b"hi")

        assert (await peer.read_answer()).body == b"POST  None hi"


async def test_health_on_the_same_port() -> None:
    async with real_hub() as hub, serving(hub, respond=respond_health(hub)) as port:
        answer = await request(port, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")

        assert (answer.status, answer.body) == (200, b'{"status":"ok"}\n')


async def test_websockets_at_another_path() -> None:
    async with serving(FakeGateway(), path="/live") as port:
        async with await Peer.open(port, path="/live?x=1") as peer:
            await peer.send_frame(PING)
            assert (await peer.read_frame()).opcode == PONG
        assert (await request(port, upgrade())).status == 404


async def test_an_error_in_shutdown_concerns_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def shutdown(self: WebSocketProtocol) -> None:
        raise RuntimeError("no")

    gateway = FakeGateway()
    monkeypatch.setattr(WebSocketProtocol, "shutdown", shutdown)
    async with serving(gateway) as port:
        first, second = await Peer.open(port), await Peer.open(port)
        await gateway.until(lambda: len(gateway.sessions) == 2)

    async with first, second:
        assert await first.read_end() == b""
        assert await second.read_end() == b""
    assert gateway.counters["connection-fault"] == 2
