"""The in-process subscriber, where it differs from the other transports of the conformance suite."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Action, HubClosed, Identity
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import ROOM, MemoryClient, connect, subscribe

from ..hub.rig import HANG, is_empty, read, running

pytestmark = pytest.mark.anyio


async def test_a_client_is_an_iterator_of_batches() -> None:
    async with running() as hub, subscribe(hub, "events") as batches:
        for number in range(3):
            hub.publish("events", number)
        seen = []
        async for batch in batches:
            assert isinstance(batch, list)
            seen += [item["data"] for item in batch]
            if len(seen) == 3:
                break

        assert seen == [0, 1, 2]


async def test_items_in_the_frame_of_the_answer_are_not_lost() -> None:
    async with running() as hub:
        hub.publish("latest", "the snapshot")
        async with subscribe(hub, "latest", {"channel": "events", "since": {"epoch": "old", "seq": 3}}) as client:
            items = await read(client, lambda item: item["type"] == "latest")

            assert [item["type"] for item in items] == ["$gap", "latest"]


async def test_the_iteration_ends_with_the_session() -> None:
    async with running() as hub, subscribe(hub, "events") as client:
        hub.publish("events", "the last item")
        await hub.shutdown(grace=HANG)
        data = [item["data"] async for batch in client for item in batch if "data" in item]

        assert data == ["the last item"]
        assert (client.close_code, client.close_reason) == (1012, "the server restarts")
        with pytest.raises(StopAsyncIteration):
            await anext(client)


async def test_the_iteration_ends_while_it_waits() -> None:
    async with running() as hub, subscribe(hub, "events") as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave_later, client)
            async for _ in client:
                pass

        assert client.close_code == 1000


async def leave_later(client: MemoryClient) -> None:
    await checkpoint()
    client.leave()


async def test_room_is_counted_in_writes() -> None:
    async with running() as hub, subscribe(hub, "events") as client:
        while not hub.statistics().stalled:
            hub.publish("events", 1)
            await checkpoint()

        assert hub.statistics().channels["events"].ledger.delivered >= ROOM
        assert len(client._writes) == ROOM


async def test_heartbeats_are_left_out() -> None:
    clock = ManualClock()
    async with running(clock=clock, wall_clock=clock.wall) as hub, subscribe(hub, "events") as client:
        clock.attach(hub)
        for _ in range(3):
            clock.advance(21.0)
            await hub.publish_confirmed("durable", 1)
        hub.publish("events", "an item")

        assert [item["data"] for item in await anext(client)] == ["an item"]


async def test_a_paused_client_is_marked_as_paused() -> None:
    gate = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        await gate.wait()
        return True

    async with running(authorize=authorize) as hub, connect(hub) as client:
        client.send({"action": "subscribe", "channels": ["events"]})
        for _ in range(70):
            client.send('{"action":"ping"}' + " " * 1000)
        while not client.is_reading_paused:
            await checkpoint()
        gate.set()
        while client.is_reading_paused:
            await checkpoint()


async def test_leaving_twice_counts_once() -> None:
    async with running() as hub:
        async with subscribe(hub, "events") as client:
            client.leave()
            client.leave()

            assert is_empty(hub)
        assert hub.statistics().counters["disconnected"] == 1


async def test_sending_after_the_end_is_harmless() -> None:
    async with running() as hub, subscribe(hub, "events") as client:
        client.leave()
        client.send({"action": "subscribe", "channels": ["latest"]})
        await checkpoint()

        assert is_empty(hub)
        assert client.write(b"a late frame") is True
        with pytest.raises(StopAsyncIteration):
            await anext(client)


async def test_subscribe_raises_if_the_hub_closes_meanwhile() -> None:
    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        asked.set()
        await anyio.sleep_forever()
        return True

    async def subscribe_once() -> None:
        with pytest.raises(HubClosed, match="the server restarts"):
            async with subscribe(hub, "events"):
                pass

    asked = anyio.Event()
    async with running(authorize=authorize) as hub, anyio.create_task_group() as tasks:
        tasks.start_soon(subscribe_once)
        await asked.wait()
        await hub.shutdown(grace=0.1)


async def test_subscribe_raises_if_the_hub_is_closed() -> None:
    async with running() as hub:
        await hub.shutdown()
        with pytest.raises(HubClosed):
            async with subscribe(hub, "events"):
                pass
