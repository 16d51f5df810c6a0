"""A task that is cancelled, at whatever await, leaves nothing behind; and neither does a client that has left."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import AsyncExitStack

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Handshake, Hub, Identity
from analytics_hub.core.cohort import Cohort, Reader
from analytics_hub.core.registry import Layout
from analytics_hub.core.session import Session
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import MemoryClient, connect, subscribe
from analytics_hub.transports.websocket import serve

from ..conformance.client import Closed, Refused
from ..conformance.client import Reader as ItemReader
from ..conformance.websocket import dial
from .cancelling import cancel_everywhere, cancelled_at
from .rig import FAST, HANG, is_empty, new_hub, read, read_data, running

pytestmark = pytest.mark.anyio


async def patient_authenticate(handshake: Handshake) -> Identity:
    await checkpoint()
    await checkpoint()
    return Identity(id="alice")


async def patient_authorize(identity: Identity, channel: str) -> bool:
    await checkpoint()
    return True


async def still_works(hub: Hub) -> None:
    """Nothing is left of whoever came before, and the next one is served."""
    assert is_empty(hub)
    async with subscribe(hub, "events", "durable", identity=Identity(id="next")) as client:
        hub.publish("events", "hello")
        await read(client, lambda item: item.get("data") == "hello")
        hub.publish("durable", "there")
        await read(client, lambda item: item.get("data") == "there")
    assert is_empty(hub)


async def test_the_helper_cancels_where_it_says() -> None:
    reached: list[int] = []

    async def work() -> None:
        for number in range(3):
            reached.append(number)
            await checkpoint()
        reached.append(3)

    outcomes = []
    for number in (1, 2, 3, 99):
        reached.clear()
        outcomes.append((await cancelled_at(number, work), list(reached)))

    # Trio and asyncio count the checkpoints within `checkpoint` differently, but the first and the last run are clear.
    assert outcomes[0] == (True, [0])
    assert outcomes[-1] == (False, [0, 1, 2, 3])


async def test_a_subscriber_may_be_cancelled_anywhere() -> None:
    async def work() -> None:
        async with subscribe(hub, "events", {"channel": "durable", "last": 3}, "user:1") as client:
            hub.publish("events", 1)
            await read_data(client, "events", 1)
            hub.publish("events", 2)
            await read_data(client, "events", 1)

    async with running(authenticate=patient_authenticate, authorize=patient_authorize) as hub:
        awaits = await cancel_everywhere(work, lambda: still_works(hub))

    assert awaits >= 5


async def test_a_connection_may_be_cancelled_anywhere() -> None:
    async def work() -> None:
        async with connect(hub, token="t") as client:
            client.send({"action": "auth", "token": "another"})
            client.send({"action": "subscribe", "channels": ["events", "latest"]})
            async for batch in client:
                if any(item["type"] == "$subscribed" for item in batch):
                    break
            client.send({"action": "unsubscribe", "channels": ["events"]})
            await anext(client)

    async with running(authenticate=patient_authenticate, authorize=patient_authorize) as hub:
        awaits = await cancel_everywhere(work, lambda: still_works(hub))

    assert awaits >= 5


@pytest.mark.parametrize("channel", ["events", "durable"])
async def test_a_confirmed_publication_may_be_cancelled_anywhere(channel: str) -> None:
    """Then it has happened or not, but it never blocks the next one."""

    async def work() -> None:
        receipts.append((await hub.publish_confirmed(channel, 1)).seq)

    receipts: list[int] = []
    async with running() as hub:
        await cancel_everywhere(work, lambda: still_works(hub))
        last = await hub.publish_confirmed(channel, 2)

    assert last.seq > receipts[-1]


async def test_a_confirmation_that_was_cancelled_in_time_published_nothing() -> None:
    async def work() -> None:
        await hub.publish_confirmed("events", 1)

    async with running() as hub:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await work()

        assert scope.cancelled_caught
        assert hub.statistics().channels["events"].head == 0


async def test_a_shutdown_may_be_cancelled_anywhere() -> None:
    number = 1
    was_reached = True
    while was_reached:
        async with running() as hub, AsyncExitStack() as clients:
            for _ in range(3):
                await clients.enter_async_context(subscribe(hub, "events", "durable"))
            hub.publish("events", 1)
            hub.publish("durable", 1)
            was_reached = await cancelled_at(number, hub.shutdown)

            assert hub.is_draining
            assert is_empty(hub)
        number += 1

    assert number > 2


async def test_entering_a_hub_may_be_cancelled_anywhere() -> None:
    """It has not begun then, and may begin again."""
    number = 1
    was_reached = True
    while was_reached:
        hub = new_hub(journal=MemoryJournal())
        with anyio.fail_after(HANG):
            was_reached = await cancelled_at(number, lambda: use(hub))  # noqa: B023 - called at once
            if hub._state == "new":
                async with hub:
                    await still_works(hub)
            assert is_empty(hub)
        number += 1

    assert number > 3


async def use(hub: Hub) -> None:
    async with hub:
        await still_works(hub)


async def test_serving_may_be_cancelled_anywhere() -> None:
    """In the middle of handshakes, checks, subscriptions: no session and no descriptor outlives the transport."""

    async def come_and_go(port: int) -> None:
        while True:
            try:
                async with dial("127.0.0.1", port, "t") as client:
                    reader = ItemReader(client)
                    await reader.subscribe("events", "durable")
                    await client.vanish()
            except (ConnectionError, Closed, Refused, OSError):
                await checkpoint()

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(lambda task_status: serve(hub, port=0, task_status=task_status))
            for _ in range(3):
                tasks.start_soon(come_and_go, port)
            for _ in range(40):
                await checkpoint()
            tasks.cancel_scope.cancel()

    async with running(authenticate=patient_authenticate, authorize=patient_authorize) as hub:
        awaits = await cancel_everywhere(work, lambda: still_works(hub))

    assert awaits > 40


@pytest.mark.parametrize("number", [0, 1, 2, 3])
async def test_serving_may_end_while_a_token_is_checked(number: int) -> None:
    """At every await of the handshake, as seen from the application's own callable."""
    scope = anyio.CancelScope()

    async def authenticate(handshake: Handshake) -> Identity:
        for turn in range(4):
            if turn == number and handshake.token == "interrupting":
                scope.cancel()
            await checkpoint()
        return Identity(id="alice")

    async def connect_once(port: int) -> None:
        try:
            async with dial("127.0.0.1", port, "interrupting") as client:
                await ItemReader(client).closed()
        except (ConnectionError, Closed, Refused):
            pass

    async with running(authenticate=authenticate) as hub:
        async with anyio.create_task_group() as tasks:
            with scope:
                async with anyio.create_task_group() as serving:
                    port = await serving.start(lambda task_status: serve(hub, port=0, task_status=task_status))
                    tasks.start_soon(connect_once, port)

        assert scope.cancelled_caught
        await still_works(hub)


