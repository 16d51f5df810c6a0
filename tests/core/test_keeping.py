"""What a log keeps for new subscriptions, what it keeps until the next flush, and how a loss is reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analytics_hub.channels import Channel
from analytics_hub.tuning import Tuning

from .rig import Rig

UNLIMITED = Tuning(rate=None)


# --- two bounds


def test_a_fast_client_gets_what_is_published_between_two_flushes_and_a_new_one_what_is_kept() -> None:
    rig = Rig(Channel("a", keep_items=5), tuning=UNLIMITED)
    peer = rig.connect()
    peer.subscribe("a")

    rig.deliver("a", *range(8))
    later = rig.connect()
    answer = later.subscribe({"channel": "a", "last": 100})
    rig.advance(1)

    assert (peer.data(), peer.ledger("a").dropped) == (list(range(8)), 0)
    assert (later.data(), answer["channels"][0]["keeps"]["items"]) == (list(range(3, 8)), 5)


def test_memory_is_released_once_all_clients_have_read_it() -> None:
    rig = Rig(Channel("a", keep_items=5), tuning=UNLIMITED)
    rig.connect().subscribe("a")
    log = rig.engine.registry.logs["a"]

    for number in range(30):
        rig.deliver("a", number)
        rig.advance(10)

    assert log.head - log.floor <= 6


def test_memory_is_bounded_without_clients() -> None:
    rig = Rig(Channel("a", keep_items=5), tuning=UNLIMITED)

    rig.deliver("a", *range(30))

    log = rig.engine.registry.logs["a"]
    assert log.head - log.floor == 5


@pytest.mark.parametrize(("keep_bytes", "kept"), [(1, 1), (200, 2), (100_000, 10)])
def test_bytes_bound_what_a_new_subscription_gets(keep_bytes: int, kept: int) -> None:
    rig = Rig(Channel("a", keep_bytes=keep_bytes), tuning=UNLIMITED)
    rig.connect().subscribe("a")
    rig.deliver("a", *range(10))

    peer = rig.connect()
    peer.subscribe({"channel": "a", "last": 100})
    rig.advance(1)

    assert len(peer.data()) == kept
    assert peer.data()[-1] == 9


def test_age_bounds_what_a_new_subscription_gets() -> None:
    rig = Rig(Channel("a", keep_seconds=5), tuning=replace(UNLIMITED, burst_items=8))
    for number in range(20):
        rig.deliver("a", number)
        rig.advance(0.1)
    rig.advance(4)
    rig.deliver("a", "newer", "newest")
    rig.advance(2)

    peer = rig.connect()
    peer.subscribe({"channel": "a", "last": 100})
    rig.advance(600)
    late = rig.connect()
    late.subscribe({"channel": "a", "last": 100})
    resumed = rig.connect()
    answer = resumed.subscribe({"channel": "a", "since": {"epoch": "test.1", "seq": 21}})
    rig.advance(1)

    assert peer.data() == ["newer", "newest"]
    assert late.data() == []
    assert answer["channels"][0]["recovered"] is False
    assert [(gap["from"], gap["to"], gap["reason"]) for gap in resumed.items_of("$gap")] == [(22, 22, "retention")]


# --- losses are reported


def test_a_loss_is_reported_when_the_client_has_caught_up() -> None:
    rig = Rig(Channel("alerts"), Channel("prices"), tuning=replace(UNLIMITED, buffer_items=4))
    peer = rig.connect()
    peer.subscribe("alerts", "prices")
    peer.stall()
    rig.publish("alerts", 1, 2)
    rig.publish("prices", *range(4))
    rig.advance(1)

    peer.resume()
    rig.advance(1)

    (gap,) = peer.items_of("$gap")
    assert (gap["channel"], gap["from"], gap["to"], gap["count"]) == ("alerts", 1, 2, 2)
    assert peer.ledger("alerts").dropped == 2
    assert rig.engine.is_quiet


def test_losses_that_do_not_fit_one_write_are_reported_in_the_next() -> None:
    names = ["a", "b", "c"]
    channels = [Channel(name) for name in [*names, "z"]]
    rig = Rig(*channels, tuning=replace(UNLIMITED, buffer_items=1, max_batch=1, max_frames=1))
    peer = rig.connect()
    peer.subscribe(*names, "z")
    peer.stall()
    for name in names:
        rig.publish(name, 1)
    rig.publish("z", 1)
    rig.advance(1)

    peer.resume()
    before = len(peer.writes)
    rig.advance(1)

    assert sorted(gap["channel"] for gap in peer.items_of("$gap")) == names
    assert peer.data("z") == [1]
    assert all(len(frames) == 1 for frames in peer.writes[before:])


def test_a_gap_counts_as_an_item_of_the_write() -> None:
    rig = Rig(Channel("a"), tuning=replace(UNLIMITED, buffer_items=3, max_batch=1, max_frames=1))
    peer = rig.connect()
    peer.subscribe("a")
    peer.stall()
    rig.publish("a", *range(5))
    rig.advance(1)

    peer.resume()
    rig.advance(1)

    assert all(len(frames) == 1 and len(frames[0]) == 1 for frames in peer.writes)
    assert peer.types[-4:] == ["$gap", "a", "a", "a"]
    assert peer.data() == [2, 3, 4]


def test_no_gap_of_a_table_ends_above_what_still_follows() -> None:
    rig = Rig(Channel("t", mode="table", max_keys=3), tuning=UNLIMITED)
    peer = rig.connect()
    peer.subscribe("t")
    rig.deliver("t", 0, key="first")
    peer.stall()
    rig.publish("t", 1, key="A")  # number 2, and it stays
    for key in "BCDE":  # one deletion more than are remembered
        rig.publish("t", 1, key=key)
        rig.engine.delete("t", key, rig.now)
    rig.advance(1)

    peer.resume()
    rig.advance(1)

    position = 0
    for item in peer.items:
        if item["type"] == "$gap":
            assert item["from"] > position
            position = item["to"]
        elif "seq" in item and not item["type"].startswith("$"):
            assert item["seq"] > position
            position = item["seq"]
    assert 1 in [item["data"] for item in peer.items if item.get("key") == "A"]
    assert peer.ledger("t").dropped == sum(gap["count"] for gap in peer.items_of("$gap"))


def test_items_of_the_journal_that_were_not_written_are_abandoned_by_unsubscribing() -> None:
    rig = Rig(Channel("d", mode="durable", keep_items=1), tuning=Tuning(rate=1, journal_chunk=10))
    rig.publish_durable("d", *range(1, 9))
    peer = rig.connect()
    peer.send_subscribe({"channel": "d", "since": {"epoch": "test.1", "seq": 2}})
    rig.answer_read()

    account = peer.unsubscribe("d")["channels"][0]

    assert peer.data() == [3]
    assert (account["seq"], account["abandoned"]) == (3, 5)


def test_what_a_stalled_client_has_not_read_is_not_served_to_a_new_one() -> None:
    rig = Rig(Channel("a", keep_items=2, keep_bytes=300), tuning=UNLIMITED)
    peer = rig.connect()
    peer.subscribe("a")
    peer.stall()

    rig.deliver("a", *range(10))
    later = rig.connect()
    later.subscribe({"channel": "a", "last": 100})
    rig.advance(1)
    peer.resume()
    rig.advance(1)

    assert later.data() == [8, 9]
    assert peer.data() == list(range(10))
