"""Clients written for the first version of the protocol, which knew nothing of control items, work unmodified."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from analytics_hub import Channel

from .client import Client, TransportUnderTest
from .harness import serving

pytestmark = pytest.mark.anyio

CHANNELS = (
    Channel("alerts", mode="durable", type="alert"),
    Channel("lp-performance", mode="table", key="lpName", type="lp-metrics"),
    Channel("routing-metrics", mode="events", type="routing-decision"),
    Channel("exposure-updates", mode="latest", type="exposure-update"),
)


class SeedClient:
    """Sends the same commands, and dispatches on `type` in the same way: unknown types are ignored."""

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


async def test_it_receives_the_channels_that_it_has_subscribed_to(transport: TransportUnderTest) -> None:
    async with serving(transport, channels=CHANNELS) as served, served.connect("alice") as client:
        seed = SeedClient(client)
        await seed.subscribe("routing-metrics", "lp-performance", "exposure-updates", "alerts")
        served.hub.publish("exposure-updates", "before or after the subscription began")
        await seed.read("exposure-update", 1)
        for number in range(100):
            served.hub.publish("routing-metrics", {"symbol": "EURUSD", "n": number})
            served.hub.publish("lp-performance", {"lpName": f"LP{number}", "n": number})
            served.hub.publish("alerts", {"n": number})
        await seed.read("alert", 100)
        await seed.read("routing-decision", 100)
        await seed.read("lp-metrics", 100)

        for type_ in ("alert", "lp-metrics", "routing-decision"):
            assert [data["n"] for data in seed.seen[type_]] == list(range(100))


async def test_it_can_change_its_subscriptions(transport: TransportUnderTest) -> None:
    async with serving(transport, channels=CHANNELS) as served, served.connect("alice") as client:
        seed = SeedClient(client)
        await seed.subscribe("alerts", "exposure-updates")
        served.hub.publish("exposure-updates", 1)
        await seed.read("exposure-update", 1)
        await seed.unsubscribe("alerts")
        await seed.subscribe("routing-metrics", "exposure-updates")
        await served.hub.publish_confirmed("alerts", "unwanted")
        while served.hub.statistics().channels["alerts"].watchers:
            served.hub.publish("exposure-updates", 2)
            await seed.read("exposure-update", len(seed.seen["exposure-update"]) + 1)
        await served.hub.publish_confirmed("alerts", "after the subscription ended")
        served.hub.publish("exposure-updates", "the end")
        while seed.seen["exposure-update"][-1] != "the end":
            await seed.read("exposure-update", len(seed.seen["exposure-update"]) + 1)

        assert "after the subscription ended" not in seed.seen["alert"]


async def test_an_unknown_channel_does_not_end_the_connection(transport: TransportUnderTest) -> None:
    async with serving(transport, channels=CHANNELS) as served, served.connect("alice") as client:
        seed = SeedClient(client)
        await seed.subscribe("routing-metric", "exposure-updates")
        while not served.hub.statistics().subscriptions:
            served.hub.publish("routing-metrics", 1)
            served.hub.publish("exposure-updates", 1)
            await seed.read("exposure-update", len(seed.seen["exposure-update"]) + 1)

        assert seed.seen["routing-decision"] == []
