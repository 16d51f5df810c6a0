"""Busy clients, which follow their logs. What they receive must not differ from what others receive.

The busy machine checks that; here are the limits at which a client stops following, and exact ledgers.
"""

from __future__ import annotations

from dataclasses import replace

from analytics_hub.channels import Channel
from analytics_hub.core.fanout import MAX_PER_TURN
from analytics_hub.tuning import Tuning

from .rig import Peer, Rig

A = Channel("a")
B = Channel("b")
TABLE = Channel("t", mode="table")
INTERVAL = 0.125
UNLIMITED = Tuning(interval=INTERVAL, rate=None)


def keep_busy(rig: Rig, *channels: str, intervals: int = 4) -> None:
    """Several items on each of `channels`, twice in each of some intervals."""
    for _ in range(2 * intervals):
        for channel in channels:
            rig.publish(channel, *["busy"] * 4)
        rig.advance(INTERVAL / 2)


def follower(rig: Rig, *channels: str) -> Peer:
    """A client that follows its logs."""
    peer = rig.connect()
    peer.subscribe(*channels)
    keep_busy(rig, *channels)
    assert peer.session.cohort is not None
    assert peer.session.cohort.queue is not None
    peer.forget()
    return peer


def data(peer: Peer) -> list[object]:
    """What it received, except what kept it busy."""
    return [value for value in peer.data() if value != "busy"]


def test_what_a_follower_has_not_been_written_is_pending() -> None:
    rig = Rig(A, B, tuning=UNLIMITED)
    peer = follower(rig, "a", "b")
    before = peer.ledger("a")

    rig.deliver("a", 1, 2, 3)
    distributed = peer.ledger("a")
    rig.publish("a", 4)

    assert (distributed.pending, distributed.delivered) == (before.pending + 3, before.delivered)
    assert peer.ledger("a").pending == before.pending + 4
    rig.advance(1)
    assert peer.ledger("a").delivered == before.delivered + before.pending + 4
    assert data(peer) == [1, 2, 3, 4]


def test_the_first_item_after_a_quiet_interval_goes_at_once() -> None:
    rig = Rig(A, tuning=UNLIMITED)
    peer = follower(rig, "a")
    rig.advance(1)
    peer.forget()

    rig.deliver("a", "at once")

    assert peer.data() == ["at once"]


# --- what holds a follower back


def test_more_items_than_fit_one_write_go_in_several() -> None:
    rig = Rig(A, tuning=Tuning(interval=INTERVAL, rate=None, max_batch=10, max_frames=1))
    peer = follower(rig, "a")

    rig.publish("a", *range(24))
    rig.advance(1)

    assert data(peer) == list(range(24))
    assert [len(frame) for frame in peer.frames] == [10, 10, 4]


def test_more_bytes_than_fit_one_write_go_in_several() -> None:
    rig = Rig(A, tuning=UNLIMITED)
    peer = follower(rig, "a")

    rig.publish("a", *["x" * 60_000] * 6)
    rig.advance(1)

    assert len(peer.data()) == 6
    assert peer.ledger("a").dropped == 0


def test_more_items_than_the_rate_allows_wait() -> None:
    rig = Rig(A, tuning=Tuning(interval=INTERVAL, rate=64))
    peer = follower(rig, "a")

    rig.publish("a", *range(100))
    rig.advance(INTERVAL)
    at_first = len(peer.data())
    rig.advance(5)

    assert 40 < at_first < 80
    assert peer.data() == list(range(100))


def test_a_burst_is_read_from_the_log() -> None:
    rig = Rig(A, B, tuning=UNLIMITED)
    peer = follower(rig, "a", "b")

    rig.publish("a", *range(MAX_PER_TURN + 1))
    rig.advance(1)

    assert peer.data("a") == list(range(MAX_PER_TURN + 1))
    assert peer.items_of("$gap") == []


def test_a_follower_that_subscribes_to_a_table_gets_its_newest_items() -> None:
    rig = Rig(A, TABLE, tuning=UNLIMITED)
    peer = rig.connect()
    peer.subscribe("a", "t")
    keep_busy(rig, "a")
    peer.forget()

    rig.publish("t", *range(10), key="k")
    rig.advance(1)

    assert peer.data("t") == [9]


# --- what is overwritten


