"""`HubClient` with a real hub behind a real socket."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Channel, Handshake, Hub, Identity, PermissionDenied, UnknownChannel
from analytics_hub.client import ConnectFailed, Disconnected, Gap, HubClient, Item, Subscription
from analytics_hub.exceptions import InvalidItem
from analytics_hub.transports.websocket import serve

from ..hub.rig import FAST, HANG, is_empty

pytestmark = pytest.mark.anyio

CHANNELS = (
    Channel("events"),
    Channel("short", keep_items=3),
    Channel("table", mode="table", key="id"),
    Channel("durable", mode="durable"),
    Channel("secret", roles=frozenset({"admin"})),
)


async def authenticate(handshake: Handshake) -> Identity:
    await checkpoint()
    assert handshake.token is not None
    return Identity(id="alice", roles=frozenset({handshake.token}))


@dataclass
class Server:
    hub: Hub
    url: str
    events: list[Any] = field(default_factory=list)

    def client(self, token: Any = "trader", **options: Any) -> HubClient:
        return HubClient(self.url, token, **{"on_event": self.events.append, "jitter": lambda: 0.0} | options)

    async def until_empty(self) -> None:
        while self.hub.statistics().sessions:
            await checkpoint()
        assert is_empty(self.hub)


@asynccontextmanager
async def serving(port: int = 0, **options: Any) -> AsyncIterator[Server]:
    with anyio.fail_after(HANG):
        async with (
            Hub(CHANNELS, authenticate=authenticate, tuning=FAST, grace=1.0) as hub,
            anyio.create_task_group() as tasks,
        ):
            port = await tasks.start(lambda task_status: serve(hub, port=port, task_status=task_status, **options))
            yield Server(hub, f"{'wss' if options else 'ws'}://localhost:{port}")
            await hub.shutdown(0.0)
            tasks.cancel_scope.cancel()


async def read(items: Subscription[Any], count: int) -> list[Any]:
    """The data of the next items, and gaps as they are."""
    values = [await anext(items) for _ in range(count)]
    return [value.data if isinstance(value, Item) else value for value in values]


class Performance(msgspec.Struct):
    id: str
    fill_rate: float = msgspec.field(name="fillRate")


async def test_several_channels_share_one_connection() -> None:
    async with serving() as server, server.client() as client:
        assert client.state == "open"
        async with client.subscribe("events") as events, client.subscribe("table", type=Performance) as table:
            server.hub.publish("events", 1)
            server.hub.publish("table", {"id": "LMAX", "fillRate": 0.5})
            server.hub.publish("events", 2)

            assert await read(events, 2) == [1, 2]
            value = await anext(table)
            assert isinstance(value, Item)
            assert (value.key, value.data) == ("LMAX", Performance("LMAX", 0.5))
            assert events.position is not None
            assert events.position.seq == 2

            server.hub.publish("table", {"id": "LMAX", "fillRate": "high"})
            with pytest.raises(InvalidItem, match="cannot be decoded"):
                await anext(table)
            server.hub.delete("table", "LMAX")
            value = await anext(table)
            assert isinstance(value, Item)
            assert (value.key, value.deleted) == ("LMAX", True)
        async with client.subscribe("events", since=events.position) as events:
            server.hub.publish("events", 3)
            assert await read(events, 1) == [3]
        assert len(server.hub.sessions) == 1


async def test_a_refused_channel_does_not_affect_the_others() -> None:
    async with serving() as server, server.client() as client, client.subscribe("events") as events:
        with pytest.raises(UnknownChannel, match="'nothing' is not declared"):
            async with client.subscribe("nothing"):
                raise AssertionError
        with pytest.raises(PermissionDenied):
            async with client.subscribe("secret"):
                raise AssertionError
        server.hub.publish("events", 1)

        assert await read(events, 1) == [1]


async def test_messagepack_has_the_same_data() -> None:
    data = {"text": "ü", "list": [1, 2.5, None, True], "big": 2**60}
    async with (
        serving() as server,
        server.client(encoding="msgpack") as client,
        client.subscribe("events", type=dict[str, Any]) as items,
    ):
        server.hub.publish("events", data)

        assert await read(items, 1) == [data]


async def test_a_slow_reader_loses_only_what_the_channel_has_not_kept() -> None:
    async with (
        serving() as server,
        server.client() as client,
        client.subscribe("durable", buffer=8) as slow,
        client.subscribe("short", buffer=2) as lossy,
        client.subscribe("events") as fast,
    ):
        for number in range(100):
            server.hub.publish("durable", number)
            server.hub.publish("short", number)
        server.hub.publish("events", "last")

        assert await read(fast, 1) == ["last"]
        assert await read(slow, 100) == list(range(100))
        values: list[Any] = []
        while not values or values[-1] != 99:
            values += await read(lossy, 1)
        lost = sum(value.count or 0 for value in values if isinstance(value, Gap))
        assert lost + len([value for value in values if not isinstance(value, Gap)]) == 100


async def test_after_a_restart_of_the_server_a_gap_reports_the_loss() -> None:
    async with serving() as server, server.client() as client, client.subscribe("durable", last=10) as items:
        server.hub.publish("durable", 1)
        assert await read(items, 1) == [1]
        port = int(server.url.rpartition(":")[2])
        await server.hub.shutdown(0.0)
        while not any(isinstance(event, Disconnected) for event in server.events):
            await checkpoint()
        async with serving(port) as another:
            another.hub.publish("durable", 2)

            gap, item = await read(items, 2)
            assert (gap.count, gap.reason, item) == (None, "retention", 2)


async def test_a_connection_that_breaks_loses_nothing() -> None:
    async with serving() as server, server.client() as client, client.subscribe("events") as items:
        got = []
        for number in range(30):
            server.hub.publish("events", number)
            if number % 10 == 5:
                server.hub.sessions[0].transport.close(1001, "gone")
                await server.until_empty()
            got += await read(items, 1)

        assert got == list(range(30))


async def test_changed_roles_apply_to_the_open_connection() -> None:
    tokens = ["trader"]
    async with serving() as server, server.client(lambda: tokens[-1]) as client:
        tokens.append("admin")
        await client.refresh()

        async with client.subscribe("secret") as items:
            server.hub.publish("secret", 1)
            assert await read(items, 1) == [1]
            tokens.append("trader")
            await client.refresh()
            with pytest.raises(PermissionDenied, match="the server ended the subscription: forbidden"):
                await anext(items)


async def test_a_cancelled_reader_loses_nothing() -> None:
    async with serving() as server, server.client() as client, client.subscribe("events") as items:
        for number in range(0, 20, 2):
            server.hub.publish("events", number)
            server.hub.publish("events", number + 1)
            assert await read(items, 1) == [number]
            with anyio.CancelScope() as scope:  # the second item is in the buffer already
                scope.cancel()
                await anext(items)

            assert await read(items, 1) == [number + 1]


async def test_tls(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    async with serving(ssl_context=server_side) as server:
        async with server.client(ssl_context=client_side) as client, client.subscribe("events") as items:
            server.hub.publish("events", 1)
            assert await read(items, 1) == [1]
        with pytest.raises(ConnectFailed, match="is not trusted"):
            async with server.client():
                raise AssertionError
