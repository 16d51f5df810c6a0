"""The limits of the native transports, and what they report to the limits of the hub."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub.channels import Channel
from analytics_hub.contracts import Handshake, anonymous
from analytics_hub.exceptions import AuthenticationError
from analytics_hub.hub import Hub
from analytics_hub.identity import Identity
from analytics_hub.telemetry import COUNTERS
from analytics_hub.testing import ManualClock
from analytics_hub.transports import tcp
from analytics_hub.transports.websocket import Limits, serve
from analytics_hub.tuning import MIB, Tuning

from .fake_gateway import FakeGateway
from .line_peer import read_close
from .peer import CLOSE, TEXT, Peer, frame, is_served, serving, upgrade

pytestmark = pytest.mark.anyio

OTHER = "127.0.0.2"
"""Another address of this machine."""


def optional(handshake: Handshake) -> Identity:
    """Admits a peer without a token, which must then send one."""
    if handshake.token is None:
        raise AuthenticationError("missing")
    return Identity(id="ann")


def strict_gateway(**tuning: Any) -> FakeGateway:
    """A fake that counts the addresses of this machine like any others."""
    return FakeGateway(Tuning(**tuning), proxies=[])


@asynccontextmanager
async def connect_from(address: str, port: int) -> AsyncIterator[Peer]:
    sock = socket.socket()
    sock.bind((address, 0))
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    async with Peer(sock) as peer:
        yield peer


# --- pending connections


async def test_pending_connections_count_for_their_address_and_the_next_is_refused() -> None:
    gateway = strict_gateway(max_per_address=3)
    async with serving(gateway) as port, AsyncExitStack() as stack:
        stalled = [await stack.enter_async_context(connect_from(OTHER, port)) for _ in range(3)]
        for peer in stalled:
            await peer.send(b"GET ")
        async with connect_from(OTHER, port) as late:
            answer = await late.read_answer()

        assert (answer.status, answer.headers["retry-after"]) == (429, "5")
        assert answer.body == b"more than 3 connections from this address; try again in 5 s\n"
        assert gateway.counters["limited-address"] == 1
        assert await is_served(port)  # from another address
        stalled[0].reset()
        while gateway.limits._pending[OTHER] == 3:
            await anyio.lowlevel.checkpoint()
        async with connect_from(OTHER, port) as next_one:
            await next_one.send(upgrade())
            assert (await next_one.read_head()).status == 101


async def test_over_tcp_the_refusal_is_a_close_item() -> None:
    gateway = strict_gateway(max_per_address=1)
    async with serving(gateway, serve=tcp.serve) as port, await Peer.connect(port):
        await gateway.until(lambda: gateway.connected)
        gateway.limits.session_started(gateway.handshakes[0])  # as a real one does when it connects a client
        async with await Peer.connect(port) as late:
            assert await read_close(late) == (4429, "more than 1 connections from this address; try again in 5 s")


async def test_over_tls_the_connection_is_closed(server_side: Any) -> None:
    gateway = strict_gateway(max_per_address=1)
    async with serving(gateway, ssl_context=server_side) as port, await Peer.connect(port):
        async with await Peer.connect(port) as late:
            assert await late.read_end() == b""
        assert gateway.counters["limited-address"] == 1


async def test_a_flood_evicts_only_pending_connections_of_its_own_address() -> None:
    gateway = strict_gateway(max_per_address=None)
    async with serving(gateway, limits=Limits(max_pending=4, handshake_timeout=60)) as port, AsyncExitStack() as stack:
        honest = await stack.enter_async_context(await Peer.connect(port))
        await honest.send(b"GET ")
        flood = [await stack.enter_async_context(connect_from(OTHER, port)) for _ in range(20)]
        await gateway.until(lambda: gateway.counters["handshake-evicted"] == 17)

        assert [await peer.read_end() for peer in flood[:17]] == [b""] * 17
        await honest.send(upgrade().removeprefix(b"GET "))
        assert (await honest.read_head()).status == 101
        # A new connection from a third address evicts the oldest of all.
        assert await is_served(port)


async def test_a_pending_connection_is_uncounted_however_it_ends() -> None:
    gateway = strict_gateway()
    async with serving(gateway) as port:
        for data in (b"", b"GET ", b"nonsense\r\n\r\n", upgrade(), upgrade("Origin: https://evil.example")):
            async with await Peer.connect(port) as peer:
                await peer.send(data)
                if data == upgrade():
                    await peer.read_head()
        await gateway.until(lambda: not gateway.connected and not gateway.limits._pending)


async def test_long_heads_together_are_limited_and_short_ones_still_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analytics_hub.transports._websocket.request.MAX_HELD", 50_000)
    gateway = strict_gateway()
    begun = b"GET / HTTP/1.1\r\nHost: h\r\nCookie: " + b"c" * 20_000
    async with serving(gateway) as port, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(await Peer.connect(port)) for _ in range(3)]
        for peer in peers[:2]:
            await peer.send(begun)
        while gateway.limits._measure_load() < 2 * len(begun):
            await checkpoint()
        await peers[2].send(begun)

        assert (await peers[2].read_answer()).status == 503
        assert await is_served(port)
        async with await Peer.open(port, f"Cookie: {'c' * 9000}"):
            pass
    assert gateway.counters["refused-crowded"] == 1


async def test_headers_that_the_hub_keeps_for_a_first_token_count_as_load() -> None:
    """A session without a token costs its sender nothing, and may come with 32 KiB of headers."""
    async with (
        Hub([Channel("a")], authenticate=optional) as hub,
        serving(hub) as port,
        AsyncExitStack() as stack,
    ):
        load = hub._access.limits._measure_load
        cookie = f"Cookie: {'c' * 30_000}"
        peers = [await stack.enter_async_context(await Peer.open(port, cookie)) for _ in range(3)]
        assert 90_000 < load() < 100_000

        await peers[0].send_frame(TEXT, b'{"action":"auth","token":"x"}')
        while load() > 70_000:
            await checkpoint()
        peers[1].close()
        while load() > 40_000:
            await checkpoint()
        peers[1] = await stack.enter_async_context(await Peer.open(port, cookie))
        assert 60_000 < load() < 70_000


# --- buffered bytes


@pytest.mark.parametrize("kind", ["tail", "message", "body"])
async def test_a_hub_with_too_many_buffered_bytes_refuses_new_clients(kind: str) -> None:
    """Of real clients, in each of the places where bytes may wait."""
    clock = ManualClock()
    tuning = Tuning(max_buffered=MIB, buffer_bytes=64 * MIB, rate=None, max_item_bytes=128 * 1024)
    limits = Limits(max_message=4 * MIB, handshake_timeout=60)
    hub = clock.attach(
        Hub([Channel("a")], authenticate=anonymous, tuning=tuning, clock=clock, wall_clock=clock.wall, grace=0.1)
    )
    async with hub, serving(hub, limits=limits) as port, AsyncExitStack() as stack:
        peers = []
        for _ in range(16):
            peer = await stack.enter_async_context(await Peer.connect(port, room=4096))
            peers.append(peer)
            if kind == "body":
                head = b"POST /publish HTTP/1.1\r\nHost: h\r\nContent-Length: 140000\r\n\r\n"
                await peer.send(head + b"x" * 120_000)
                continue
            await peer.send(upgrade() + frame(TEXT, b'{"action":"subscribe","channels":["a"]}'))
            await peer.read_head()
            if kind == "message":
                await peer.send(frame(TEXT, b"x" * 120_000, length=MIB))
        answer = 0
        while hub._access.limits._load < MIB:
            if kind == "tail":
                hub.publish("a", "x" * 100_000)
            clock.advance(1)
            answer = await connect_status(port)
            await anyio.wait_all_tasks_blocked()

        assert (answer, hub.statistics().counters["overloaded"] > 0) == (503, True)
        for peer in peers:
            peer.reset()
        while await connect_status(port) == 503:
            clock.advance(1)


async def connect_status(port: int) -> int:
    async with await Peer.connect(port) as peer:
        await peer.send(upgrade())
        return (await peer.read_head()).status


# --- logs, origins


async def test_a_flood_is_counted_one_by_one_and_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "analytics_hub")
    clock = ManualClock()
    hub = clock.attach(Hub([Channel("a")], authenticate=anonymous, clock=clock, wall_clock=clock.wall, grace=0.1))
    faults = {
        "refused-request": b"nonsense\r\n\r\n",
        "refused-size": b"GET / HTTP/1.1\r\nX: " + b"x" * 33_000 + b"\r\n\r\n",
        "refused-origin": upgrade("Origin: https://evil.example"),
        "protocol-fault": upgrade() + frame(TEXT, b"\xff"),
    }
    async with hub, serving(hub) as port:
        for _ in range(5):
            for data in faults.values():
                async with await Peer.connect(port) as peer:
                    await peer.send(data)
                    await peer.read_end()
        clock.advance(1)
        async with await Peer.connect(port) as peer:
            await peer.send(faults["protocol-fault"])
            await peer.read_end()
        counters = hub.statistics().counters

    assert {kind: counters[kind] for kind in faults} == {kind: 5 + (kind == "protocol-fault") for kind in faults}
    assert set(counters) <= set(COUNTERS)
    lines = [line for line in caplog.messages if "refused" in line or "broke" in line]
    assert len(lines) == 5
    assert lines[-1].startswith("a client broke the protocol: ")
    assert lines[-1].endswith(" (1007) (and 4 more like it)")
    (named,) = [line for line in caplog.messages if "evil" in line]
    prefix = "a page was refused: its Origin is https://evil.example, the Host as seen here is 127.0.0.1"
    assert named.startswith(prefix)


async def test_with_requires_origin_others_are_refused_before_their_token_is_checked() -> None:
    gateway = FakeGateway()
    async with serving(gateway, requires_origin=True, origins=["https://friend.example"]) as port:
        async with await Peer.connect(port) as peer:
            await peer.send(upgrade("Authorization: Bearer x"))
            answer = await peer.read_answer()
        assert (answer.status, answer.body) == (403, b"this origin is not allowed\n")
        for target in (b"GET /events", b"POST /publish", b"POST /commands", b"GET /asyncapi.json"):
            async with await Peer.connect(port) as peer:
                await peer.send(target + b" HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\n\r\n")
                assert (await peer.read_answer()).status == 403
        assert gateway.handshakes == []
        assert gateway.counters["refused-origin"] == 5

        async with await Peer.open(port, "Origin: https://friend.example") as page:
            await page.send_frame(CLOSE)
        async with await Peer.connect(port) as probe:
            await probe.send(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await probe.read_answer()).status == 200


async def test_invalid_origins_are_an_error_of_serve() -> None:
    with pytest.raises(ValueError, match=r"origin '\*': it would admit every page"):
        await serve(Hub([Channel("a")], authenticate=anonymous), origins=["*"])
