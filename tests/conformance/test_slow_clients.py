"""What a client that does not read loses, and what it does not; the ledger says exactly which."""

from __future__ import annotations

from itertools import count

import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Channel, Tuning
from analytics_hub.core.ledger import Ledger

from .client import Door, Reader, passed_over
from .doors import House, serving

pytestmark = pytest.mark.anyio

PADDING = "x" * 1000
"""Makes an item so large that a client that does not read is felt after some dozens of them."""
NARROW = Tuning(interval=0.001, rate=None, buffer_items=8)

CHANNELS = (
    Channel("events", keep_items=64),
    Channel("table", mode="table", key="lp"),
    Channel("latest", mode="latest"),
    Channel("durable", mode="durable", keep_items=16),
)


async def publish_until_stalled(house: House, channel: str, more: int) -> int:
    """Publish until a client takes nothing more, and `more` items after that; how many it were."""
    numbers = count(1)
    while not (statistics := house.hub.statistics()).stalled:
        # Not faster than flushes: what nobody could have taken in time would be lost for another reason.
        if not statistics.channels[channel].ledger.pending:
            house.hub.publish(channel, {"lp": f"LP{next(numbers) % 50}", "padding": PADDING, "n": 0})
        await checkpoint()
    for number in range(more):
        house.hub.publish(channel, {"lp": f"LP{number % 50}", "padding": PADDING, "n": number})
    await wait_committed(house, channel)
    return house.hub.statistics().channels[channel].head


async def wait_committed(house: House, channel: str) -> None:
    if channel == "durable":
        await house.hub.publish_confirmed(channel, {"padding": PADDING, "n": -1})


async def test_a_gap_says_exactly_what_is_missing(door: Door) -> None:
    async with serving(door, channels=CHANNELS, tuning=NARROW) as house, house.reader("events") as reader:
        head = await publish_until_stalled(house, "events", more=200)
        await reader.reach("events", head)

        gaps = reader.gaps("events")
        assert gaps
        assert all(gap["count"] == gap["to"] - gap["from"] + 1 for gap in gaps)
        assert {gap["reason"] for gap in gaps} == {"buffer"}
        # In the order of the wire: a gap stands where the items it covers are missing.
        story: list[int] = []
        for item in reader.items:
            story += passed_over([item]) if item["type"] == "$gap" else [item["seq"]] if "seq" in item else []
        assert story == list(range(1, head + 1))


async def test_the_ledger_is_what_the_client_saw(door: Door) -> None:
    async with serving(door, channels=CHANNELS, tuning=NARROW) as house, house.reader("events") as reader:
        head = await publish_until_stalled(house, "events", more=200)
        while_stalled = reader.ledger(house.hub, "events")
        await reader.reach("events", head)
        at_the_end = reader.ledger(house.hub, "events")

        lost = sum(gap["count"] for gap in reader.gaps("events"))
        assert while_stalled.is_balanced
        assert while_stalled.pending > 0
        assert at_the_end == Ledger(published=head, delivered=len(reader.of("events")), dropped=lost)
        assert house.hub.statistics().channels["events"].ledger == at_the_end


async def test_a_table_skips_what_is_superseded_and_never_the_newest(door: Door) -> None:
    async with serving(door, channels=CHANNELS, tuning=NARROW) as house, house.reader("table") as reader:
        head = await publish_until_stalled(house, "table", more=2000)
        await reader.reach("table", head)

        newest = {item["key"]: item["data"]["n"] for item in reader.of("table")}
        assert newest == {f"LP{number % 50}": number for number in range(1950, 2000)}
        assert reader.gaps("table") == []
        assert reader.seqs("table") == sorted(set(reader.seqs("table")))
        seen = len(reader.of("table"))
        assert seen < head
        assert reader.ledger(house.hub, "table") == Ledger(published=head, delivered=seen, conflated=head - seen)


async def test_latest_ends_with_the_last(door: Door) -> None:
    async with serving(door, channels=CHANNELS, tuning=NARROW) as house, house.reader("latest") as reader:
        head = await publish_until_stalled(house, "latest", more=100)
        await reader.reach("latest", head)

        seen = len(reader.of("latest"))
        assert reader.of("latest")[-1]["data"]["n"] == 99
        assert reader.ledger(house.hub, "latest") == Ledger(published=head, delivered=seen, conflated=head - seen)


async def test_a_durable_channel_loses_nothing(door: Door) -> None:
    """Memory holds the last 16 items; what the client missed before comes from the journal, on the same connection."""
    async with serving(door, channels=CHANNELS, tuning=NARROW) as house, house.reader("durable") as reader:
        head = await publish_until_stalled(house, "durable", more=600)
        await reader.reach("durable", head)

        assert reader.seqs("durable") == list(range(1, head + 1))
        assert reader.gaps("durable") == []
        assert reader.ledger(house.hub, "durable") == Ledger(published=head, delivered=head)


async def test_a_burst_on_one_channel_evicts_nothing_of_another(door: Door) -> None:
    async with (
        serving(door, channels=CHANNELS, tuning=NARROW) as house,
        house.reader("events", "table", "latest", "durable") as reader,
    ):
        await publish_until_stalled(house, "events", more=0)
        house.hub.publish("table", {"lp": "ONE"})
        house.hub.publish("latest", "the only one")
        await house.hub.publish_confirmed("durable", "safe")
        for number in range(500):
            house.hub.publish("events", {"padding": PADDING, "n": number})
        head = house.hub.statistics().channels["events"].head
        await reader.reach("events", head)
        for channel in ("table", "latest", "durable"):
            await reader.reach(channel, 1)

        assert reader.gaps("events")
        assert [reader.seqs(channel) for channel in ("table", "latest", "durable")] == [[1], [1], [1]]


