"""What the tests of applications use: the clock, subscribers in other threads, and the record of publications."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from analytics_hub import (
    AuthenticationError,
    Channel,
    Handshake,
    Hub,
    HubClosed,
    HubError,
    Identity,
    InvalidItem,
    PermissionDenied,
    Tuning,
    UnknownChannel,
)
from analytics_hub.testing import LiveClient, ManualClock, PublishedItem, record, run_hub, subscribe_blocking
from analytics_hub.testing import subscribe as subscribe_live
from analytics_hub.transports.memory import Item, subscribe

from ..hub.rig import new_hub, read_data, running


class Row(msgspec.Struct):
    id: str


def test_a_manual_clock_moves_both_clocks() -> None:
    clock = ManualClock(now=5.0, wall=100.0)
    before = clock(), clock.wall()
    clock.advance(2.5)
    after = clock(), clock.wall()
    clock.shift_wall(-50.0)

    assert before == (5.0, 100.0)
    assert after == (7.5, 102.5)
    assert (clock(), clock.wall()) == (7.5, 52.5)


@pytest.mark.anyio
async def test_a_hub_acts_when_its_clock_has_moved() -> None:
    """An hour passes in no time."""
    clock = ManualClock()
    async with running(tuning=Tuning(interval=60.0), clock=clock, wall_clock=clock.wall) as hub:
        clock.attach(hub)
        async with subscribe(hub, "events") as client:
            for number in range(60):
                hub.publish("events", number)
                assert await read_data(client, "events", 1) == [number]
                clock.advance(60.0)


# --- subscribers


@pytest.mark.anyio
async def test_a_live_client_receives_in_the_event_loop_of_the_hub() -> None:
    async with running() as hub:
        received = await subscribe_live(hub, "events", {"channel": "latest", "snapshot": True})
        for number in range(3):
            hub.publish("events", number)

        assert [(await received.next())["data"] for _ in range(3)] == received.data == [0, 1, 2]
        assert {item["type"] for item in received.control_items} >= {"$hello", "$subscribed"}
        with pytest.raises(AssertionError, match=r"no further item within 0.01 s; received so far: \[0, 1, 2\]"):
            await received.next(timeout=0.01)
        received.leave()
        received.leave()
        await hub.publish_confirmed("durable", 1)
        assert hub.statistics().sessions == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_live_client_receives_beside_the_event_loop_of_the_hub(backend: str) -> None:
    hub = new_hub()

    async def publish_and_receive() -> LiveClient:
        received = await subscribe_live(hub, "events")
        await anyio.to_thread.run_sync(hub.publish, "events", "from a thread")
        assert (await received.next())["data"] == "from a thread"
        assert hub.statistics().sessions == 2
        with pytest.raises(RuntimeError, match="which run_hub would block"), run_hub(new_hub()):
            pass
        return received

    async def rest(received: LiveClient) -> list[Item]:
        return [item async for item in received]

    with run_hub(hub, backend):
        blocking = subscribe_blocking(hub, "events")
        received = anyio.run(publish_and_receive, backend=backend)
        assert blocking.next()["data"] == "from a thread"
    assert anyio.run(rest, received, backend=backend) == []
    assert received.close_code == 1012
    with pytest.raises(HubClosed, match="the server restarts"):
        blocking.next()


@pytest.mark.anyio
async def test_a_live_client_is_admitted_as_its_token_or_identity_says() -> None:
    async def authenticate(handshake: Handshake) -> Identity:
        if handshake.token != "good":
            raise AuthenticationError("invalid")
        return Identity(id="ann", roles=frozenset({"reader"}))

    channels = [Channel("open"), Channel("secret", roles=frozenset({"admin"}))]
    async with running(channels, authenticate=authenticate) as hub:
        await subscribe_live(hub, "open", "secret")
        await subscribe_live(hub, "open", token="good")
        with pytest.raises(AuthenticationError):
            await subscribe_live(hub, "open", token="bad")
        refused: list[dict[str, Any]] = [{"token": "good"}, {"identity": Identity(id="bob")}]
        for options in refused:
            with pytest.raises(PermissionDenied):
                await subscribe_live(hub, "secret", **options)
        with pytest.raises(UnknownChannel):
            await subscribe_live(hub, "nosuch")
        with pytest.raises(RuntimeError, match="which must not wait for it; use `await subscribe"):
            subscribe_blocking(hub, "open")
    with pytest.raises(HubClosed, match="the fixture `live_hub`"):
        await subscribe_live(hub, "open")


@pytest.mark.anyio
async def test_a_clock_is_installed_for_one_life() -> None:
    hub, clock = new_hub(tuning=Tuning(interval=60.0)), ManualClock(wall=0.0)
    with clock.installed(hub):
        async with hub:
            first = await subscribe_live(hub, "events")
            for number in range(3):
                hub.publish("events", number)
                await first.next()
                clock.advance(60.0)
            with pytest.raises(HubError, match="before the hub is entered"), ManualClock().installed(hub):
                pass
    async with hub:
        received = await subscribe_live(hub, "events")
        hub.publish("events", "real time")
        now = await received.next()

    assert first.items[-1]["timestamp"] == "1970-01-01T00:02:00.000Z"
    assert now["timestamp"] > "2026"


# --- the record of publications


@pytest.mark.anyio
async def test_every_way_to_publish_is_recorded() -> None:
    async def use(hub: Hub) -> None:
        hub.publish("table", Row("a"), key="a")
        await anyio.to_thread.run_sync(hub.publish, "events", (1, 2))
        hub.delete("table", "a")

    hub = new_hub()
    for is_open in (False, True):
        with record(hub) as published:
            if is_open:
                async with hub:
                    received = await subscribe_live(hub, "events")
                    await use(hub)
                    await hub.publish_confirmed("durable", 3, type="note")
                    hub.gateway.remove("table", "b")
                    assert (await received.next())["data"] == [1, 2]
            else:
                await use(hub)
        hub_items = published.items
        assert hub_items[:3] == [
            PublishedItem("table", {"id": "a"}, key="a"),
            PublishedItem("events", [1, 2]),
            PublishedItem("table", None, key="a", is_deleted=True),
        ]
        published.assert_published("table", Row("a"), key="a", count=1)
        assert len(published.assert_published("table")) == 2 + is_open
        misses: list[dict[str, Any]] = [{"data": 1}, {"key": "b" if not is_open else "c"}, {"type": "x"}, {"count": 1}]
        for wrong in misses:
            with pytest.raises(AssertionError, match="were published to 'table' with"):
                published.assert_published("table", **wrong)
        with pytest.raises(AssertionError, match="expected nothing"):
            published.assert_not_published("table")
        published.assert_not_published("latest")
        assert len(hub_items) == (5 if is_open else 3)
    with pytest.raises(HubClosed):
        hub.publish("events", "no longer recorded")


def test_what_the_hub_would_refuse_is_refused_without_it() -> None:
    hub = new_hub()
    with record(hub) as outer, record(hub) as published:
        for error, arguments in (
            (UnknownChannel, ("nosuch", 1)),
            (InvalidItem, ("events", object())),
            (InvalidItem, ("table", 1)),
        ):
            with pytest.raises(error):
                hub.publish(*arguments)
        with pytest.raises(InvalidItem):
            hub.publish("events", 1, key="a")
        with pytest.raises(UnknownChannel):
            hub.delete("nosuch", "a")
        published.assert_not_published()
        hub.publish("events", 1)

        assert outer.items == published.items == [PublishedItem("events", 1)]
