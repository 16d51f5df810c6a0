"""Durable channels and their journal: an item is committed before it is delivered, across restarts and failures."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Channel, JournalError, Receipt
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import subscribe

from .rig import HANG, FakeTransport, MoodyJournal, is_empty, new_hub, plug_in, read, read_data, running

pytestmark = pytest.mark.anyio

SMALL = (Channel("durable", mode="durable", keep_items=4), Channel("other", mode="durable"), Channel("events"))


async def test_nothing_is_delivered_before_it_is_committed() -> None:
    journal = MoodyJournal()
    async with running(SMALL, journal=journal) as hub, subscribe(hub, "durable", "events") as client:
        journal.gate, journal.arrived = anyio.Event(), anyio.Event()
        hub.publish("durable", "slow")
        await journal.arrived.wait()
        hub.publish("events", "fast")
        first = await read(client, lambda item: "seq" in item)
        head = hub.statistics().channels["durable"].head
        journal.gate.set()
        then = await read(client, lambda item: "seq" in item)

        assert [item["data"] for item in first] == ["fast"]
        assert head == 0
        assert [item["data"] for item in then] == ["slow"]


async def test_items_published_during_an_append_are_one_batch() -> None:
    journal = MoodyJournal()
    async with running(SMALL, journal=journal) as hub, subscribe(hub, "durable") as client:
        journal.gate, journal.arrived = anyio.Event(), anyio.Event()
        hub.publish("durable", 0)
        await journal.arrived.wait()
        for number in range(1, 100):
            hub.publish("durable", number)
        journal.gate.set()

        assert await read_data(client, "durable", 100) == list(range(100))
        assert journal.appended == [1, 99]


@pytest.mark.parametrize("fault", [JournalError("the disk is full"), OSError("the disk is full"), ValueError("a bug")])
async def test_a_refused_item_raises_where_it_was_published(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """No client gets it, the next item has its number, and other channels go on."""
    journal = MoodyJournal()
    async with running(SMALL, journal=journal) as hub, subscribe(hub, "durable", "events") as client:
        kept = await hub.publish_confirmed("durable", "kept")
        journal.fault = fault
        with pytest.raises(JournalError) as refused:
            await hub.publish_confirmed("durable", "refused")
        hub.publish("durable", "refused as well")
        hub.publish("events", "unharmed")
        first = await read_data(client, "events", 1)
        while hub.statistics().counters.get("journal-rejected", 0) < 2:
            await checkpoint()
        journal.fault = None
        healed = await hub.publish_confirmed("durable", "healed")

        assert str(fault) in str(refused.value)
        assert (kept.seq, healed.seq) == (1, 2)
        assert kept.epoch == healed.epoch
        assert first == ["unharmed"]
        assert await read_data(client, "durable", 1) == ["healed"]
        assert hub.statistics().counters["journal-rejected"] == 2
        assert "the journal refused 1 items of durable" in caplog.text


async def test_a_failing_channel_leaves_the_other_alone() -> None:
    class Picky(MemoryJournal):
        async def append(self, channel: str, first: int, items: object) -> int:
            if channel == "durable":
                raise JournalError("not this one")
            return await super().append(channel, first, items)  # type: ignore[arg-type]

    async with running(SMALL, journal=Picky()) as hub, subscribe(hub, "other") as client:
        hub.publish("durable", 1)
        with pytest.raises(JournalError):
            await hub.publish_confirmed("durable", 2)
        receipt = await hub.publish_confirmed("other", 3)

        assert receipt.seq == 1
        assert await read_data(client, "other", 1) == [3]


async def test_a_client_resumes_across_a_restart() -> None:
    """Two hubs, one journal: the epoch and the numbers go on."""
    journal = MemoryJournal()
    async with running(SMALL, journal=journal) as first, subscribe(first, "durable") as client:
        receipt = await first.publish_confirmed("durable", 0)
        assert await read_data(client, "durable", 1) == [0]
        for number in range(1, 20):
            await first.publish_confirmed("durable", number)

    async with running(SMALL, journal=journal) as second:
        since = {"channel": "durable", "since": {"epoch": receipt.epoch, "seq": receipt.seq}}
        async with subscribe(second, since) as client:
            after = await second.publish_confirmed("durable", 20)

            assert await read_data(client, "durable", 20) == list(range(1, 21))
            assert after == Receipt(receipt.epoch, 21)
            (session,) = second.sessions
            assert second.ledger(session)["durable"].delivered == 20


async def test_history_survives_a_restart() -> None:
    journal = MemoryJournal()
    async with running(SMALL, journal=journal) as first:
        for number in range(10):
            await first.publish_confirmed("durable", number)

    async with running(SMALL, journal=journal) as second:
        async with subscribe(second, {"channel": "durable", "last": 3}) as client:
            assert await read_data(client, "durable", 3) == [7, 8, 9]
        async with subscribe(second, {"channel": "durable", "snapshot": True}) as client:
            assert await read_data(client, "durable", 10) == list(range(10))


async def test_items_that_the_journal_dropped_before_a_restart_are_a_gap() -> None:
    journal = MemoryJournal(max_items=3)
    async with running(SMALL, journal=journal) as first:
        receipt = await first.publish_confirmed("durable", 0)
        for number in range(1, 10):
            await first.publish_confirmed("durable", number)

    async with running(SMALL, journal=journal) as second:
        since = {"channel": "durable", "since": {"epoch": receipt.epoch, "seq": 1}}
        async with subscribe(second, since) as client:
            items = await read(client, lambda item: item.get("seq") == 10)

            gap = items[0]
            assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (2, 7, 6, "retention")
            assert [item["data"] for item in items[1:]] == [7, 8, 9]


async def test_other_channels_have_a_new_epoch_after_a_restart() -> None:
    journal = MemoryJournal()
    epochs = []
    for _ in range(2):
        async with running(SMALL, journal=journal) as hub:
            hub.publish("events", 1)
            epochs.append({name: channel.epoch for name, channel in hub.statistics().channels.items()})

    assert epochs[0]["durable"] == epochs[1]["durable"]
    assert epochs[0]["events"] != epochs[1]["events"]
    assert epochs[0]["durable"] != epochs[0]["other"]


async def test_a_read_that_fails_is_tried_again() -> None:
    journal = MoodyJournal()
    clock = ManualClock()
    async with running(SMALL, journal=journal, clock=clock, wall_clock=clock.wall) as hub:
        clock.attach(hub)
        for number in range(20):
            await hub.publish_confirmed("durable", number)
        journal.fault = OSError("a bad sector")
        transport = FakeTransport()
        plug_in(hub, transport, {"channel": "durable", "last": 20})
        while "journal-read-failed" not in hub.statistics().counters:
            await checkpoint()
        journal.fault = None
        clock.advance(1.5)
        await transport.until(lambda: '"seq":20,"type"' in transport.text)

        assert [f'"seq":{seq},"type"' in transport.text for seq in range(1, 21)] == [True] * 20
        assert hub.statistics().counters["journal-read-failed"] == 1


async def test_a_journal_that_cannot_be_opened_ends_the_hub_at_once() -> None:
    """A hub with an empty history would be worse; and it may be entered again."""
    journal = MoodyJournal()
    journal.fault = JournalError("locked by another process")
    hub = new_hub(SMALL, journal=journal)
    with anyio.fail_after(HANG):
        with pytest.raises(JournalError, match="locked"):
            await hub.__aenter__()
        journal.fault = None
        async with hub, subscribe(hub, "durable") as client:
            await hub.publish_confirmed("durable", 1)

            assert await read_data(client, "durable", 1) == [1]


async def test_a_cancelled_confirmation_still_publishes_the_item() -> None:
    """Cancelled while the journal appends: the item is kept, and the numbering is not disturbed."""
    journal = MoodyJournal()
    async with running(SMALL, journal=journal) as hub, subscribe(hub, "durable") as client:
        journal.gate, journal.arrived = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.publish_confirmed, "durable", "kept")
            await journal.arrived.wait()
            tasks.cancel_scope.cancel()
        journal.gate.set()
        receipt = await hub.publish_confirmed("durable", "next")

        assert receipt.seq == 2
        assert await read_data(client, "durable", 2) == ["kept", "next"]


async def test_a_session_that_ends_during_a_journal_read_leaves_nothing() -> None:
    journal = MoodyJournal()
    async with running(SMALL, journal=journal) as hub:
        for number in range(20):
            await hub.publish_confirmed("durable", number)
        journal.gate, journal.arrived = anyio.Event(), anyio.Event()
        session = plug_in(hub, FakeTransport(), {"channel": "durable", "last": 20})
        await journal.arrived.wait()
        hub.gateway.disconnect(session)
        journal.gate.set()
        async with subscribe(hub, {"channel": "durable", "last": 20}) as client:
            assert await read_data(client, "durable", 20) == list(range(20))
        assert is_empty(hub)
