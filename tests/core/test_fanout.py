"""Clients that have something at every beat. What they get must not show that it comes to them another way."""

from __future__ import annotations

import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.fanout import MAX_PER_TURN
from analytics_hub.tuning import Tuning

from .rig import Peer, Rig

A = Channel("a")
B = Channel("b")
TABLE = Channel("t", mode="table")
BEAT = 0.125
CALM = Tuning(interval=BEAT, rate=None)


def keep_busy(rig: Rig, *channels: str, beats: int = 4) -> None:
    """Several items on each of `channels`, twice in each of some beats."""
    for _ in range(2 * beats):
        for channel in channels:
            rig.publish(channel, *["busy"] * 4)
        rig.advance(BEAT / 2)


def follower(rig: Rig, *channels: str) -> Peer:
    """A client that has been busy, and has read what made it so."""
    peer = rig.connect()
    peer.subscribe(*channels)
    keep_busy(rig, *channels)
    assert peer.session.cohort is not None
    assert peer.session.cohort.queue is not None
    peer.forget()
    return peer


def test_a_busy_client_gets_everything_in_publish_order() -> None:
    rig = Rig(A, B, tuning=CALM)
    peer = follower(rig, "a", "b")

    for number in range(100):
        rig.deliver("ab"[number % 2], number)
        rig.advance(BEAT / 8)
    rig.advance(1)

    assert [value for value in peer.data() if value != "busy"] == list(range(100))
    assert peer.ledger("a").pending == 0


def test_what_waits_for_a_busy_client_is_pending() -> None:
    rig = Rig(A, B, tuning=CALM)
    peer = follower(rig, "a", "b")
    before = peer.ledger("a")

    rig.deliver("a", 1, 2, 3)
    handed_out = peer.ledger("a")
    rig.publish("a", 4)

    assert (handed_out.pending, handed_out.delivered) == (before.pending + 3, before.delivered)
    assert peer.ledger("a").pending == before.pending + 4
    rig.advance(1)
    assert peer.ledger("a").delivered == before.delivered + before.pending + 4


def test_the_first_item_after_a_quiet_beat_goes_at_once() -> None:
    rig = Rig(A, tuning=CALM)
    peer = follower(rig, "a")
    rig.advance(1)
    peer.forget()

    rig.deliver("a", "at once")

    assert peer.data() == ["at once"]


def test_more_than_a_write_may_hold_goes_in_several() -> None:
    rig = Rig(A, tuning=Tuning(interval=BEAT, rate=None, max_batch=10, max_frames=1))
    peer = follower(rig, "a")

    rig.publish("a", *range(24))
    rig.advance(1)

    assert [value for value in peer.data() if value != "busy"] == list(range(24))
    assert [len(frame) for frame in peer.frames] == [10, 10, 4]


def test_more_bytes_than_a_write_may_hold_go_in_several() -> None:
    rig = Rig(A, tuning=CALM)
    peer = follower(rig, "a")

    rig.publish("a", *["x" * 60_000] * 6)
    rig.advance(1)

    assert len(peer.data()) == 6
    assert peer.ledger("a").dropped == 0


def test_more_than_the_rate_allows_waits() -> None:
    rig = Rig(A, tuning=Tuning(interval=BEAT, rate=64))
    peer = follower(rig, "a")
    peer.forget()

    rig.publish("a", *range(100))
    rig.advance(BEAT)
    at_first = len(peer.data())
    rig.advance(5)

    assert 40 < at_first < 80
    assert peer.data() == list(range(100))


def test_a_burst_for_a_busy_client_loses_nothing() -> None:
    rig = Rig(A, B, tuning=CALM)
    peer = follower(rig, "a", "b")

    rig.publish("a", *range(MAX_PER_TURN + 1))
    rig.advance(1)

    assert peer.data("a") == list(range(MAX_PER_TURN + 1))
    assert peer.items_of("$gap") == []


def test_what_was_overwritten_before_a_busy_client_was_told_is_a_gap() -> None:
    rig = Rig(Channel("a", keep_items=10), tuning=CALM)
    peer = follower(rig, "a")

    rig.publish("a", *range(30))
    rig.advance(1)

    assert peer.data() == list(range(20, 30))
    assert peer.items_of("$gap")[0]["count"] == 20


@pytest.mark.parametrize("others", [0, 1])
def test_what_was_overwritten_after_a_busy_client_was_told_still_comes(others: int) -> None:
    rig = Rig(Channel("a", keep_items=4), B, tuning=CALM)
    peer = follower(rig, "a")
    for _ in range(others):
        rig.connect().subscribe("a")
        keep_busy(rig, "a")
    peer.forget()

    for first in range(0, 12, 4):
        rig.deliver("a", *range(first, first + 4))
    peer.subscribe("b")
    ledger = peer.ledger("a")
    rig.advance(1)

    assert (ledger.pending, ledger.dropped) == (12, 0)
    assert peer.data("a") == list(range(12))


def test_a_busy_client_may_subscribe_to_more_and_lose_nothing() -> None:
    rig = Rig(A, B, tuning=CALM)
    peer = follower(rig, "a")

    rig.deliver("a", 1, 2)
    peer.subscribe("b")
    rig.publish("a", 3)
    rig.publish("b", 4)
    rig.advance(1)

    assert peer.data() == [1, 2, 3, 4]


def test_one_of_several_busy_clients_may_leave_them() -> None:
    rig = Rig(A, B, tuning=CALM)
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


def test_a_busy_client_that_leaves_abandons_what_waited() -> None:
    rig = Rig(A, tuning=CALM)
    peer = follower(rig, "a")

    rig.deliver("a", 1, 2, 3)
    rig.engine.disconnect(peer.session, rig.now)
    rig.deliver("a", 4)

    assert peer.ledger("a").abandoned == 3
    assert peer.data() == []


