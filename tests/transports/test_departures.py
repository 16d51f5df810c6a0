"""Clients that leave, at every stage of a connection: nothing refers to it, its headers or its buffers any longer."""

from __future__ import annotations

import gc
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import AuthenticationError, Channel, Handshake, Hub, Identity
from analytics_hub.testing import ManualClock
from analytics_hub.transports import tcp, websocket
from analytics_hub.transports._sockets.connection import LINGERING
from analytics_hub.transports._sockets.pending import TLSHandshake
from analytics_hub.transports._sockets.server import Server
from analytics_hub.transports._tcp.protocol import FIRST_LOOK

from .peer import TEXT, Clock, Peer, frame, serving, upgrade
from .test_tls import Client

pytestmark = pytest.mark.anyio

# At each of the stages. What a client leaves hardly depends on the event loop, so only one of them has more.
NUMBERS: Final = {"asyncio": 200, "asyncio+uvloop": 100, "trio": 100}
AT_A_TIME: Final = 100
SPARE: Final = 70
"""Objects of a type that caches may have gained: 64 decoders, and what the first client makes a server load."""
MAX_CHECKS: Final = 10
TURNS: Final = 20
OURS: Final = {"analytics_hub", "h11", "wsproto", "socket", "ssl", "_ssl", "collections"}
COOKIE: Final = f"Cookie: {'c' * 3000}"
SUBSCRIBE: Final = b'{"action":"subscribe","channels":["events"]}'
TOKEN: Final = "Authorization: Bearer token"
SLOW: Final = "Authorization: Bearer slow"


async def authenticate(handshake: Handshake) -> Identity:
    if handshake.token is None:
        raise AuthenticationError("missing")
    if handshake.token == "slow":
        await anyio.sleep_forever()
    return Identity(id=f"{id(handshake)}")


@dataclass(frozen=True)
class Stage:
    """What each client sends, and how the server shows that it has come that far."""

    sends: bytes
    is_reached: Callable[[Server, Hub, int], object]
    prepare: Callable[[Server], None] | None = None
    """Called once all have subscribed."""


def has_sessions(server: Server, hub: Hub, count: int) -> bool:
    return len(hub._engine.sessions) == count


def has_subscriptions(server: Server, hub: Hub, count: int) -> bool:
    return sum(len(session.subscriptions) for session in hub._engine.sessions.values()) == count


def has_connections(server: Server, hub: Hub, count: int) -> bool:
    return len(server.connections) == count


def holds(size: int) -> Callable[[Server, Hub, int], bool]:
    return lambda server, hub, count: server.buffered() == count * size


def has_checks(server: Server, hub: Hub, count: int) -> bool:
    return server._running_checks == MAX_CHECKS and len(server._waiting_checks) == count - MAX_CHECKS


def lingers(server: Server, hub: Hub, count: int) -> bool:
    return has_connections(server, hub, count) and all(one.phase == LINGERING for one in server.connections)


def is_congested(server: Server, hub: Hub, count: int) -> bool:
    return has_sessions(server, hub, count) and all(one.has_unsent for one in server.connections)


def is_shaking_hands(server: Server, hub: Hub, count: int) -> bool:
    protocols = [connection.protocol for connection in server.connections]
    return len(protocols) == count and all(isinstance(one, TLSHandshake) and one._tls for one in protocols)


def fill(server: Server) -> None:
    for connection in server.connections:
        connection.write(b"x" * 600_000)


HEAD: Final = b"GET /events HTTP/1.1\r\nHost: h\r\nX-Long: " + b"y" * 5000
BODY: Final = b"POST /publish HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n" + b"z" * 3000
EVENTS: Final = f"GET /events?channel=events HTTP/1.1\r\nHost: h\r\n{TOKEN}\r\n{COOKIE}\r\n\r\n".encode()
SESSION: Final = upgrade(TOKEN, COOKIE) + frame(TEXT, SUBSCRIBE)
LINES: Final = b'{"action":"auth","token":"token"}\n' + SUBSCRIBE + b"\n"

