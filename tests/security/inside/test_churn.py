"""C08, D17: clients that have left, and channels that were used once, leave no object."""

from __future__ import annotations

import gc
import sys
from collections import Counter

import pytest

from analytics_hub import Channel, Handshake, Hub, anonymous
from analytics_hub.core.cohort import Cohort, SubscriptionSet
from analytics_hub.core.reader import Reader
from analytics_hub.core.session import Session
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import MemoryClient, subscribe

from ...hub.rig import FAST, FakeTransport, is_empty, plug_in, read_data, running

pytestmark = pytest.mark.anyio

OURS = (Session, Cohort, SubscriptionSet, Reader, MemoryClient)
READER = anonymous(Handshake())
# What a client leaves does not depend on the event loop, so only one of them has 10,000.
CLIENTS = {"asyncio": 10_000, "asyncio+uvloop": 1_000, "trio": 1_000}


def census() -> Counter[type]:
    gc.collect()
    return Counter(type(thing) for thing in gc.get_objects() if isinstance(thing, OURS))


async def connect_and_leave(hub: Hub, number: int) -> None:
    async with subscribe(hub, "events", f"user:{number % 7}", identity=READER) as client:
        if number % 3 == 0:
            hub.publish("events", number)
            await read_data(client, "events", 1)


@pytest.fixture
def clients(request: pytest.FixtureRequest) -> int:
    backend = request.node.callspec.id
    return CLIENTS[backend]


async def test_c08_clients_that_have_left_leave_no_object(clients: int) -> None:
    clock = ManualClock()
    before = census()
    async with running(clock=clock, wall_clock=clock.wall, tuning=FAST) as hub:
        clock.attach(hub)
        for number in range(clients):
            await connect_and_leave(hub, number)
            clock.advance(0.001)
        # Entries of the schedule are dropped when they are due; the last one is a heartbeat.
        clock.advance(2 * FAST.heartbeat)
        await hub.publish_confirmed("durable", 1)
        await hub.publish_confirmed("durable", 2)
        after = census()

        assert hub.statistics().counters["connected"] == clients
        assert is_empty(hub)
    assert after - before == Counter()


async def test_d17_channels_used_once_are_forgotten() -> None:
    """By publishing or by subscribing; a member without subscribers stays for some time."""
    clock = ManualClock()
    async with running(clock=clock, wall_clock=clock.wall) as hub:
        clock.attach(hub)
        channels = set(hub.statistics().channels)
        for number in range(1000):
            hub.publish(f"user:{number}", number)
            if number % 10 == 0:
                async with subscribe(hub, f"user:{number}:private", identity=READER):
                    pass
        assert len(hub.statistics().channels) == len(channels) + 1100
        await forget_members(hub, clock)

        assert set(hub.statistics().channels) == channels


async def forget_members(hub: Hub, clock: ManualClock) -> None:
    for _ in range(3):
        clock.advance(301.0)
        for _ in range(2):
            await hub.publish_confirmed("latest", 1)
            await hub.publish_confirmed("durable", 1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_d17_the_memory_of_100000_channels_is_released() -> None:
    """Ten times as many as may exist at a time, each published to once, some with a subscriber."""
    clock = ManualClock()
    channels = [Channel("once:*"), Channel("latest", mode="latest"), Channel("durable", mode="durable", keep_items=1)]
    transport = FakeTransport(lambda frame: transport.writes.clear())
    before = 0
    async with running(channels, clock=clock, wall_clock=clock.wall) as hub:
        clock.attach(hub)
        for number in range(11):
            if number == 1:  # by now every structure has reached its largest size
                gc.collect()
                before = sys.getallocatedblocks()
            for member in range(10_000):
                name = f"once:{number}:{member}"
                if member % 2000 == 0:
                    session = plug_in(hub, transport, name, identity=READER)
                    hub.publish(name, member)
                    hub.gateway.disconnect(session)
                else:
                    hub.publish(name, member)
            await forget_members(hub, clock)
        gc.collect()

        assert len(hub.statistics().channels) == 2
        assert sys.getallocatedblocks() - before < 1000  # one for every hundredth channel