OURS = (Session, Cohort, Layout, Reader, MemoryClient)


def census() -> Counter[type]:
    gc.collect()
    return Counter(type(thing) for thing in gc.get_objects() if isinstance(thing, OURS))


async def come_and_leave(hub: Hub, number: int) -> None:
    async with subscribe(hub, "events", f"user:{number % 7}") as client:
        if number % 3 == 0:
            hub.publish("events", number)
            await read_data(client, "events", 1)


async def test_a_thousand_clients_leave_no_object_behind() -> None:
    clock = ManualClock()
    before = census()
    async with running(clock=clock, wall_clock=clock.wall, tuning=FAST) as hub:
        clock.attach(hub)
        for number in range(1000):
            await come_and_leave(hub, number)
            clock.advance(0.001)
        # Times at which something was due are passed over when they come; the last is a heartbeat's.
        clock.advance(2 * FAST.heartbeat)
        await hub.publish_confirmed("durable", 1)
        await hub.publish_confirmed("durable", 2)
        after = census()

        assert hub.statistics().counters["connected"] == 1000
        assert is_empty(hub)
    assert after - before == Counter()


async def test_members_that_nobody_uses_any_more_are_forgotten() -> None:
    clock = ManualClock()
    async with running(clock=clock, wall_clock=clock.wall) as hub:
        clock.attach(hub)
        channels = set(hub.statistics().channels)
        for number in range(1000):
            hub.publish(f"user:{number}", number)
            if number % 10 == 0:
                async with subscribe(hub, f"user:{number}:private"):
                    pass
        assert len(hub.statistics().channels) == len(channels) + 1100
        for _ in range(3):
            clock.advance(301.0)
            await hub.publish_confirmed("durable", 1)
            await hub.publish_confirmed("durable", 1)

        assert set(hub.statistics().channels) == channels
