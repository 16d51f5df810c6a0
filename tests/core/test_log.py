"""What a channel keeps in each mode, as its clients see it."""

from __future__ import annotations

import pytest

from analytics_hub.channels import Channel
from analytics_hub.exceptions import InvalidItem, TableFull, UnknownChannel
from analytics_hub.tuning import Tuning

from .rig import Rig
from .wire import Fields

EVENTS = Channel("e")
TABLE = Channel("t", mode="table", max_keys=3)
LATEST = Channel("l", mode="latest")
DURABLE = Channel("d", mode="durable")


def snapshot(rig: Rig, channel: str, **options: object) -> list[Fields]:
    """The data items that a new client gets."""
    peer = rig.connect()
    peer.subscribe({"channel": channel, **(options or {"snapshot": True})})
    return [item for item in peer.items if "seq" in item]


def fill(rig: Rig, keys: str) -> None:
    """Publish an item for each key, numbered from 0."""
    for value, key in enumerate(keys):
        rig.publish("t", value, key=key)


# --- items


def test_an_item_has_channel_number_type_time_and_data() -> None:
    rig = Rig(EVENTS)

    rig.publish("e", {"x": 1})
    rig.publish("e", 2, stamp="2020-01-01T00:00:00.000Z")

    first, second = snapshot(rig, "e")
    assert first == {"channel": "e", "seq": 1, "type": "e", "timestamp": "2023-11-14T22:13:20.000Z", "data": {"x": 1}}
    assert second["timestamp"] == "2020-01-01T00:00:00.000Z"


def test_an_item_of_a_table_has_its_key() -> None:
    rig = Rig(TABLE)

    rig.publish("t", 1, key='a"b')

    (item,) = snapshot(rig, "t")
    assert (item["key"], "deleted" in item) == ('a"b', False)


def test_the_type_is_that_of_the_item_or_the_channel_or_its_name() -> None:
    rig = Rig(EVENTS, Channel("typed", type="quote"))

    rig.publish("e", 1)
    rig.publish("e", 2, type="other")
    rig.publish("typed", 3)

    assert [item["type"] for item in snapshot(rig, "e") + snapshot(rig, "typed")] == ["e", "other", "quote"]


def test_a_channel_may_have_any_number_of_types() -> None:
    rig = Rig(EVENTS, tuning=Tuning(rate=None))
    numbers = [*range(300), 0, 299]

    for number in numbers:
        rig.publish("e", number, type=f"type-{number}")

    assert [item["type"] for item in snapshot(rig, "e")] == [f"type-{number}" for number in numbers]


@pytest.mark.parametrize("key", [None, ""])
def test_an_item_of_a_table_needs_a_key(key: str | None) -> None:
    rig = Rig(TABLE)

    with pytest.raises(InvalidItem, match="channel 't' is a table: an item needs a key"):
        rig.publish("t", 1, key=key)


@pytest.mark.parametrize("channel", [EVENTS, LATEST, DURABLE])
def test_only_a_table_has_keys(channel: Channel) -> None:
    rig = Rig(channel)

    with pytest.raises(InvalidItem, match=f"key 'k' on channel .*: its mode '{channel.mode}' has no keys"):
        rig.publish(channel.name, 1, key="k")
    with pytest.raises(InvalidItem, match="has no keys"):
        rig.engine.delete(channel.name, "k", rig.now)


def test_latest_has_nothing_to_delete() -> None:
    rig = Rig(LATEST)

    with pytest.raises(InvalidItem, match="delete on channel 'l': its mode 'latest' has no keys"):
        rig.publish("l", None, deleted=True)


def test_an_undeclared_channel_cannot_be_published_to() -> None:
    rig = Rig(EVENTS, Channel("user:*"))

    with pytest.raises(UnknownChannel, match=r"channel 'x' is not declared; the hub has e, user:\*"):
        rig.publish("x", 1)
    with pytest.raises(UnknownChannel, match="the hub has none"):
        Rig().publish("x", 1)


# --- what is kept


def test_events_keep_the_newest_items_and_latest_the_last() -> None:
    rig = Rig(Channel("e", keep_items=3), LATEST)

    rig.publish("e", *range(10))
    rig.publish("l", 1, 2, 3)

    assert [item["data"] for item in snapshot(rig, "e")] == [7, 8, 9]
    assert [(item["seq"], item["data"]) for item in snapshot(rig, "l")] == [(3, 3)]


