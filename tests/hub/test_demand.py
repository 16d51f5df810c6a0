"""Sources that run only while their channel is watched: `Hub.demand`."""

from __future__ import annotations

import gc

import anyio
import anyio.to_thread
import pytest

from analytics_hub import Demand, HubClosed, HubError, InvalidChannel, UnknownChannel
from analytics_hub.transports.memory import MemoryClient, connect, subscribe

from .rig import HANG, FakeTransport, new_hub, plug_in, read, running

pytestmark = pytest.mark.anyio

NONE = Demand()


async def pace(client: MemoryClient, channel: str, max_hz: float | None) -> None:
    selection = {"channel": channel} | ({} if max_hz is None else {"max_hz": max_hz})
    client.send({"action": "subscribe", "channels": [selection]})
    await read(client, lambda item: item["type"] == "$subscribed")


async def test_the_first_and_the_last_subscriber_are_reported() -> None:
    async with running() as hub:
        demands = hub.demand("latest")
        assert await anext(demands) == NONE
        async with subscribe(hub, {"channel": "latest", "max_hz": 2.0}) as first:
            assert await anext(demands) == Demand(1, frozenset(), 2.0)
            async with subscribe(hub, {"channel": "latest", "max_hz": 10.0}):
                assert await anext(demands) == Demand(2, frozenset(), 10.0)
            assert await anext(demands) == Demand(1, frozenset(), 2.0)
            await pace(first, "latest", None)
            assert await anext(demands) == Demand(1, frozenset(), None)
            await pace(first, "latest", 4.0)
            assert await anext(demands) == demands.current == Demand(1, frozenset(), 4.0)
        assert await anext(demands) == NONE


async def test_the_watched_members_of_a_pattern_are_its_keys() -> None:
    async with running() as hub:
        demands = hub.demand("user:*")
        assert await anext(demands) == NONE
        async with subscribe(hub, "user:1", {"channel": "user:2", "max_hz": 1.0}, "events"):
            assert await anext(demands) == Demand(2, frozenset({"1", "2"}), None)
            async with subscribe(hub, "user:2"):
                assert await anext(demands) == Demand(3, frozenset({"1", "2"}), None)
            assert (await anext(demands)).viewers == 2
        assert await anext(demands) == NONE


async def test_only_the_newest_demand_is_reported_and_only_if_it_differs() -> None:
    async with running() as hub, connect(hub) as client:
        demands = hub.demand("events")
        assert await anext(demands) == NONE
        async with subscribe(hub, "events"), subscribe(hub, "events"):
            pass
        async with subscribe(hub, "events"):
            assert (await anext(demands)).viewers == 1
            await pace(client, "events", None)
            client.send({"action": "unsubscribe", "channels": ["events"]})
            await read(client, lambda item: item["type"] == "$unsubscribed")
            with anyio.move_on_after(0.01) as waiting:
                await anext(demands)
            assert waiting.cancelled_caught  # two changes that cancel each other out


async def test_a_client_that_vanishes_or_is_forbidden_counts_no_longer() -> None:
    async with running() as hub:
        demands = hub.demand("events")
        session = plug_in(hub, FakeTransport(), "events")
        while not (await anext(demands)).viewers:
            pass
        hub.gateway.disconnect(session)
        assert await anext(demands) == NONE


async def test_a_source_runs_only_while_its_channel_is_watched() -> None:
    ticks = 0

    async def source() -> None:
        nonlocal ticks
        while True:
            hub.publish("latest", ticks)
            ticks += 1
            await anyio.sleep(0.001)

    async def supervise() -> None:
        async with anyio.create_task_group() as tasks:
            running_source: anyio.CancelScope | None = None
            async for demand in hub.demand("latest"):
                if demand.viewers and running_source is None:
                    running_source = anyio.CancelScope()
                    tasks.start_soon(run, running_source)
                elif not demand.viewers and running_source is not None:
                    running_source.cancel()
                    running_source = None
            tasks.cancel_scope.cancel()

    async def run(scope: anyio.CancelScope) -> None:
        with scope:
            await source()

    with anyio.fail_after(HANG):
        async with anyio.create_task_group() as tasks, new_hub() as hub:
            tasks.start_soon(supervise)
            await anyio.sleep(0.005)
            assert ticks == 0
            async with subscribe(hub, "latest") as client:
                await read(client, lambda item: item.get("data", 0) >= 3)
            for _ in range(2):  # until the source has been stopped
                await anyio.sleep(0.01)
            seen = ticks
            await anyio.sleep(0.01)
            assert ticks == seen


async def test_what_is_used_no_longer_costs_nothing() -> None:
    async with running() as hub:
        demands = hub.demand("events")
        assert hub._engine.registry.observed == {"events"}
        del demands
        gc.collect()
        async with subscribe(hub, "events"):
            await hub.publish_confirmed("durable", 1)
            assert hub._engine.registry.observed == set()


async def test_it_ends_with_the_hub_and_begins_with_it() -> None:
    seen: list[Demand] = []

    async def watch() -> None:
        seen.extend([demand async for demand in hub.demand("events")])

    hub = new_hub()
    with pytest.raises(HubClosed, match="not running"):
        hub.demand("events")
    with anyio.fail_after(HANG):
        async with anyio.create_task_group() as tasks, hub:
            tasks.start_soon(watch)
            async with subscribe(hub, "events"):
                await hub.publish_confirmed("durable", 1)
            with pytest.raises(HubError, match="demand was called from another thread"):
                await anyio.to_thread.run_sync(hub.demand, "events")

    assert len(seen) >= 1
    with pytest.raises(HubClosed):
        hub.demand("events")


async def test_a_channel_that_is_not_declared_has_no_demand() -> None:
    async with running() as hub:
        with pytest.raises(UnknownChannel, match="'nosuch' is not declared"):
            hub.demand("nosuch")
        with pytest.raises(UnknownChannel, match=r"'user:1' is a member of a pattern"):
            hub.demand("user:1")
        with pytest.raises(InvalidChannel):
            hub.demand("")