def test_entries_overwritten_before_they_were_distributed_are_a_gap() -> None:
    rig = Rig(Channel("a"), tuning=replace(UNLIMITED, burst_items=10))
    peer = follower(rig, "a")

    rig.publish("a", *range(30))
    rig.advance(1)

    assert peer.data() == list(range(20, 30))
    assert peer.items_of("$gap")[0]["count"] == 20


def test_a_follower_keeps_no_more_than_the_burst_and_loses_the_oldest_first() -> None:
    rig = Rig(Channel("a"), tuning=replace(UNLIMITED, burst_items=40))
    peer = follower(rig, "a")
    peer.forget()

    for first in range(0, 400, 8):
        rig.deliver("a", *range(first, first + 8))
        cohort = peer.session.cohort
        assert cohort is not None
        assert len(cohort.queue or ()) <= 40
    rig.advance(1)

    received = peer.data("a")
    assert received == list(range(400 - len(received), 400))
    assert 30 <= len(received) <= 40
    assert sum(gap["count"] for gap in peer.items_of("$gap")) == 400 - len(received)
    assert peer.ledger("a").is_balanced


# --- with others


def test_one_of_several_followers_may_leave_their_cohort() -> None:
    rig = Rig(A, B, tuning=UNLIMITED)
    peers = [follower(rig, "a") for _ in range(3)]
    keep_busy(rig, "a")
    for peer in peers:
        peer.forget()

    rig.deliver("a", 1, 2, 3)
    peers[1].subscribe("b")
    peers[2].stall()
    rig.publish("a", 4)
    rig.advance(1)
    peers[2].resume()
    rig.advance(1)

    assert [peer.data("a") for peer in peers] == [[1, 2, 3, 4]] * 3


def test_a_cohort_of_several_slices_is_written_to_the_last_member() -> None:
    rig = Rig(A, tuning=UNLIMITED)
    peers = rig.subscribers(258, "a")
    keep_busy(rig, "a", intervals=3)
    for peer in peers:
        peer.forget()

    rig.deliver("a", 1, 2, 3)
    rig.now += INTERVAL
    rig.engine.handle_timer(rig.now)
    deliveries = rig.engine.data_to_send()
    first = next(deliveries)
    late = peers[257]
    middle = late.ledger("a")
    rig.write(first.frame, first.recipients)
    rig.pump()

    assert len(first.recipients) == 256
    assert middle.pending == late.ledger("a").delivered - middle.delivered > 0
    assert late.data() == peers[0].data()
    assert late.data()[-3:] == [1, 2, 3]


def test_followers_that_come_to_the_same_positions_share_a_cohort() -> None:
    rig = Rig(A, tuning=UNLIMITED)
    peers = []
    for _ in range(3):
        peers.append(rig.connect())
        peers[-1].subscribe("a")
        keep_busy(rig, "a", intervals=2)
    keep_busy(rig, "a", intervals=6)

    assert rig.engine.statistics().cohorts == 1
    assert peers[0].data()[-8:] == peers[2].data()[-8:]


def test_what_was_not_distributed_yet_reaches_both_followers_and_others_once() -> None:
    rig = Rig(A, B, tuning=UNLIMITED)
    first, second = rig.connect(), rig.connect()
    first.subscribe("a")
    second.subscribe("a", "b")
    rig.deliver("a", "x")
    rig.advance(INTERVAL)
    first.forget()
    second.forget()

    rig.publish("a", *range(8))
    rig.engine.handle_timer(rig.now)
    deliveries = rig.engine.data_to_send()
    rig.write(*next(deliveries))
    rig.publish("a", 8)
    for delivery in deliveries:
        rig.write(*delivery)
    in_between = (first.data(), second.data())
    rig.advance(1)

    assert in_between == (list(range(8)), list(range(9)))
    assert first.data() == second.data() == list(range(9))


def test_a_follower_waits_for_its_own_turn_while_others_have_theirs() -> None:
    rig = Rig(A, tuning=UNLIMITED)
    busy, slow = rig.subscribers(2, "a")
    slow.stall()
    keep_busy(rig, "a")
    busy.forget()
    slow.forget()

    rig.advance(INTERVAL / 2)
    rig.deliver("a", *["late"] * 3)
    rig.advance(INTERVAL / 4)
    slow.resume()
    early = (busy.data().count("late"), slow.data().count("late"))
    rig.advance(1)

    assert early == (0, 3)
    assert busy.data().count("late") == slow.data().count("late") == 3
