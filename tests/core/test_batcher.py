"""What one flush takes, and what the rate and the size of a write leave for later.

The machine checks the pace, order, tokens and losses of every write; here are exact results, and large sizes.
"""

from __future__ import annotations

from analytics_hub.channels import Channel
from analytics_hub.protocol import MAX_FRAME_BYTES
from analytics_hub.tuning import Tuning

from .rig import Peer, Rig

A = Channel("a")
B = Channel("b")
TABLE = Channel("t", mode="table")
INTERVAL = 0.125


def listen(rig: Rig, *channels: str) -> Peer:
    """A client that has read everything, and may be written to at once."""
    peer = rig.connect()
    peer.subscribe(*channels)
    rig.advance(60)
    peer.forget()
    return peer


def test_the_first_item_goes_at_once_and_later_ones_together() -> None:
    rig = Rig(A, tuning=Tuning(interval=INTERVAL))
    peer = listen(rig, "a")

    rig.deliver("a", 1)
    rig.deliver("a", 2, 3)
    rig.advance(INTERVAL / 2)
    rig.deliver("a", 4)

    assert peer.written_data == [[1]]
    rig.advance(INTERVAL / 2)
    assert peer.written_data == [[1], [2, 3, 4]]


# --- the size of a write


def test_a_write_has_several_frames_of_max_batch_items() -> None:
    rig = Rig(A, tuning=Tuning(max_batch=4))
    peer = listen(rig, "a")

    rig.deliver("a", *range(10))

    assert [len(frame) for frame in peer.frames] == [4, 4, 2]
    assert len(peer.writes) == 1


def test_a_write_ends_at_256_kib_and_the_rest_follows() -> None:
    rig = Rig(A)
    peer = listen(rig, "a")

    rig.deliver("a", *["x" * 60_000] * 10)
    rig.advance(1)

    assert [len(write) for write in peer.written_data] == [4, 4, 2]
    assert peer.items_of("$gap") == []


def test_no_write_is_longer_than_256_kib() -> None:
    rig = Rig(A, TABLE, tuning=Tuning(rate=None, max_batch=1))
    peer = listen(rig, "a", "t")

    for number in range(3000):
        rig.publish("a", "x" * 200)
        rig.publish("t", "y" * 200, key=str(number))
    rig.advance(5)

    assert len(peer.data()) == 6000
    assert max(peer.sizes) <= MAX_FRAME_BYTES


# --- the rate


def test_a_rate_allows_a_burst_and_then_a_steady_pace() -> None:
    rig = Rig(A, tuning=Tuning(rate=10))
    peer = listen(rig, "a")

    rig.deliver("a", *range(25))
    at_once = len(peer.data())
    rig.advance(1)

    assert at_once == 10
    assert 19 <= len(peer.data()) <= 20
    rig.advance(1)
    assert peer.data() == list(range(25))


def test_what_exceeds_rate_and_buffer_is_a_gap() -> None:
    rig = Rig(A, tuning=Tuning(rate=10, buffer_items=3))
    peer = listen(rig, "a")

    rig.deliver("a", *range(1, 26))
    ledger = peer.ledger("a")
    rig.advance(1)

    assert (ledger.delivered, ledger.dropped, ledger.pending) == (10, 12, 3)
    assert peer.data() == [*range(1, 11), 23, 24, 25]
    (gap,) = peer.items_of("$gap")
    assert (gap["channel"], gap["from"], gap["to"], gap["count"], gap["reason"]) == ("a", 11, 22, 12, "rate")
    assert peer.types[10:12] == ["$gap", "a"]


def test_a_gap_is_reported_before_the_next_item_of_its_channel() -> None:
    rig = Rig(A, B, TABLE, tuning=Tuning(rate=1, buffer_items=2))
    peer = listen(rig, "a", "b", "t")

    rig.publish("a", *range(1, 6))
    rig.pump()
    rig.publish("t", "row", key="k")
    rig.advance(10)

    assert peer.types == ["a", "$gap", "a", "a", "t"]
    assert (peer.items_of("$gap")[0]["from"], peer.items_of("$gap")[0]["to"]) == (2, 3)


def test_a_gap_waits_for_an_item_that_may_go() -> None:
    rig = Rig(A, B, tuning=Tuning(rate=1, buffer_items=2))
    peer = listen(rig, "a", "b")

    rig.deliver("a", 0)
    rig.publish("a", 1, 2)
    rig.publish("b", 3, 4, 5)
    rig.publish("a", 6)
    rig.advance(1)

    assert peer.items[-1]["data"] == 5
    assert [gap["channel"] for gap in peer.items_of("$gap")] == ["b"]
    rig.advance(1)
    assert [gap["channel"] for gap in peer.items_of("$gap")] == ["b", "a"]


def test_max_hz_paces_one_subscription_and_no_other() -> None:
    rig = Rig(A, B, tuning=Tuning(interval=INTERVAL))
    peer = rig.connect()
    peer.subscribe({"channel": "a", "max_hz": 4}, "b")
    rig.advance(5)
    peer.forget()

    for number in range(32):
        rig.publish("a", number)
        rig.publish("b", number)
        rig.advance(INTERVAL)
    rig.advance(2)

    assert peer.data("a") == peer.data("b") == list(range(32))
    assert sum(any(item["channel"] == "a" for frame in write for item in frame) for write in peer.writes) <= 17
    assert len(peer.writes) >= 32


