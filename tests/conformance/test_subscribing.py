"""Subscriptions: how they start, what they deliver, and how they end."""

from __future__ import annotations

import pytest

from analytics_hub import Tuning

from .client import TransportUnderTest
from .harness import serving

pytestmark = pytest.mark.anyio


async def test_hello_is_the_first_item(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.connect("alice") as client:
        first = (await client.receive())[0]

        assert first["type"] == "$hello"
        assert first["protocol"] == 1
        assert first["node"] == served.hub.node
        assert first["expires"] is None
        assert first["heartbeat"] == 20.0
        assert len(first["session"]) >= 20
        assert first["reconnect"]["min"] <= first["reconnect"]["max"]
        assert first["limits"]["subscriptions"] == 128


async def test_each_session_has_its_own_id(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as one, served.reader() as other:
        assert one.session_id != other.session_id


async def test_each_channel_gets_its_own_answer(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as reader:
        answers = await reader.subscribe("routing", "nosuch", "secret", "user:7", "not a name")

        assert [answer["channel"] for answer in answers] == ["routing", "nosuch", "secret", "user:7", "not a name"]
        assert [answer.get("code") for answer in answers] == [
            None,
            "unknown-channel",
            "forbidden",
            None,
            "bad-request",
        ]
        assert [answer["ok"] for answer in answers] == [True, False, False, True, False]
        assert all(answer["message"] for answer in answers if not answer["ok"])
        assert answers[0]["mode"] == "events"
        assert answers[0]["seq"] == 0
        assert answers[0]["epoch"]
        assert set(answers[0]["keeps"]) == {"items", "bytes", "seconds"}


async def test_the_allowed_channels_of_a_mixed_request_work(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader("secret", "routing") as reader:
        served.hub.publish("secret", 1)
        served.hub.publish("routing", 2)
        await reader.reach("routing", 1)

        assert reader.data("routing") == [2]
        assert reader.of("secret") == []


async def test_an_item_has_the_fields_of_the_protocol(transport: TransportUnderTest) -> None:
    async with serving(transport, manual=True) as served, served.reader("lps", "routing") as reader:
        served.hub.publish("lps", {"lp": "LMAX", "status": "connected"}, type="lp-metrics")
        await reader.reach("lps", 1)
        served.clock.advance(1.0)
        served.hub.publish("routing", [1, 2.5, "drei", None])
        await reader.reach("routing", 1)

        assert reader.of("lps") == [
            {
                "channel": "lps",
                "seq": 1,
                "key": "LMAX",
                "type": "lp-metrics",
                "timestamp": "2026-01-19T05:20:00.000Z",
                "data": {"lp": "LMAX", "status": "connected"},
            }
        ]
        assert reader.of("routing") == [
            {
                "channel": "routing",
                "seq": 1,
                "type": "routing",
                "timestamp": "2026-01-19T05:20:01.000Z",
                "data": [1, 2.5, "drei", None],
            }
        ]


async def test_items_arrive_in_the_order_they_were_published(transport: TransportUnderTest) -> None:
    """Across channels too, while the client keeps up."""
    async with serving(transport) as served, served.reader("routing", "user:1") as reader:
        for number in range(200):
            served.hub.publish("routing" if number % 3 else "user:1", number)
        await reader.reach("routing", 133)
        await reader.reach("user:1", 67)

        assert [item["data"] for item in reader.items if "seq" in item] == list(range(200))
        assert reader.seqs("routing") == list(range(1, 134))
        assert reader.seqs("user:1") == list(range(1, 68))


async def test_a_frame_holds_at_most_a_batch(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader("routing") as reader:
        for number in range(120):
            served.hub.publish("routing", number)
        await reader.reach("routing", 120)

        assert max(len(frame) for frame in reader.frames) == 50


async def test_a_subscriber_starts_at_the_end(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        served.hub.publish("routing", "before")
        async with served.reader() as reader:
            (answer,) = await reader.subscribe("routing")
            served.hub.publish("routing", "after")
            await reader.reach("routing", 2)

            assert answer["seq"] == 1
            assert reader.data("routing") == ["after"]


async def test_last_starts_with_the_last_items(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        for number in range(10):
            served.hub.publish("routing", number)
        async with served.reader() as reader:
            (answer,) = await reader.subscribe({"channel": "routing", "last": 3})
            served.hub.publish("routing", 10)
            await reader.reach("routing", 11)

            assert answer["seq"] == 7
            assert reader.data("routing") == [7, 8, 9, 10]


async def test_a_table_starts_with_its_newest_items_by_default(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        for lp, status in (("A", 1), ("B", 1), ("A", 2), ("C", 1)):
            served.hub.publish("lps", {"lp": lp, "status": status})
        served.hub.delete("lps", "C")
        async with served.reader("lps") as reader:
            served.hub.publish("lps", {"lp": "D", "status": 1})
            await reader.reach("lps", 6)

            seen = [(item["key"], item["data"]["status"]) for item in reader.of("lps")]
            assert seen == [("B", 1), ("A", 2), ("D", 1)]


async def test_subscribers_receive_deletions(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader("lps") as reader:
        served.hub.publish("lps", {"lp": "A"})
        await reader.reach("lps", 1)
        served.hub.delete("lps", "A")
        served.hub.delete("lps", "never there")
        await reader.reach("lps", 2)

        deleted = reader.of("lps")[-1]
        assert (deleted["key"], deleted["data"], deleted["deleted"]) == ("A", None, True)
        assert served.hub.statistics().channels["lps"].head == 2


async def test_latest_starts_with_the_last_item(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        for number in range(3):
            served.hub.publish("exposure", number)
        async with served.reader("exposure") as reader:
            await reader.reach("exposure", 3)

            assert reader.data("exposure") == [2]


async def test_last_works_on_a_durable_channel(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        for number in range(5):
            await served.hub.publish_confirmed("alerts", number)
        async with served.reader({"channel": "alerts", "last": 2}) as reader:
            served.hub.publish("alerts", 5)
            await reader.reach("alerts", 6)

            assert reader.data("alerts") == [3, 4, 5]


async def test_naming_a_channel_ten_times_delivers_once(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as reader:
        await reader.subscribe(*["routing"] * 10)
        await reader.subscribe("routing", id=2)
        served.hub.publish("routing", "once")
        served.hub.publish("routing", "only")
        await reader.reach("routing", 2)

        assert reader.data("routing") == ["once", "only"]
        assert served.hub.statistics().subscriptions == 1


async def test_nothing_follows_an_unsubscription(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader("routing", "user:1") as reader:
        served.hub.publish("routing", 1)
        await reader.reach("routing", 1)
        await reader.client.send({"action": "unsubscribe", "id": "u", "channels": ["routing"]})
        answer = await reader.next("$unsubscribed")
        at = len(reader.items)
        served.hub.publish("routing", 2)
        served.hub.publish("user:1", "witness")
        await reader.reach("user:1", 1)

        assert answer["id"] == "u"
        assert answer["reason"] == "asked"
        assert answer["channels"] == [{"channel": "routing", "seq": 1, "abandoned": 0}]
        assert [item for item in reader.items[at:] if item.get("channel") == "routing"] == []


async def test_unsubscribing_without_a_subscription_is_harmless(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as reader:
        await reader.client.send({"action": "unsubscribe", "channels": ["routing", "nosuch"]})
        answer = await reader.next("$unsubscribed")

        assert [account["seq"] for account in answer["channels"]] == [None, None]


async def test_repeated_subscribing_and_unsubscribing_leaves_nothing(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as reader:
        for number in range(300):
            await reader.client.send(
                {"action": "subscribe", "channels": ["routing"]}, {"action": "unsubscribe", "channels": ["routing"]}
            )
            served.hub.publish("routing", number)
            if number % 50 == 0:
                await reader.ping(number)
        await reader.ping()
        at = len(reader.items)
        served.hub.publish("routing", "after")
        await reader.ping(id=2)

        assert [item["type"] for item in reader.items[at:]] == ["$pong"]
        assert served.hub.statistics().subscriptions == 0


async def test_ten_thousand_channels_in_one_command_are_one_error(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as reader:
        await reader.client.send({"action": "subscribe", "id": 9, "channels": ["a"] * 10_000})
        error = await reader.next("$error")

        assert (error["id"], error["code"], error["retry"]) == (9, "bad-request", "never")
        assert "10000" in error["message"]
        assert "128" in error["message"]
        assert "a" not in served.hub.statistics().channels


async def test_unknown_channel_names_leave_nothing_behind(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as reader:
        before = set(served.hub.statistics().channels)
        for round_ in range(20):
            await reader.subscribe(*[f"nosuch:{round_}:{number}" for number in range(100)], id=round_)

        assert set(served.hub.statistics().channels) == before


async def test_clients_receive_only_their_own_channels(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader("routing") as one, served.reader("user:1") as other:
        served.hub.publish("routing", "for one")
        served.hub.publish("user:1", "for the other")
        served.hub.publish("user:2", "for no client")
        await one.reach("routing", 1)
        await other.reach("user:1", 1)
        await one.ping()
        await other.ping()

        assert {item["channel"] for item in one.items if "seq" in item} == {"routing"}
        assert {item["channel"] for item in other.items if "seq" in item} == {"user:1"}


async def test_a_burst_of_a_thousand_items_costs_a_fast_client_nothing(transport: TransportUnderTest) -> None:
    """`buffer` is 256 items, but it bounds what waits when a flush has ended, not what a loop publishes."""
    async with serving(transport, tuning=Tuning()) as served, served.reader("routing", "user:1") as reader:
        for number in range(500):
            served.hub.publish("routing", number)
            served.hub.publish("user:1", number)
        await reader.reach("user:1", 500)
        await reader.reach("routing", 500)

        assert reader.data("routing") == reader.data("user:1") == list(range(500))
        assert reader.control("$gap") == []
        assert served.hub.statistics().channels["routing"].ledger.dropped == 0


async def test_all_readers_receive_the_same(transport: TransportUnderTest) -> None:
    """Also those with different other subscriptions, which therefore share no frame."""
    async with (
        serving(transport) as served,
        served.reader("routing") as one,
        served.reader("routing") as two,
        served.reader("routing", "user:1") as three,
    ):
        for number in range(500):
            served.hub.publish("routing", number)
        readers = (one, two, three)
        for reader in readers:
            await reader.reach("routing", 500)

        assert [reader.data("routing") for reader in readers] == [list(range(500))] * 3
