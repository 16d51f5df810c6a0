"""`serve` of the transports on sockets may be cancelled at every wait, whatever its clients are doing."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Hub
from analytics_hub.transports import tcp, websocket
from analytics_hub.transports._sockets.server import Server

from ..hub.rig import HANG
from ..transports.peer import CLOSE, TEXT, Peer, frame, upgrade
from .leftovers import Sweeper, is_served_once, kept_for_clients, lines
from .rig import patient_hub
from .sweep import cancel_everywhere

pytestmark = pytest.mark.anyio

SUBSCRIBE: Final = {"action": "subscribe", "channels": ["events", {"channel": "durable", "last": 5}]}
TURNS: Final = 12
"""Turns of the event loop in which a server processes what it has received."""

Visit = Callable[[Hub, int], Awaitable[None]]


async def let_turns_pass() -> None:
    for _ in range(TURNS):
        await checkpoint()


async def sessions(hub: Hub, number: int) -> None:
    while hub.statistics().sessions != number:
        await checkpoint()


# --- what clients do


async def no_client(hub: Hub, port: int) -> None:
    await let_turns_pass()


async def half_a_head(hub: Hub, port: int) -> None:
    async with await Peer.connect(port) as peer:
        await peer.send(upgrade()[:40])
        await let_turns_pass()


async def half_a_line(hub: Hub, port: int) -> None:
    async with await Peer.connect(port) as peer:
        await peer.send(lines(SUBSCRIBE)[:10])
        await let_turns_pass()


async def three_tokens(hub: Hub, port: int) -> None:
    """Checked at the same time; one is invalid, and one peer leaves before it is answered."""
    async with await Peer.connect(port) as first, await Peer.connect(port) as second, await Peer.connect(port) as third:
        for peer, token in ((first, "right"), (second, "wrong"), (third, "gone")):
            await peer.send(upgrade(f"Authorization: Bearer {token}"))
        await checkpoint()
        third.reset()
        await first.read_head()
        await second.read_end()


async def a_websocket(hub: Hub, port: int) -> None:
    """From the handshake to the close frame, with a subscription in the packet of the handshake."""
    async with await Peer.connect(port) as peer:
        await peer.send(upgrade("Authorization: Bearer t") + frame(TEXT, lines(SUBSCRIBE)))
        await peer.read_head()
        await until_subscribed(peer)
        hub.publish("events", 1)
        await peer.read_frame()
        await peer.send(frame(CLOSE, b"\x03\xe8"))
        await peer.read_end()


async def a_websocket_that_vanishes(hub: Hub, port: int) -> None:
    async with await Peer.connect(port) as peer:
        await peer.send(upgrade("Authorization: Bearer t"))
        await sessions(hub, 1)
        hub.publish("events", 1)
        peer.reset()
        await sessions(hub, 0)


async def a_request(hub: Hub, port: int) -> None:
    body = b'{"channel":"durable","data":1}'
    head = f"POST /publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nContent-Length: {len(body)}\r\n\r\n"
    async with await Peer.connect(port) as peer:
        await peer.send(head.encode() + body)
        assert (await peer.read_head()).status == 200
        await peer.read_end()


async def a_stream_of_events(hub: Hub, port: int) -> None:
    async with await Peer.connect(port) as peer:
        await peer.send(b"GET /events?channels=events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n")
        await sessions(hub, 1)
        hub.publish("events", 1)
        await let_turns_pass()
        peer.close()
        await sessions(hub, 0)


async def a_line_client(hub: Hub, port: int) -> None:
    async with await Peer.connect(port) as peer:
        await peer.send(lines({"action": "auth", "token": "t"}, SUBSCRIBE))
        while b"$subscribed" not in peer.buffer:
            await peer.read(len(peer.buffer) + 1)
        hub.publish("events", 1)
        await let_turns_pass()
        peer.close()
        await sessions(hub, 0)


async def until_subscribed(peer: Peer) -> None:
    while b"$subscribed" not in (await peer.read_frame()).payload:
        pass


# --- the sweeps


@asynccontextmanager
async def created_servers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Server]]:
    """Every server that is created."""
    made: list[Server] = []
    init = Server.__init__

    def record(self: Server, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        made.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(Server, "__init__", record)
        yield made


def kept_by(servers: list[Server]) -> list[str]:
    """What is left in servers that have ended."""
    found: list[str] = []
    for server in servers:
        counts = (server.clients, len(server.connections), len(server.pending._keys), server._running_checks)
        if any(counts):
            found.append(f"clients, streams, pending, checks: {counts}")
    return found


async def sweep(serve: Callable[..., Any], visit: Visit, patch: pytest.MonkeyPatch, **options: Any) -> int:
    """Cancel a server and its clients at each wait; returns the number of waits."""

    async def work() -> None:
        async with anyio.create_task_group() as group:
            port = await group.start(lambda task_status: serve(hub, port=0, task_status=task_status, **options))
            try:
                await visit(hub, port)
            except (OSError, EOFError):
                await checkpoint()  # the server has gone first; here this task is cancelled too
                raise
            group.cancel_scope.cancel()

    async def check() -> None:
        await sweeper.sweep()
        await is_served_once(hub)
        servers.clear()

    with anyio.fail_after(2 * HANG):
        async with patient_hub() as hub, created_servers(patch) as servers:
            await is_served_once(hub)
            sweeper = Sweeper(lambda: kept_for_clients(hub), lambda: kept_by(servers))
            return await cancel_everywhere(work, check)


@pytest.mark.parametrize(
    "visit",
    [no_client, half_a_head, three_tokens, a_websocket, a_websocket_that_vanishes, a_request, a_stream_of_events],
)
async def test_websocket(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await sweep(websocket.serve, visit, monkeypatch) >= 10


@pytest.mark.parametrize("visit", [no_client, half_a_line, a_line_client])
async def test_tcp(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await sweep(tcp.serve, visit, monkeypatch) >= 10


async def test_tls(monkeypatch: pytest.MonkeyPatch, server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    """Also in the middle of its handshake."""

    async def visit(hub: Hub, port: int) -> None:
        async with await Peer.connect(port) as peer:
            peer.sock = client_side.wrap_socket(peer.sock, do_handshake_on_connect=False, server_hostname="localhost")
            await peer.retry(peer.sock.do_handshake)
            await peer.send(upgrade("Authorization: Bearer t") + frame(TEXT, lines(SUBSCRIBE)))
            await peer.read_head()
            await until_subscribed(peer)

    assert await sweep(websocket.serve, visit, monkeypatch, ssl_context=server_side) >= 10
