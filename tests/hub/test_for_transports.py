"""What the hub offers to transports that take items and commands by requests of their own."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Channel, HubClosed, HubError, InvalidItem, ItemTooLarge, Receipt, Tuning, UnknownChannel
from analytics_hub.hub.journal import Waiter
from analytics_hub.transports.memory import connect

from .rig import MoodyJournal, new_hub, running

pytestmark = pytest.mark.anyio

CHANNELS = (Channel("events"), Channel("table", mode="table"), Channel("durable", mode="durable"), Channel("user:*"))


async def test_what_waits_for_the_journal_is_handed_out() -> None:
    async with running(CHANNELS) as hub:
        at_once = hub.submit("events", 1)
        later = [hub.submit("durable", number) for number in range(3)]

        assert isinstance(at_once, Receipt)
        assert at_once.seq == 1
        assert [(await one.wait()).seq for one in later if isinstance(one, Waiter)] == [1, 2, 3]


async def test_who_stops_waiting_leaves_nothing_behind() -> None:
    journal = MoodyJournal()
    async with running(CHANNELS, journal=journal) as hub:
        journal.gate, journal.arrived = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.publish_confirmed, "durable", 1)
            await journal.arrived.wait()
            tasks.cancel_scope.cancel()
        journal.gate.set()
        while not hub.statistics().channels["durable"].head:
            await checkpoint()

        assert not hub._clerk.waiters


async def test_a_key_is_removed_once() -> None:
    async with running(CHANNELS) as hub:
        hub.publish("table", 1, key="A")
        removed = hub.remove("table", "A")

        assert removed == Receipt(hub.statistics().channels["table"].epoch, 2)
        assert hub.remove("table", "A") is None
        with pytest.raises(InvalidItem, match="has no keys"):
            hub.remove("events", "A")


async def test_it_is_for_the_hubs_own_thread_and_time() -> None:
    hub = new_hub(CHANNELS)
    with pytest.raises(HubClosed):
        hub.remove("table", "A")
    assert not hub.is_open
    async with running(CHANNELS) as hub:
        assert hub.is_open
        for call in (lambda: hub.submit("events", 1), lambda: hub.remove("table", "A")):
            with pytest.raises(HubError, match="belongs to the hub's event loop"):
                await anyio.to_thread.run_sync(call)
        await hub.shutdown()
        assert not hub.is_open


async def test_a_session_is_found_by_the_id_it_was_told() -> None:
    async with running(CHANNELS) as hub, connect(hub) as client:
        assert client.session is not None
        assert hub.session(client.session.id) is client.session
        assert hub.session("guessed") is None
        client.leave()
        assert hub.session(client.session.id) is None


async def test_a_name_falls_under_a_declaration() -> None:
    async with running(CHANNELS) as hub:
        assert hub.declaration("user:7").name == "user:*"
        assert "user:7" not in hub.statistics().channels
        with pytest.raises(UnknownChannel):
            hub.declaration("nosuch")


async def test_an_item_that_is_too_long_can_be_told_from_other_bad_ones() -> None:
    async with running(CHANNELS, tuning=Tuning(max_item_bytes=100)) as hub:
        with pytest.raises(ItemTooLarge, match="at most 100 are right"):
            hub.publish("events", "x" * 100)
        with pytest.raises(ItemTooLarge):
            await anyio.to_thread.run_sync(hub.publish, "events", "x" * 100)
