"""A task that uses a hub may be cancelled at every wait, its own and those of the hub's tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
import pytest

from analytics_hub import AuthenticationError, Handshake, Hub, HubClosed, testing, trading
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.transports.memory import connect, subscribe

from ..hub.rig import HANG, read_data
from .leftovers import Sweeper, is_served_once, kept_for_clients
from .rig import PatientJournal, patient_authenticate, patient_hub
from .sweep import cancel_everywhere, cancelled_at, ways

pytestmark = pytest.mark.anyio


async def leaves_nothing(hub: Hub, sweeper: Sweeper) -> None:
    await sweeper.sweep()
    await is_served_once(hub)


async def test_a_subscriber() -> None:
    async def work() -> None:
        async with subscribe(hub, "events", {"channel": "durable", "last": 3}, "user:1", token="t") as client:
            hub.publish("events", 1)
            await read_data(client, "events", 1)
            hub.publish("events", 2)
            await read_data(client, "events", 1)

    async with patient_hub() as hub:
        sweeper = Sweeper(lambda: kept_for_clients(hub))
        waits = await cancel_everywhere(work, lambda: leaves_nothing(hub, sweeper))

    assert waits >= 5


async def test_a_subscriber_of_a_test() -> None:
    async def work() -> None:
        received = await testing.subscribe(hub, "events", "durable", token="t")
        try:
            hub.publish("events", 1)
            await received.next()
            hub.publish("events", 2)
            await anext(received)
        finally:
            received.leave()

    async with patient_hub() as hub:
        sweeper = Sweeper(lambda: kept_for_clients(hub))
        waits = await cancel_everywhere(work, lambda: leaves_nothing(hub, sweeper))

    assert waits >= 5


async def test_a_connection() -> None:
    async def work() -> None:
        async with connect(hub, token="t") as client:
            client.send({"action": "auth", "token": "another"})
            client.send({"action": "subscribe", "channels": ["events", "latest"]})
            async for batch in client:
                if any(item["type"] == "$subscribed" for item in batch):
                    break
            client.send({"action": "unsubscribe", "channels": ["events"]})
            await anext(client)

    async with patient_hub() as hub:
        sweeper = Sweeper(lambda: kept_for_clients(hub))
        waits = await cancel_everywhere(work, lambda: leaves_nothing(hub, sweeper))

    assert waits >= 5


@pytest.mark.parametrize("token", ["valid", "wrong"])
async def test_the_check_of_a_token(token: str) -> None:
    async def work() -> None:
        for check in (hub.gateway.authenticate, hub.gateway.admit):
            try:
                await check(Handshake(token=token))
            except AuthenticationError:
                assert token == "wrong"

    async with patient_hub() as hub:
        sweeper = Sweeper(lambda: kept_for_clients(hub))
        waits = await cancel_everywhere(work, lambda: leaves_nothing(hub, sweeper))

    assert waits >= 4


@pytest.mark.parametrize("journal", [MemoryJournal, PatientJournal])
@pytest.mark.parametrize("channel", ["events", "durable"])
async def test_a_confirmed_publication(channel: str, journal: type[MemoryJournal]) -> None:
    """Then it has happened or not, but it never blocks the next one."""

    async def work() -> None:
        receipts.append((await hub.publish_confirmed(channel, 1)).seq)

    receipts: list[int] = []
    async with patient_hub(journal=journal()) as hub:
        sweeper = Sweeper(lambda: kept_for_clients(hub))
        await cancel_everywhere(work, lambda: leaves_nothing(hub, sweeper))
        last = await hub.publish_confirmed(channel, 2)

    assert last.seq > receipts[-1]


async def test_a_confirmation_that_was_cancelled_in_time_published_nothing() -> None:
    async with patient_hub() as hub:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await hub.publish_confirmed("events", 1)

        assert scope.cancelled_caught
        assert hub.statistics().channels["events"].head == 0


async def cancel_each_everywhere(life: Callable[[int, bool], Awaitable[bool]]) -> int:
    """As `cancel_everywhere`, for what happens once in the life of a hub; how many waits there are."""
    number = 0
    for once in ways():
        number = 1
        while await life(number, once):
            number += 1
    return number - 1


async def test_a_shutdown() -> None:
    """It ends every client all the same, at once."""

    async def life(number: int, once: bool) -> bool:
        async with patient_hub() as hub, AsyncExitStack() as clients:
            for _ in range(3):
                await clients.enter_async_context(subscribe(hub, "events", "durable", token="t"))
            hub.publish("events", 1)
            hub.publish("durable", 1)
            was_reached = await cancelled_at(number, hub.shutdown, once=once)

            assert hub.is_draining
            assert kept_for_clients(hub) == []
        return was_reached

    assert await cancel_each_everywhere(life) >= 1


async def test_the_life_of_a_hub() -> None:
    """Entered, used with everything its own tasks do, and left. One that could not be entered may be entered again."""
    sweeper = Sweeper()

    async def life(number: int, once: bool) -> bool:
        async def work() -> None:
            async with hub, connect(hub, token="t") as client:
                client.send({"action": "subscribe", "channels": ["events", {"channel": "durable", "last": 1}]})
                await hub.publish_confirmed("durable", 1)
                hub.publish("events", 1)
                await read_data(client, "events", 1)

        hub = patient_hub()
        with anyio.fail_after(HANG):
            was_reached = await cancelled_at(number, work, once=once)
            assert kept_for_clients(hub) == []
            if hub._life.state == "new":
                async with hub:
                    await is_served_once(hub)
            assert not hub.is_open
        await sweeper.sweep()
        return was_reached

    assert await cancel_each_everywhere(life) > 10


async def test_the_shutdown_of_the_hub_of_the_process() -> None:
    """It is forgotten then, so that there may be a next one."""

    async def life(number: int, once: bool) -> bool:
        with anyio.fail_after(HANG):
            async with trading.init_hub(authenticate=patient_authenticate) as hub:
                was_reached = await cancelled_at(number, trading.shutdown_hub, once=once)

                assert hub.is_draining
                with pytest.raises(HubClosed):
                    trading.get_hub()
        return was_reached

    assert await cancel_each_everywhere(life) >= 1


async def test_a_journal_in_memory() -> None:
    """An append is whole or was never there."""

    async def work() -> None:
        state = await journal.open("channel", "epoch")
        await journal.append("channel", state.head + 1, [b"first", b"second"])
        await journal.read("channel", 0, 10)

    async def check() -> None:
        state = await journal.open("channel", "another")
        assert state.epoch == "epoch"
        assert state.head % 2 == 0
        assert len(await journal.read("channel", 0, 10_000)) == state.head

    journal = MemoryJournal()
    await journal.open("channel", "epoch")
    assert await cancel_everywhere(work, check) >= 3