def test_tables_are_superseded_however_busy_a_client_is() -> None:
    rig = Rig(A, TABLE, tuning=CALM)
    peer = rig.connect()
    peer.subscribe("a", "t")
    keep_busy(rig, "a")
    peer.forget()

    rig.publish("t", *range(10), key="k")
    rig.advance(1)

    assert peer.data("t") == [9]


def test_busy_clients_with_different_subscriptions_see_the_same_order() -> None:
    rig = Rig(A, B, tuning=CALM)
    peers = [rig.connect() for _ in range(3)]
    for peer, names in zip(peers, (["a"], ["a", "b"], ["b"]), strict=True):
        peer.subscribe(*names)
    keep_busy(rig, "a", "b")
    for peer in peers:
        peer.forget()

    for number in range(40):
        rig.deliver("ab"[number % 2], number)
        rig.advance(BEAT / 4)
    rig.advance(1)

    values = [[value for value in peer.data() if value != "busy"] for peer in peers]
    assert values == [list(range(0, 40, 2)), list(range(40)), list(range(1, 40, 2))]


@pytest.mark.parametrize("news", ["a", "b"])
def test_what_is_published_between_two_writes_of_a_turn_reaches_everybody_once(news: str) -> None:
    rig = Rig(A, B, tuning=CALM)
    peers = [rig.connect() for _ in range(4)]
    for peer, names in zip(peers, (["a"], ["a", "b"], ["b", "a"], ["b"]), strict=True):
        peer.subscribe(*names)
    rig.advance(1)

    count = {"a": 0, "b": 0}
    for _ in range(8):
        for channel in "aaaa":
            rig.publish(channel, count[channel])
            count[channel] += 1
        rig.engine.handle_timer(rig.now)
        for delivery in rig.engine.data_to_send():
            rig.write(delivery.frame, delivery.recipients)
            for _ in range(2):
                rig.publish(news, count[news])
                count[news] += 1
        rig.advance(BEAT)
    rig.advance(1)

    assert peers[0].data() == list(range(count["a"]))
    assert peers[1].data("a") == peers[2].data("a") == list(range(count["a"]))
    assert peers[1].data("b") == peers[3].data() == list(range(count["b"]))


def test_a_busy_crowd_of_several_slices_is_written_to_the_last() -> None:
    rig = Rig(A, tuning=CALM)
    peers = rig.subscribers(258, "a")
    keep_busy(rig, "a", beats=3)
    for peer in peers:
        peer.forget()

    rig.deliver("a", 1, 2, 3)
    rig.now += BEAT
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


def test_busy_clients_that_come_to_the_same_positions_share_a_cohort() -> None:
    rig = Rig(A, tuning=CALM)
    peers = []
    for _ in range(3):
        peers.append(rig.connect())
        peers[-1].subscribe("a")
        keep_busy(rig, "a", beats=2)
    keep_busy(rig, "a", beats=6)

    assert rig.engine.statistics().cohorts == 1
    assert peers[0].data()[-8:] == peers[2].data()[-8:]


def test_nobody_is_told_who_has_left_since() -> None:
    rig = Rig(A, tuning=CALM)
    peer = follower(rig, "a")

    rig.publish("a", 1)
    rig.engine.disconnect(peer.session, rig.now)
    rig.pump()

    assert peer.data() == []
    assert rig.engine.is_quiet


def test_what_one_busy_client_was_not_told_yet_reaches_another_that_has_it_already() -> None:
    rig = Rig(A, B, tuning=CALM)
    first, second = rig.connect(), rig.connect()
    first.subscribe("a")
    second.subscribe("a", "b")
    rig.deliver("a", "x")
    rig.advance(BEAT)
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


def test_a_busy_client_waits_for_its_own_turn_while_others_have_theirs() -> None:
    rig = Rig(A, tuning=CALM)
    busy, slow = rig.subscribers(2, "a")
    slow.stall()
    keep_busy(rig, "a")
    busy.forget()
    slow.forget()

    rig.advance(BEAT / 2)
    rig.deliver("a", *["late"] * 3)
    rig.advance(BEAT / 4)
    slow.resume()
    early = (busy.data().count("late"), slow.data().count("late"))
    rig.advance(1)

    assert early == (0, 3)
    assert busy.data().count("late") == slow.data().count("late") == 3


def overtaken() -> tuple[Rig, Peer]:
    """A busy client that waits for the items 0 to 7, of which 0 to 3 are overwritten in their log."""
    rig = Rig(Channel("a", keep_items=4), tuning=CALM)
    peer = follower(rig, "a")
    for first in (0, 4):
        rig.deliver("a", *range(first, first + 4))
    return rig, peer


def test_a_busy_client_that_stalls_loses_the_oldest_first() -> None:
    rig, peer = overtaken()
    before = peer.ledger("a").delivered

    peer.is_full = True
    peer.send({"action": "ping"})
    rig.publish("a", *range(8, 14))
    rig.now += 1
    peer.resume()
    rig.advance(1)

    gap = peer.items_of("$gap")[0]
    assert (gap["from"], gap["to"], gap["reason"]) == (before + 1, before + 10, "buffer")
    assert peer.data() == [10, 11, 12, 13]


def test_a_busy_client_that_unsubscribes_is_told_of_losses_next_to_what_it_has_read() -> None:
    rig, peer = overtaken()
    before = peer.ledger("a").delivered

    rig.publish("a", *range(8, 14))
    account = peer.unsubscribe("a")["channels"][0]

    gap = peer.items_of("$gap")[0]
    assert (gap["from"], gap["to"]) == (before + 1, before + 10)
    assert (account["seq"], account["abandoned"]) == (before + 10, 4)