# --- the buffer


def test_the_buffer_is_bounded_in_bytes_too() -> None:
    rig = Rig(A, tuning=Tuning(rate=1, buffer_bytes=1000))
    peer = listen(rig, "a")

    rig.deliver("a", *["x" * 300] * 10)
    ledger = peer.ledger("a")

    assert (ledger.delivered, ledger.pending, ledger.dropped) == (1, 2, 7)


def test_a_buffer_smaller_than_an_item_holds_none() -> None:
    rig = Rig(A, tuning=Tuning(rate=1, buffer_bytes=100))
    peer = listen(rig, "a")

    rig.deliver("a", *["x" * 300] * 5)

    assert peer.ledger("a").dropped == 4


def test_an_earlier_large_item_costs_small_items_nothing() -> None:
    """The estimate by the largest item ever is too high; then the bytes are counted."""
    rig = Rig(A, tuning=Tuning(rate=2, buffer_bytes=1000))
    peer = listen(rig, "a")
    rig.deliver("a", "x" * 900)

    rig.deliver("a", 1, 2, 3, 4)
    rig.advance(3)

    assert peer.ledger("a").dropped == 0


# --- tables


def test_a_table_goes_whole_and_its_debt_is_paid_before_the_next_item() -> None:
    rig = Rig(TABLE, tuning=Tuning(rate=5))
    peer = listen(rig, "t")

    for number in range(20):
        rig.publish("t", number, key=str(number))
    rig.pump()
    rig.deliver("t", 99, key="0")

    assert peer.data() == list(range(20))
    rig.advance(3.1)
    assert 99 not in peer.data()
    rig.advance(0.2)
    assert peer.data()[-1] == 99


def test_a_table_longer_than_a_write_is_written_as_it_was() -> None:
    rig = Rig(TABLE, tuning=Tuning(max_batch=2, max_frames=2, interval=INTERVAL))
    peer = listen(rig, "t")

    for number in range(10):
        rig.publish("t", number, key=str(number))
    rig.pump()
    rig.publish("t", 100, key="9")
    middle = peer.ledger("t")
    rig.advance(1)

    assert peer.written_data == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [100]]
    assert (middle.delivered, middle.pending) == (4, 7)


def test_what_is_paid_for_continues_while_other_channels_wait_for_tokens() -> None:
    rig = Rig(A, TABLE, tuning=Tuning(rate=5, max_batch=2, max_frames=1, interval=INTERVAL))
    peer = listen(rig, "a", "t")

    rig.publish("a", "first")
    for number in range(9):
        rig.publish("t", number, key=str(number))
    rig.publish("a", "last")
    rig.advance(1)

    assert peer.data("t") == list(range(9))
    assert peer.data("a") == ["first"]
    rig.advance(1)
    assert peer.data("a") == ["first", "last"]


def test_a_table_that_is_paid_for_continues_at_the_pace_of_the_interval() -> None:
    rig = Rig(A, TABLE, tuning=Tuning(rate=1, max_batch=2, max_frames=1, interval=INTERVAL))
    peer = listen(rig, "a", "t")

    rig.publish("t", 0, key="0")
    rig.publish("a", "waits")
    for number in (1, 2, 3):
        rig.publish("t", number, key=str(number))
    rig.pump()
    rig.advance(INTERVAL)
    quickly = peer.written_data
    rig.advance(5)

    assert quickly == [[0, 1], [2, 3]]
    assert peer.data("a") == ["waits"]


def test_without_a_token_neither_a_table_nor_events_begin() -> None:
    rig = Rig(A, TABLE, tuning=Tuning(rate=1))
    peer = listen(rig, "a", "t")
    rig.deliver("a", 0)

    rig.publish("t", 1, key="k")
    rig.publish("a", 2)
    rig.advance(0.5)

    assert peer.data() == [0]
    rig.advance(3)
    assert peer.data() == [0, 1, 2]


def test_an_item_that_does_not_fit_costs_no_token_yet() -> None:
    rig = Rig(A, TABLE, tuning=Tuning(rate=6, max_batch=2, max_frames=1, interval=INTERVAL))
    peer = listen(rig, "a", "t")

    rig.publish("t", 0, key="k")
    rig.publish("a", 1, 2, 3, 4, 5)
    rig.advance(3 * INTERVAL)

    assert peer.data() == list(range(6))


def test_a_client_that_knows_no_key_needs_no_deletions() -> None:
    rig = Rig(TABLE)
    rig.publish("t", 1, key="a")
    peer = rig.connect()
    rig.publish("t", 1, key="b")
    rig.engine.delete("t", "b", rig.now)
    peer.send_subscribe("t")
    rig.publish("t", 2, key="a")

    assert peer.data() == [1]


def test_a_snapshot_that_was_deleted_before_it_was_sent_is_empty() -> None:
    rig = Rig(TABLE, tuning=Tuning(rate=1))
    peer = rig.connect()
    for key in "ab":
        rig.publish("t", key, key=key)
    rig.engine.delete("t", "a", rig.now)
    peer.stall()
    peer.send_subscribe("t")
    rig.engine.delete("t", "b", rig.now)
    peer.resume()
    rig.advance(5)

    assert peer.data() == []
    assert peer.ledger("t").conflated == 3
