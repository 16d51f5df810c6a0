"""Signs of life, and every way a connection ends."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Tuning

from .client import Door, Reader, Refused
from .doors import DOORS, House, serving

pytestmark = pytest.mark.anyio

SHOWING = [pytest.param(door, id=door.name) for door in DOORS if door.abilities.shows_heartbeats]


@pytest.mark.parametrize("door", SHOWING)
async def test_silence_is_filled_with_heartbeats(door: Door) -> None:
    async with serving(door, manual=True) as house, house.reader() as reader:
        house.clock.advance(19.0)
        await reader.ping()
        house.clock.advance(15.0)
        await reader.ping(id=2)
        house.clock.advance(20.5)
        heartbeat = await reader.client.receive()
        house.clock.advance(20.5)
        another = await reader.client.receive()

        assert heartbeat == another == []
        assert [] not in reader.frames


@pytest.mark.parametrize("door", SHOWING)
async def test_data_is_a_heartbeat_too(door: Door) -> None:
    async with serving(door, manual=True) as house, house.reader("routing") as reader:
        for number in range(1, 6):
            house.clock.advance(15.0)
            house.hub.publish("routing", number)
            await reader.reach("routing", number)

        assert [] not in reader.frames


async def test_a_client_that_only_listens_is_healthy(door: Door) -> None:
    async with serving(door, manual=True) as house, house.reader("routing") as reader:
        for number in range(1, 20):
            house.clock.advance(600.0)
            house.hub.publish("routing", number)
            await reader.reach("routing", number)

        assert reader.seqs("routing") == list(range(1, 20))


async def test_a_client_that_once_pinged_must_go_on(door: Door) -> None:
    async with serving(door, manual=True) as house, house.reader() as reader:
        await reader.ping()
        house.clock.advance(59.0)
        await reader.ping()
        house.clock.advance(61.0)

        assert await reader.closed() == 4408


async def test_a_client_that_says_goodbye_leaves_nothing(door: Door) -> None:
    async with serving(door) as house, house.reader("routing") as reader:
        house.hub.publish("routing", 1)
        await reader.reach("routing", 1)
        await reader.client.close()
        await house.gone()

        _is_empty(house)


async def test_a_client_that_vanishes_leaves_nothing(door: Door) -> None:
    async with serving(door) as house, house.reader("routing", "user:1") as reader:
        await reader.client.vanish()
        while house.hub.statistics().sessions:
            house.hub.publish("routing", 1)
            await checkpoint()

        _is_empty(house)


async def test_a_client_that_vanishes_before_its_token_leaves_nothing(door: Door) -> None:
    async with serving(door) as house, house.reader(token=None) as reader:
        await reader.client.vanish()
        await house.gone()

        _is_empty(house)


async def test_a_client_that_vanishes_while_its_token_is_checked_leaves_nothing(door: Door) -> None:
    async with serving(door) as house, house.reader(token=None) as reader:
        await reader.client.send({"action": "auth", "token": "alice"}, {"action": "subscribe", "channels": ["routing"]})
        await reader.client.vanish()
        await house.gone()
        async with house.reader("routing") as other:
            house.hub.publish("routing", 1)
            await other.reach("routing", 1)
            await other.client.vanish()
        await house.gone()

        _is_empty(house)


async def test_many_come_and_go(door: Door) -> None:
    async with serving(door) as house:
        for number in range(50):
            async with house.reader("routing", f"user:{number % 3}") as reader:
                if number % 2:
                    await reader.client.vanish()
                else:
                    await reader.client.close()
        await house.gone()

        statistics = house.hub.statistics()
        assert statistics.counters["connected"] == statistics.counters["disconnected"] == 50
        _is_empty(house)


async def test_a_storm_of_clients_is_served(door: Door) -> None:
    """All at once, as after a restart, each with the position it had."""
    served: list[int] = []

    async def come(number: int) -> None:
        since = {"channel": "routing", "since": {"epoch": epoch, "seq": number % 10}}
        async with house.reader(since) as reader:
            await reader.reach("routing", 10)
            assert reader.seqs("routing") == list(range(number % 10 + 1, 11))
            served.append(number)

    async with serving(door) as house:
        for number in range(10):
            house.hub.publish("routing", number)
        epoch = house.hub.statistics().channels["routing"].epoch
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(come, number)
        for _ in range(100):
            await checkpoint()
        await house.gone()

        assert sorted(served) == list(range(100))
        _is_empty(house)


async def test_a_drain_tells_every_client_when_to_come_back(door: Door) -> None:
    async with serving(door) as house, house.reader("routing") as one, house.reader() as other:
        house.hub.publish("routing", "the last word")
        await house.hub.shutdown(grace=20.0)
        codes = [await one.closed(), await other.closed()]

        drains = [reader.control("$drain")[0]["in"] for reader in (one, other)]
        assert codes == [1012, 1012]
        assert sorted(drains) == [0.0, 10.0]
        assert one.data("routing") == ["the last word"]
        _is_empty(house)


async def test_a_drain_waits_for_what_is_pending(door: Door) -> None:
    tuning = Tuning(interval=0.05, rate=None, max_frames=1)
    async with serving(door, tuning=tuning) as house, house.reader("routing", "alerts") as reader:
        for number in range(300):
            house.hub.publish("routing", number)
        house.hub.publish("alerts", "on its way to the journal")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.hub.shutdown, 10.0)
            await reader.closed()

        assert reader.data("routing") == list(range(300))
        assert reader.data("alerts") == ["on its way to the journal"]


async def test_a_drain_reaches_who_has_not_said_who_it_is(door: Door) -> None:
    async with serving(door) as house, house.reader(token=None) as reader:
        await house.hub.shutdown(grace=0.1)

        assert await reader.closed() == 1012


async def test_nobody_is_let_in_any_more(door: Door) -> None:
    async with serving(door) as house, house.reader() as reader:
        await house.hub.shutdown(grace=0.1)

        assert await _knock(house) in {503, 1012, None}
        assert await reader.closed() == 1012
        _is_empty(house)


async def test_a_client_that_does_not_read_cannot_hold_up_a_shutdown(door: Door) -> None:
    async with serving(door, tuning=Tuning(interval=0.001, rate=None)) as house, house.reader("routing"):
        while not house.hub.statistics().stalled:
            house.hub.publish("routing", "x" * 1000)
            await checkpoint()
        for _ in range(1000):
            house.hub.publish("routing", "x" * 1000)
        await house.hub.shutdown(grace=0.2)

        _is_empty(house)


async def _knock(house: House) -> int | None:
    """What somebody is told who comes now; None where nobody listens any more."""
    try:
        async with house.connect("alice") as client:
            return await Reader(client).closed()
    except Refused as refused:
        return refused.status
    except ConnectionError:
        return None


def _is_empty(house: House) -> None:
    statistics = house.hub.statistics()
    assert statistics.sessions == statistics.subscriptions == statistics.layouts == statistics.cohorts == 0
    assert statistics.stalled == 0
    for channel in statistics.channels.values():
        assert channel.watchers == 0
        assert channel.ledger.is_balanced
        assert channel.ledger.pending == 0
