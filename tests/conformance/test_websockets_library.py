"""The transport `websocket` with the most common client library for Python, and what only WebSocket has."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from analytics_hub import Hub
from analytics_hub.transports.websocket import serve

from .harness import CHANNELS, FAST, HANG, Tokens
from .websocket import PATIENT

# The client of the library for Trio is only a preview.
BACKENDS = {"asyncio": ("asyncio", {"use_uvloop": False}), "asyncio+uvloop": ("asyncio", {"use_uvloop": True})}
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [pytest.param(value, id=name) for name, value in BACKENDS.items()]),
]


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Hub, str]]:
    hub = Hub(CHANNELS, authenticate=Tokens(), tuning=FAST, grace=1.0)
    with anyio.fail_after(HANG):
        async with hub, anyio.create_task_group() as tasks:
            port = await tasks.start(lambda task_status: serve(hub, port=0, limits=PATIENT, task_status=task_status))
            yield hub, f"ws://127.0.0.1:{port}/ws/analytics"
            tasks.cancel_scope.cancel()


async def read(client: ClientConnection, type_: str) -> list[dict[str, Any]]:
    """All items up to and including the first one of a type."""
    items: list[dict[str, Any]] = []
    while not any(item["type"] == type_ for item in items):
        items += json.loads(await client.recv())
    return items


async def close_code(client: ClientConnection) -> int:
    """The close code of the server."""
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


async def test_it_connects_subscribes_and_receives() -> None:
    async with serving() as (hub, url), connect(f"{url}?token=alice") as client:
        await client.send('{"action":"subscribe","channels":["routing"]}')
        await read(client, "$subscribed")
        for number in range(200):
            hub.publish("routing", number)
        data: list[int] = []
        while len(data) < 200:
            data += [item["data"] for item in await read(client, "routing")]

        assert data == list(range(200))


@pytest.mark.parametrize(
    "options",
    [
        {"additional_headers": {"Authorization": "Bearer alice"}},
        {"subprotocols": [Subprotocol("analytics-hub.v1.json"), Subprotocol("bearer.alice")]},
    ],
    ids=["header", "subprotocol"],
)
async def test_a_token_may_come_in_other_places(options: dict[str, Any]) -> None:
    async with serving() as (_, url), connect(url, **options) as client:
        (hello,) = await read(client, "$hello")

        assert hello["type"] == "$hello"
        assert client.subprotocol == ("analytics-hub.v1.json" if "subprotocols" in options else None)


async def test_a_wrong_token_is_a_401() -> None:
    async with serving() as (_, url):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{url}?token=forged"):
                pass

        assert refused.value.response.status_code == 401


async def test_a_browser_gets_a_close_code_instead() -> None:
    async with serving() as (_, url):
        origin = Origin(url.replace("ws://", "http://").removesuffix("/ws/analytics"))
        async with connect(f"{url}?token=forged", origin=origin) as client:
            assert await close_code(client) == 4401


async def test_an_oversized_message_is_1009() -> None:
    async with serving() as (hub, url), connect(f"{url}?token=alice") as client:
        await read(client, "$hello")
        await client.send("x" * 65_537)

        assert await close_code(client) == 1009
        assert hub.statistics().sessions == 0


async def test_the_largest_message_allowed_is_answered() -> None:
    async with serving() as (_, url), connect(f"{url}?token=alice") as client:
        await client.send("x" * 65_536)

        assert (await read(client, "$error"))[-1]["code"] == "bad-request"


async def test_it_receives_a_drain() -> None:
    async with serving() as (hub, url), connect(f"{url}?token=alice") as client:
        await read(client, "$hello")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.shutdown, 1.0)
            await read(client, "$drain")
            assert await close_code(client) == 1012
