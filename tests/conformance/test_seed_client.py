"""Clients written for the first version of the protocol, which knew nothing of control items, work unmodified."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from analytics_hub import Channel

from .client import Client, Door
from .doors import serving

pytestmark = pytest.mark.anyio

CHANNELS = (
    Channel("alerts", mode="durable", type="alert"),
    Channel("lp-performance", mode="table", key="lpName", type="lp-metrics"),
    Channel("routing-metrics", mode="events", type="routing-decision"),
    Channel("exposure-updates", mode="latest", type="exposure-update"),
)


class SeedClient:
    """Sends what such a client sends, and dispatches on `type` as it does: what it does not know it passes over."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.seen: dict[str, list[Any]] = {
            "alert": [],
            "lp-metrics": [],
            "routing-decision": [],
            "exposure-update": [],
        }

    async def subscribe(self, *channels: str) -> None:
        await self._client.send({"action": "subscribe", "channels": list(channels)})

    async def unsubscribe(self, *channels: str) -> None:
        await self._client.send({"action": "unsubscribe", "channels": list(channels)})

    async def read(self, type_: str, number: int) -> None:
        while len(self.seen[type_]) < number:
            batch = await self._client.receive()
            assert isinstance(batch, list)
            for message in batch:
                if message["type"] in self.seen:
                    datetime.fromisoformat(message["timestamp"])
                    self.seen[message["type"]].append(message["data"])


async def test_it_gets_what_it_subscribed_to(door: Door) -> None:
    async with serving(door, channels=CHANNELS) as house, house.connect("alice") as client:
        seed = SeedClient(client)
        await seed.subscribe("routing-metrics", "lp-performance", "exposure-updates", "alerts")
        house.hub.publish("exposure-updates", "from before it was carried out, or not")
        await seed.read("exposure-update", 1)
        for number in range(100):
            house.hub.publish("routing-metrics", {"symbol": "EURUSD", "n": number})
            house.hub.publish("lp-performance", {"lpName": f"LP{number}", "n": number})
            house.hub.publish("alerts", {"n": number})
        await seed.read("alert", 100)
        await seed.read("routing-decision", 100)
        await seed.read("lp-metrics", 100)

        for type_ in ("alert", "lp-metrics", "routing-decision"):
            assert [data["n"] for data in seed.seen[type_]] == list(range(100))


async def test_it_can_change_its_mind(door: Door) -> None:
    async with serving(door, channels=CHANNELS) as house, house.connect("alice") as client:
        seed = SeedClient(client)
        await seed.subscribe("alerts", "exposure-updates")
        house.hub.publish("exposure-updates", 1)
        await seed.read("exposure-update", 1)
        await seed.unsubscribe("alerts")
        await seed.subscribe("routing-metrics", "exposure-updates")
        await house.hub.publish_confirmed("alerts", "unwanted")
        while house.hub.statistics().channels["alerts"].watchers:
            house.hub.publish("exposure-updates", 2)
            await seed.read("exposure-update", len(seed.seen["exposure-update"]) + 1)
        await house.hub.publish_confirmed("alerts", "unheard")
        house.hub.publish("exposure-updates", "the end")
        while seed.seen["exposure-update"][-1] != "the end":
            await seed.read("exposure-update", len(seed.seen["exposure-update"]) + 1)

        assert "unheard" not in seed.seen["alert"]


async def test_a_typing_mistake_does_not_end_it(door: Door) -> None:
    async with serving(door, channels=CHANNELS) as house, house.connect("alice") as client:
        seed = SeedClient(client)
        await seed.subscribe("routing-metric", "exposure-updates")
        while not house.hub.statistics().subscriptions:
            house.hub.publish("routing-metrics", 1)
            house.hub.publish("exposure-updates", 1)
            await seed.read("exposure-update", len(seed.seen["exposure-update"]) + 1)

        assert seed.seen["routing-decision"] == []
