"""A TCP client that sends exactly the given bytes, and a server for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from analytics_hub import Hub
from analytics_hub.transports import tcp

from . import peer as websocket_peer
from .fake_gateway import FakeGateway, FakeSession
from .peer import Peer

SUBSCRIBE: Final = b'{"action":"subscribe","channels":["routing"]}'


def serving(hub: FakeGateway | Hub, **options: Any) -> Any:
    return websocket_peer.serving(hub, serve=tcp.serve, **options)


@asynccontextmanager
async def calling(gateway: FakeGateway, port: int, **options: Any) -> AsyncIterator[tuple[Peer, FakeSession]]:
    """A client with a session, and the session."""
    count = len(gateway.sessions)
    async with await Peer.connect(port, **options) as peer:
        await gateway.until(lambda: len(gateway.sessions) > count)
        yield peer, gateway.sessions[-1]


async def read_frame(peer: Peer) -> list[Any]:
    line = bytearray()
    while not line.endswith(b"\n"):
        line += await peer.read(1)
    frame: list[Any] = json.loads(line)
    return frame


async def read_close(peer: Peer) -> tuple[int, str]:
    """The code and reason of the `$close` that comes next; nothing may follow it."""
    (last,) = await read_frame(peer)
    assert last.keys() == {"type", "timestamp", "code", "reason"}
    assert last["type"] == "$close"
    assert await peer.read_end() == b""
    assert not peer.was_reset
    return last["code"], last["reason"]


async def is_served(gateway: FakeGateway, port: int) -> bool:
    async with calling(gateway, port) as (peer, session):
        session.write(b'"another"')
        return await read_frame(peer) == ["another"]
