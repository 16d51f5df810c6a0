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
class House:
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
async def serving(port: int = 0, **options: Any) -> AsyncIterator[House]:
    with anyio.fail_after(HANG):
        async with (
            Hub(CHANNELS, authenticate=authenticate, tuning=FAST, grace=1.0) as hub,
            anyio.create_task_group() as tasks,
        ):
            port = await tasks.start(lambda task_status: serve(hub, port=port, task_status=task_status, **options))
            yield House(hub, f"{'wss' if options else 'ws'}://localhost:{port}")
            await hub.shutdown(0.0)
            tasks.cancel_scope.cancel()


async def take(items: Subscription[Any], count: int) -> list[Any]:
    """The data of the next items; a gap stands for itself."""
    values = [await anext(items) for _ in range(count)]
    return [value.data if isinstance(value, Item) else value for value in values]


class Performance(msgspec.Struct):
    id: str
    fill_rate: float = msgspec.field(name="fillRate")


async def test_several_channels_over_one_connection() -> None:
    async with serving() as house, house.client() as client:
        assert client.state == "open"
        async with client.subscribe("events") as events, client.subscribe("table", type=Performance) as table:
            house.hub.publish("events", 1)
            house.hub.publish("table", {"id": "LMAX", "fillRate": 0.5})
            house.hub.publish("events", 2)

            assert await take(events, 2) == [1, 2]
            value = await anext(table)
            assert isinstance(value, Item)
            assert (value.key, value.data) == ("LMAX", Performance("LMAX", 0.5))
            assert events.position is not None
            assert events.position.seq == 2

            house.hub.publish("table", {"id": "LMAX", "fillRate": "high"})
            with pytest.raises(InvalidItem, match="cannot be read"):
                await anext(table)
            house.hub.delete("table", "LMAX")
            value = await anext(table)
            assert isinstance(value, Item)
            assert (value.key, value.deleted) == ("LMAX", True)
        async with client.subscribe("events", since=events.position) as events:
            house.hub.publish("events", 3)
            assert await take(events, 1) == [3]
        assert len(house.hub.sessions) == 1


async def test_refusals_leave_the_rest_alone() -> None:
    async with serving() as house, house.client() as client, client.subscribe("events") as events:
        with pytest.raises(UnknownChannel, match="'nothing' is not declared"):
            async with client.subscribe("nothing"):
                raise AssertionError
        with pytest.raises(PermissionDenied):
            async with client.subscribe("secret"):
                raise AssertionError
        house.hub.publish("events", 1)

        assert await take(events, 1) == [1]


async def test_messagepack_shows_the_same() -> None:
    data = {"text": "ü", "list": [1, 2.5, None, True], "big": 2**60}
    async with (
        serving() as house,
        house.client(encoding="msgpack") as client,
        client.subscribe("events", type=dict[str, Any]) as items,
    ):
        house.hub.publish("events", data)

        assert await take(items, 1) == [data]


async def test_a_reader_that_is_slow_loses_nothing_that_the_channel_keeps() -> None:
    async with (
        serving() as house,
        house.client() as client,
        client.subscribe("durable", buffer=8) as slow,
        client.subscribe("short", buffer=2) as lossy,
        client.subscribe("events") as fast,
    ):
        for number in range(100):
            house.hub.publish("durable", number)
            house.hub.publish("short", number)
        house.hub.publish("events", "last")

        assert await take(fast, 1) == ["last"]
        assert await take(slow, 100) == list(range(100))
        values: list[Any] = []
        while not values or values[-1] != 99:
            values += await take(lossy, 1)
        lost = sum(value.count or 0 for value in values if isinstance(value, Gap))
        assert lost + len([value for value in values if not isinstance(value, Gap)]) == 100


async def test_a_server_that_restarts_is_found_again_and_what_it_forgot_is_told() -> None:
    async with serving() as house, house.client() as client, client.subscribe("durable", last=10) as items:
        house.hub.publish("durable", 1)
        assert await take(items, 1) == [1]
        port = int(house.url.rpartition(":")[2])
        await house.hub.shutdown(0.0)
        while not any(isinstance(event, Disconnected) for event in house.events):
            await checkpoint()
        async with serving(port) as another:
            another.hub.publish("durable", 2)

            gap, item = await take(items, 2)
            assert (gap.count, gap.reason, item) == (None, "retention", 2)


async def test_a_connection_that_breaks_loses_nothing() -> None:
    async with serving() as house, house.client() as client, client.subscribe("events") as items:
        got = []
        for number in range(30):
            house.hub.publish("events", number)
            if number % 10 == 5:
                house.hub.sessions[0].peer.close(1001, "gone")
                await house.until_empty()
            got += await take(items, 1)

        assert got == list(range(30))


async def test_roles_that_change_reach_the_living_connection() -> None:
    tokens = ["trader"]
    async with serving() as house, house.client(lambda: tokens[-1]) as client:
        tokens.append("admin")
        await client.refresh()

        async with client.subscribe("secret") as items:
            house.hub.publish("secret", 1)
            assert await take(items, 1) == [1]
            tokens.append("trader")
            await client.refresh()
            with pytest.raises(PermissionDenied, match="the server ended the subscription: forbidden"):
                await anext(items)


async def test_cancelled_readers_have_lost_nothing() -> None:
    async with serving() as house, house.client() as client, client.subscribe("events") as items:
        house.hub.publish("events", 1)
        await take(items, 1)
        for number in range(2, 20):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anext(items)
            house.hub.publish("events", number)

            assert await take(items, 1) == [number]


async def test_tls(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    async with serving(ssl_context=server_side) as house:
        async with house.client(ssl_context=client_side) as client, client.subscribe("events") as items:
            house.hub.publish("events", 1)
            assert await take(items, 1) == [1]
        with pytest.raises(ConnectFailed, match="is not trusted"):
            async with house.client():
                raise AssertionError
