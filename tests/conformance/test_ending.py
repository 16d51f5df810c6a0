"""Heartbeats, and every way a connection ends."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Tuning

from .client import Reader, Refused, TransportUnderTest
from .harness import TRANSPORTS, ServedHub, serving

pytestmark = pytest.mark.anyio

SHOWING = [
    pytest.param(transport, id=transport.name) for transport in TRANSPORTS if transport.abilities.shows_heartbeats
]


@pytest.mark.parametrize("transport", SHOWING)
async def test_silence_is_filled_with_heartbeats(transport: TransportUnderTest) -> None:
    async with serving(transport, manual=True) as served, served.reader() as reader:
        served.clock.advance(19.0)
        await reader.ping()
        served.clock.advance(15.0)
        await reader.ping(id=2)
        served.clock.advance(20.5)
        heartbeat = await reader.client.receive()
        served.clock.advance(20.5)
        another = await reader.client.receive()

        assert heartbeat == another == []
        assert [] not in reader.frames


@pytest.mark.parametrize("transport", SHOWING)
async def test_data_is_a_heartbeat_too(transport: TransportUnderTest) -> None:
    async with serving(transport, manual=True) as served, served.reader("routing") as reader:
        for number in range(1, 6):
            served.clock.advance(15.0)
            served.hub.publish("routing", number)
            await reader.reach("routing", number)

        assert [] not in reader.frames


async def test_a_client_that_only_listens_is_healthy(transport: TransportUnderTest) -> None:
    async with serving(transport, manual=True) as served, served.reader("routing") as reader:
        for number in range(1, 20):
            served.clock.advance(600.0)
            served.hub.publish("routing", number)
            await reader.reach("routing", number)

        assert reader.seqs("routing") == list(range(1, 20))


async def test_a_client_that_has_pinged_once_is_closed_if_it_stops(transport: TransportUnderTest) -> None:
    async with serving(transport, manual=True) as served, served.reader() as reader:
        await reader.ping()
        served.clock.advance(59.0)
        await reader.ping()
        served.clock.advance(61.0)

        assert await reader.closed() == 4408


async def test_a_client_that_closes_leaves_nothing_behind(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader("routing") as reader:
        served.hub.publish("routing", 1)
        await reader.reach("routing", 1)
        await reader.client.close()
        await served.all_disconnected()

        _is_empty(served)


async def test_a_client_that_vanishes_leaves_nothing_behind(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader("routing", "user:1") as reader:
        await reader.client.vanish()
        while served.hub.statistics().sessions:
            served.hub.publish("routing", 1)
            await checkpoint()

        _is_empty(served)


async def test_a_client_that_vanishes_before_its_token_leaves_nothing_behind(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader(token=None) as reader:
        await reader.client.vanish()
        await served.all_disconnected()

        _is_empty(served)


async def test_a_client_that_vanishes_while_its_token_is_checked_leaves_nothing_behind(
    transport: TransportUnderTest,
) -> None:
    async with serving(transport) as served, served.reader(token=None) as reader:
        await reader.client.send({"action": "auth", "token": "alice"}, {"action": "subscribe", "channels": ["routing"]})
        await reader.client.vanish()
        await served.all_disconnected()
        async with served.reader("routing") as other:
            served.hub.publish("routing", 1)
            await other.reach("routing", 1)
            await other.client.vanish()
        await served.all_disconnected()

        _is_empty(served)


async def test_many_clients_connect_and_leave(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        for number in range(50):
            async with served.reader("routing", f"user:{number % 3}") as reader:
                if number % 2:
                    await reader.client.vanish()
                else:
                    await reader.client.close()
        await served.all_disconnected()

        statistics = served.hub.statistics()
        assert statistics.counters["connected"] == statistics.counters["disconnected"] == 50
        _is_empty(served)


async def test_many_clients_that_resume_at_once_are_served(transport: TransportUnderTest) -> None:
    """As after a restart, each with its position."""
    finished: list[int] = []

    async def resume(number: int) -> None:
        since = {"channel": "routing", "since": {"epoch": epoch, "seq": number % 10}}
        async with served.reader(since) as reader:
            await reader.reach("routing", 10)
            assert reader.seqs("routing") == list(range(number % 10 + 1, 11))
            finished.append(number)

    async with serving(transport) as served:
        for number in range(10):
            served.hub.publish("routing", number)
        epoch = served.hub.statistics().channels["routing"].epoch
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(resume, number)
        for _ in range(100):
            await checkpoint()
        await served.all_disconnected()

        assert sorted(finished) == list(range(100))
        _is_empty(served)


async def test_a_drain_tells_each_client_when_to_reconnect(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader("routing") as one, served.reader() as other:
        served.hub.publish("routing", "the last item")
        await served.hub.shutdown(grace=20.0)
        codes = [await one.closed(), await other.closed()]

        drains = [reader.control("$drain")[0]["in"] for reader in (one, other)]
        assert codes == [1012, 1012]
        assert sorted(drains) == [0.0, 10.0]
        assert one.data("routing") == ["the last item"]
        _is_empty(served)


async def test_a_drain_waits_for_pending_items(transport: TransportUnderTest) -> None:
    tuning = Tuning(interval=0.05, rate=None, max_frames=1)
    async with serving(transport, tuning=tuning) as served, served.reader("routing", "alerts") as reader:
        for number in range(300):
            served.hub.publish("routing", number)
        served.hub.publish("alerts", "on its way to the journal")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.hub.shutdown, 10.0)
            await reader.closed()

        assert reader.data("routing") == list(range(300))
        assert reader.data("alerts") == ["on its way to the journal"]


async def test_a_drain_closes_clients_that_have_sent_no_token(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader(token=None) as reader:
        await served.hub.shutdown(grace=0.1)

        assert await reader.closed() == 1012


async def test_a_draining_hub_refuses_new_clients(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as reader:
        await served.hub.shutdown(grace=0.1)

        assert await _try_to_connect(served) in {503, 1012, None}
        assert await reader.closed() == 1012
        _is_empty(served)


async def test_a_client_that_does_not_read_cannot_delay_a_shutdown(transport: TransportUnderTest) -> None:
    async with serving(transport, tuning=Tuning(interval=0.001, rate=None)) as served, served.reader("routing"):
        while not served.hub.statistics().stalled:
            served.hub.publish("routing", "x" * 1000)
            await checkpoint()
        for _ in range(1000):
            served.hub.publish("routing", "x" * 1000)
        await served.hub.shutdown(grace=0.2)

        _is_empty(served)


async def _try_to_connect(served: ServedHub) -> int | None:
    """The status or close code for a new client; None if the connection is refused."""
    try:
        async with served.connect("alice") as client:
            return await Reader(client).closed()
    except Refused as refused:
        return refused.status
    except ConnectionError:
        return None


def _is_empty(served: ServedHub) -> None:
    statistics = served.hub.statistics()
    assert statistics.sessions == statistics.subscriptions == statistics.subscription_sets == statistics.cohorts == 0
    assert statistics.stalled == 0
    for channel in statistics.channels.values():
        assert channel.watchers == 0
        assert channel.ledger.is_balanced
        assert channel.ledger.pending == 0