def test_the_answer_states_what_is_kept() -> None:
    rig = Rig(
        Channel("e", keep_items=5, keep_bytes=99),
        TABLE,
        LATEST,
        DURABLE,
        Channel("m:*", keep_seconds=7),
        tuning=Tuning(burst_items=11, burst_bytes=22),
    )

    answer = rig.connect().subscribe("e", "t", "l", "d", "m:1")

    assert {each["channel"]: (each["mode"], each["keeps"]) for each in answer["channels"]} == {
        "e": ("events", {"items": 5, "bytes": 99, "seconds": None}),
        "t": ("table", {"items": 3, "bytes": None, "seconds": None}),
        "l": ("latest", {"items": 1, "bytes": None, "seconds": None}),
        "d": ("durable", {"items": 11, "bytes": 22, "seconds": None}),
        "m:1": ("events", {"items": 11, "bytes": 22, "seconds": 7}),
    }


def test_last_counts_what_can_still_be_delivered() -> None:
    rig = Rig(TABLE, Channel("e", keep_items=3))
    fill(rig, "abcab")
    rig.engine.delete("t", "c", rig.now)
    rig.publish("e", *range(10))

    assert [item["data"] for item in snapshot(rig, "t", last=1)] == [4]
    assert [item["data"] for item in snapshot(rig, "t", last=99)] == [3, 4]
    assert snapshot(rig, "t", last=0) == []
    assert [item["data"] for item in snapshot(rig, "e", last=2)] == [8, 9]
    assert [item["data"] for item in snapshot(rig, "e", last=99)] == [7, 8, 9]


# --- tables


def test_a_full_table_accepts_the_keys_it_has_and_no_other() -> None:
    rig = Rig(TABLE)
    fill(rig, "abc")

    rig.publish("t", 3, key="a")
    with pytest.raises(TableFull, match="key 'd' would be one more than the 3 that channel 't' may hold"):
        rig.publish("t", 3, key="d")

    assert [(item["key"], item["data"]) for item in snapshot(rig, "t")] == [("b", 1), ("c", 2), ("a", 3)]


def test_a_deleted_key_makes_room_and_may_come_back() -> None:
    rig = Rig(TABLE)
    fill(rig, "abc")

    assert rig.engine.delete("t", "b", rig.now)
    rig.publish("t", 3, key="d")
    with pytest.raises(TableFull):
        rig.publish("t", 4, key="b")
    assert rig.engine.delete("t", "a", rig.now)
    rig.publish("t", 5, key="a")

    assert [(item["key"], item["data"]) for item in snapshot(rig, "t")] == [("c", 2), ("d", 3), ("a", 5)]
    assert rig.engine.delete("t", "a", rig.now)


def test_deleting_a_missing_key_publishes_nothing() -> None:
    rig = Rig(TABLE)
    fill(rig, "a")
    rig.engine.delete("t", "a", rig.now)

    assert not rig.engine.delete("t", "a", rig.now)
    assert not rig.engine.delete("t", "never", rig.now)
    assert rig.engine.statistics().channels["t"].head == 2
    assert snapshot(rig, "t", last=5) == snapshot(rig, "t") == []


def test_a_subscriber_learns_of_a_deletion() -> None:
    rig = Rig(TABLE)
    peer = rig.connect()
    peer.subscribe("t")
    rig.deliver("t", 1, key="a")

    rig.engine.delete("t", "a", rig.now)
    rig.advance(1)

    assert (peer.items[-1]["deleted"], peer.items[-1]["data"], peer.items[-1]["key"]) == (True, None, "a")


def test_a_forgotten_deletion_is_a_loss_for_a_client_that_is_behind() -> None:
    """Three tombstones are kept; what became of the items below the oldest forgotten one is unknown."""
    rig = Rig(TABLE, tuning=Tuning(interval=0.125))
    peer = rig.connect()
    peer.subscribe("t")
    rig.deliver("t", 0, key="stays")
    peer.forget()
    peer.stall()

    for key in "abcd":
        rig.publish("t", 1, key=key)
        rig.engine.delete("t", key, rig.now)
    pending = peer.ledger("t")
    rig.advance(1)
    peer.resume()

    gap, *tombstones = peer.items
    assert (gap["type"], gap["from"], gap["to"], gap["count"]) == ("$gap", 2, 3, 2)
    assert [item["key"] for item in tombstones] == ["b", "c", "d"]
    assert (pending.dropped, pending.conflated, pending.pending) == (2, 3, 3)
    assert (peer.ledger("t").dropped, peer.ledger("t").conflated, peer.ledger("t").delivered) == (2, 3, 4)


def test_what_is_live_below_a_forgotten_deletion_is_delivered() -> None:
    rig = Rig(Channel("t", mode="table", max_keys=2))
    peer = rig.connect()
    peer.subscribe("t")
    peer.stall()

    rig.publish("t", "live", key="live")
    for key in "abc":
        rig.publish("t", 1, key=key)
        rig.engine.delete("t", key, rig.now)
    rig.advance(1)
    peer.resume()

    live, gap, *_ = peer.items[-4:]
    assert live["data"] == "live"
    assert (gap["from"], gap["to"], gap["count"]) == (2, 3, 2)
