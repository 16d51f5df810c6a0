"""`statistics()` and `ledger()`: exact at every moment, and sums that include ended sessions."""

from __future__ import annotations

import dataclasses

import pytest

from analytics_hub import Identity
from analytics_hub.core.statistics import Ledger
from analytics_hub.transports.memory import subscribe

from .rig import FakeTransport, new_hub, plug_in, read_data, running

pytestmark = pytest.mark.anyio

NOTHING = Ledger()


def test_a_hub_that_was_never_entered_has_statistics_too() -> None:
    statistics = new_hub().statistics()

    assert statistics.sessions == statistics.subscriptions == statistics.subscription_sets == statistics.cohorts == 0
    assert statistics.counters == {}
    assert {name: channel.mode for name, channel in statistics.channels.items()} == {
        "events": "events",
        "table": "table",
        "latest": "latest",
        "durable": "durable",
    }
    assert all(channel.ledger == NOTHING for channel in statistics.channels.values())


async def test_statistics_have_the_head_and_epoch_of_each_channel() -> None:
    async with running() as hub:
        for number in range(5):
            hub.publish("events", number)
            hub.publish("table", number, key="abc"[number % 3])
            hub.publish("latest", number)
            await hub.publish_confirmed("durable", number)
        hub.publish("user:1", 1)
        channels = hub.statistics().channels

        assert {name: channel.head for name, channel in channels.items()} == {
            "events": 5,
            "table": 5,
            "latest": 5,
            "durable": 5,
            "user:1": 1,
        }
        assert len({channel.epoch for channel in channels.values()}) == 5


async def test_a_ledger_is_kept_for_each_subscription() -> None:
    async with running() as hub:
        hub.publish("events", 0)
        async with subscribe(hub, "events", "table") as client:
            for number in range(10):
                hub.publish("events", number)
            hub.publish("table", {"id": "a"})
            await read_data(client, "events", 10)
            (session,) = hub.sessions
            open_ = hub.ledger(session)
            hub.publish("events", "not taken any more")
        closed = hub.ledger(session)

        assert open_["events"] == Ledger(published=10, delivered=10)
        assert closed["events"] == Ledger(published=11, delivered=10, abandoned=1)
        assert closed["table"].is_balanced


async def test_statistics_are_an_immutable_snapshot() -> None:
    async with running() as hub:
        before = hub.statistics()
        hub.publish("events", 1)
        hub.gateway.count("something")
        plug_in(hub, FakeTransport(), "events")

        assert before.channels["events"].head == 0
        assert before.sessions == 0
        assert before.counters == {}
        with pytest.raises(dataclasses.FrozenInstanceError):
            before.sessions = 5  # type: ignore[misc]


async def test_counters_name_what_happened() -> None:
    async with running() as hub:
        sessions = [plug_in(hub, FakeTransport(), "events", identity=Identity(id="a")) for _ in range(4)]
        deaf = FakeTransport(lambda frame: False)
        plug_in(hub, deaf, "events")
        hub.publish("events", 1)
        await deaf.until(lambda: bool(deaf.writes))
        await hub.publish_confirmed("durable", 1)
        hub.gateway.disconnect(sessions[0])
        hub.gateway.disconnect(sessions[0])
        for _ in range(10):
            hub.gateway.receive_data(sessions[1], "nonsense")
        hub.gateway.count("refused-full")
        hub.gateway.count("refused-full", 2)
        await hub.shutdown(grace=0.05)

        assert hub.statistics().counters == {
            "connected": 5,
            "disconnected": 1,
            "stalled": 1,
            "closed-4400": 1,
            "closed-1012": 3,
            "refused-full": 3,
            "error-bad-request": 10,
        }