async def test_a_slow_client_costs_a_fast_one_nothing(door: Door) -> None:
    async with (
        serving(door, channels=CHANNELS, tuning=NARROW) as house,
        house.reader("events") as slow,
        house.reader("events") as fast,
    ):
        published = 0
        while not house.hub.statistics().stalled:
            for _ in range(8):
                house.hub.publish("events", {"padding": PADDING})
            published += 8
            await fast.reach("events", published)
        for _ in range(50):
            for _ in range(8):
                house.hub.publish("events", {"padding": PADDING})
            published += 8
            await fast.reach("events", published)
        assert house.hub.statistics().stalled == 1
        await slow.reach("events", published)

        assert fast.seqs("events") == list(range(1, published + 1))
        assert fast.gaps("events") == []
        assert slow.gaps("events")
        assert len(slow.of("events")) + len(passed_over(slow.gaps("events"))) == published


async def test_who_catches_up_is_fast_again(door: Door) -> None:
    async with serving(door, channels=CHANNELS, tuning=NARROW) as house, house.reader("events") as reader:
        head = await publish_until_stalled(house, "events", more=200)
        await reader.reach("events", head)
        gaps = len(reader.gaps("events"))
        for number in range(50):
            house.hub.publish("events", number)
            await reader.reach("events", head + number + 1)

        assert house.hub.statistics().stalled == 0
        assert house.hub.statistics().cohorts == 1
        assert len(reader.gaps("events")) == gaps


async def test_control_items_do_not_wait_behind_data(door: Door) -> None:
    async with serving(door, channels=CHANNELS, tuning=NARROW) as house, house.reader("events") as reader:
        head = await publish_until_stalled(house, "events", more=200)
        await reader.client.send({"action": "ping", "id": "urgent"})
        while house.hub.statistics().channels["events"].ledger.delivered == len(reader.of("events")):
            await reader.until(lambda item: True)
        await reader.next("$pong")

        assert reader.seqs("events")[-1] < head


async def test_a_client_that_never_reads_is_closed(door: Door) -> None:
    tuning = Tuning(interval=0.001, rate=None, buffer_items=8)
    async with (
        serving(door, channels=CHANNELS, tuning=tuning, manual=True) as house,
        house.reader("events") as deaf,
        house.reader("latest") as witness,
    ):
        while not house.hub.statistics().stalled:
            house.hub.publish("events", {"padding": PADDING})
            house.clock.advance(0.001)
            await checkpoint()
        for _ in range(3):
            house.hub.publish("events", "never taken")
        house.clock.advance(59.0)
        house.hub.publish("latest", 1)
        await witness.reach("latest", 1)
        before = house.hub.statistics()
        house.clock.advance(2.0)
        house.hub.publish("latest", 2)
        await witness.reach("latest", 2)
        after = house.hub.statistics()
        code = await deaf.closed()

        assert (before.sessions, after.sessions) == (2, 1)
        assert after.counters["closed-4503"] == 1
        assert code == 4503
        seen = len(deaf.of("events"))
        assert after.channels["events"].ledger == Ledger(published=seen + 3, delivered=seen, abandoned=3)


async def test_a_durable_subscriber_has_less_time(door: Door) -> None:
    """What it has not taken is kept for it in the journal; it is better off to reconnect."""
    tuning = Tuning(interval=0.001, rate=None)
    async with serving(door, channels=CHANNELS, tuning=tuning, manual=True) as house, house.reader("durable"):
        while not house.hub.statistics().stalled:
            await house.hub.publish_confirmed("durable", {"padding": PADDING})
            house.clock.advance(0.001)
            await checkpoint()
        house.clock.advance(11.0)
        await house.gone()

        assert house.hub.statistics().counters["closed-4503"] == 1


async def test_the_rate_holds_back_and_says_so(door: Door) -> None:
    tuning = Tuning(rate=10, buffer_items=4)
    async with (
        serving(door, channels=CHANNELS, tuning=tuning, manual=True) as house,
        house.reader("events") as reader,
    ):
        for number in range(30):
            house.hub.publish("events", number)
        await reader.reach("events", 10)
        ledger = reader.ledger(house.hub, "events")
        house.clock.advance(1.0)
        await reader.reach("events", 30)

        (gap,) = reader.gaps("events")
        assert ledger == Ledger(published=30, delivered=10, dropped=16, pending=4)
        assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (11, 26, 16, "rate")
        assert reader.data("events") == [*range(10), *range(26, 30)]


async def test_one_flooded_client_among_others(door: Door) -> None:
    """Its own subscription, its own loss; the others' accounts are without a scratch."""
    async with (
        serving(door, channels=CHANNELS, tuning=NARROW) as house,
        house.reader("events") as flooded,
        house.reader("latest", "durable") as other,
    ):
        head = await publish_until_stalled(house, "events", more=300)
        for number in range(20):
            house.hub.publish("latest", number)
            await house.hub.publish_confirmed("durable", number)
            await other.reach("durable", number + 1)
        await flooded.reach("events", head)

        assert other.seqs("durable") == list(range(1, 21))
        assert other.control("$gap") == []
        assert _is_whole(flooded, head)


def _is_whole(reader: Reader, head: int) -> bool:
    return sorted(reader.seqs("events") + passed_over(reader.gaps("events"))) == list(range(1, head + 1))