REQUESTS: Final = {
    "accepted": Stage(b"", has_connections),
    "head begun": Stage(HEAD, holds(len(HEAD))),
    "body begun": Stage(BODY, holds(len(BODY))),
    "answered": Stage(f"GET /healthz HTTP/1.1\r\nHost: h\r\n{COOKIE}\r\n\r\n".encode(), lingers),
    "refused": Stage(b"GET\r\n\r\n", lingers),
    "admission": Stage(upgrade(SLOW, COOKIE), has_checks),
    "admission of events": Stage(EVENTS.replace(b"token", b"slow"), has_checks),
    "no token yet": Stage(upgrade(COOKIE), has_sessions),
    "session": Stage(SESSION, has_subscriptions),
    "message begun": Stage(
        SESSION + frame(TEXT, b"x" * 2000)[:-1],
        lambda *state: has_subscriptions(*state) and state[0].buffered() > 1500 * state[2],
    ),
    "unsent bytes": Stage(SESSION, is_congested, fill),
    "closing": Stage(SESSION + frame(TEXT, b"\xff"), lingers),
    "events": Stage(EVENTS, has_subscriptions),
}
LINE_STAGES: Final = {
    "no token yet": Stage(b"", has_sessions),
    "line begun": Stage(b'{"action":' + b" " * 3000, holds(3010)),
    "check": Stage(b'{"action":"auth","token":"slow"}\n', has_sessions),
    "session": Stage(LINES, has_subscriptions),
    "unsent bytes": Stage(LINES, is_congested, fill),
    "closing": Stage(b"GET / HTTP/1.1\r\n\r\n", lingers),
}


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Server]]:
    """The servers that are made meanwhile."""
    found: list[Server] = []
    make = Server.__init__

    def init(self: Server, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        found.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(Server, "__init__", init)
        yield found


def census() -> Counter[str]:
    """Tracked objects by type. Trio keeps the scopes of past deadlines a while, so its own do not count."""
    gc.collect()
    types = Counter(map(type, gc.get_objects()))
    return Counter({f"{kind.__module__}.{kind.__name__}": n for kind, n in types.items() if _is_ours(kind)})


def _is_ours(kind: type) -> bool:
    return str(kind.__module__).partition(".")[0] in OURS


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await checkpoint()


def leave(clients: Sequence[socket.socket]) -> None:
    """Half of them with a reset."""
    for number, client in enumerate(clients):
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


async def come_and_leave(stage: Stage, server: Server, hub: Hub, port: int, clock: Clock, look: float) -> None:
    count = AT_A_TIME
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for client in clients:
        client.sendall(stage.sends)
    if stage.prepare is not None:
        await until(lambda: has_subscriptions(server, hub, count))
        stage.prepare(server)
    await until(lambda: stage.is_reached(server, hub, count))
    leave(clients)
    while server.connections or hub._engine.sessions or server._running_checks:
        clock.now += look
        await checkpoint()
    for _ in range(TURNS):  # tasks that were cancelled end, and so does the turn of the loop that closed the last ones
        await checkpoint()


async def count_leftovers(
    serve: Any,
    stages: dict[str, Stage],
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    look: float = 0.0,
    **options: Any,
) -> Counter[str]:
    """The objects that `number` clients at each stage have left, by type.

    No time passes for the hub, so that no timer of it frees anything, and `look` for the server in each turn.
    """
    clock, native = ManualClock(), Clock()
    async with Hub([Channel("events")], authenticate=authenticate, clock=clock, wall_clock=clock.wall) as hub:
        with recording(monkeypatch) as servers:
            async with serving(hub, serve=serve, clock=native, **options) as port:
                for stage in stages.values():
                    await come_and_leave(stage, servers[0], hub, port, native, look)
                before = census()
                for stage in stages.values():
                    for _ in range(number // AT_A_TIME):
                        await come_and_leave(stage, servers[0], hub, port, native, look)
                return without_spares(census() - before)


def without_spares(left: Counter[str]) -> Counter[str]:
    return Counter({kind: count for kind, count in left.items() if count > SPARE})


@pytest.fixture
def number(request: pytest.FixtureRequest) -> int:
    return NUMBERS[request.node.callspec.id]


async def test_clients_of_a_websocket_server_leave_nothing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = websocket.Limits(max_checks=MAX_CHECKS)

    assert await count_leftovers(websocket.serve, REQUESTS, number, monkeypatch, limits=limits) == {}


async def test_clients_of_a_tcp_server_leave_nothing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a client's side may be that of half a connection, so the server looks again a little later."""
    assert await count_leftovers(tcp.serve, LINE_STAGES, number, monkeypatch, look=FIRST_LOOK) == {}


async def test_clients_leave_nothing_in_a_tls_handshake(
    number: int, monkeypatch: pytest.MonkeyPatch, server_side: ssl.SSLContext, client_side: ssl.SSLContext
) -> None:
    hello = Client(client_side).handshake()
    stages = {"hello begun": Stage(hello[:-1], holds(len(hello) - 1)), "hello answered": Stage(hello, is_shaking_hands)}

    assert await count_leftovers(websocket.serve, stages, number, monkeypatch, ssl_context=server_side) == {}


async def test_clients_of_a_tls_session_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, server_side: ssl.SSLContext, client_side: ssl.SSLContext
) -> None:
    clock = ManualClock()
    async with Hub([Channel("events")], authenticate=authenticate, clock=clock, wall_clock=clock.wall) as hub:
        with recording(monkeypatch) as servers:
            async with serving(hub, clock=Clock(), ssl_context=server_side) as port:
                left = Counter[str]()
                for _ in range(2):  # the first ones load what every server has
                    before = census()
                    clients = [await Peer.open(port, TOKEN, tls=client_side) for _ in range(AT_A_TIME)]
                    leave([client.sock for client in clients])
                    del clients
                    await until(lambda: not servers[0].connections and not hub._engine.sessions)
                    left = census() - before

    assert without_spares(left) == {}


async def test_a_client_that_leaves_before_its_check_has_begun_is_forgotten_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(handshake: Handshake) -> Identity:
        """As a hook does that runs in a thread."""
        with anyio.CancelScope(shield=True):
            await is_over.wait()
        return Identity(id="late")

    is_over = anyio.Event()
    async with Hub([Channel("events")], authenticate=hang) as hub:
        with recording(monkeypatch) as servers:
            async with serving(hub, clock=Clock(), limits=websocket.Limits(max_checks=1)) as port:
                clients = [await Peer.connect(port) for _ in range(3)]
                for client, request in zip(clients, (upgrade(TOKEN), upgrade(TOKEN), EVENTS), strict=True):
                    await client.send(request)
                await until(lambda: len(servers[0]._waiting_checks) == 2)
                leave([client.sock for client in clients])
                await until(lambda: not servers[0].connections)

                assert not servers[0]._waiting_checks
                is_over.set()
