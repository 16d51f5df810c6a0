"""Falling behind, catching up, and sharing frames meanwhile: what a client gets, and how many cohorts that takes."""

from __future__ import annotations

from analytics_hub.channels import Channel
from analytics_hub.tuning import Tuning

from .rig import Rig
from .wire import LineWire

A = Channel("a")
B = Channel("b")
TABLE = Channel("t", mode="table")
BEAT = 0.125
TUNING = Tuning(interval=BEAT)


def cohorts(rig: Rig) -> int:
    return rig.engine.statistics().cohorts


def test_clients_with_the_same_subscriptions_share_a_cohort() -> None:
    rig = Rig(A, B)
    peers = rig.subscribers(3, "a", "b")

    rig.deliver("a", 1)

    assert cohorts(rig) == 1
    assert [peer.data() for peer in peers] == [[1]] * 3


def test_the_order_of_subscriptions_does_not_matter() -> None:
    rig = Rig(A, B)
    rig.connect().subscribe("a", "b")
    rig.connect().subscribe("b", "a")
    rig.advance(1)

    assert cohorts(rig) == 1


def test_different_wires_share_nothing() -> None:
    rig = Rig(A)
    for name in ("x", "y"):
        rig.connect(wire=LineWire(name)).subscribe("a")

    assert (cohorts(rig), rig.engine.statistics().subscription_sets) == (2, 2)


def test_a_client_without_a_subscription_is_in_no_cohort() -> None:
    rig = Rig(A)
    peer = rig.connect()

    peer.stall()
    peer.resume()
    answer = peer.unsubscribe("a")

    assert cohorts(rig) == 0
    assert answer["channels"] == [{"channel": "a", "seq": None, "abandoned": 0}]


def test_a_cohort_goes_with_its_last_member() -> None:
    rig = Rig(A)
    peers = rig.subscribers(2, "a")

    for peer in peers:
        peer.unsubscribe("a")

    assert (cohorts(rig), rig.engine.statistics().subscription_sets) == (0, 0)


def test_a_stalled_client_reads_on_from_where_it_stopped() -> None:
    rig = Rig(A, tuning=TUNING)
    slow, quick = rig.subscribers(2, "a")
    slow.is_full = True

    rig.deliver("a", 1)
    rig.advance(1)
    rig.deliver("a", 2)
    rig.advance(1)

    assert (slow.data(), quick.data()) == ([1], [1, 2])
    assert slow.ledger("a").pending == 1
    slow.resume()
    assert slow.data() == [1, 2]


def test_who_has_caught_up_rejoins() -> None:
    rig = Rig(A, tuning=TUNING)
    slow, quick = rig.subscribers(2, "a")
    slow.stall()
    rig.deliver("a", 1)
    rig.advance(1)
    behind = cohorts(rig)

    slow.resume()
    rig.deliver("a", 2)
    rig.advance(1)
    rig.deliver("a", 3)
    rig.advance(1)

    assert (behind, cohorts(rig)) == (2, 1)
    assert slow.data() == quick.data() == [1, 2, 3]


def test_who_missed_nothing_rejoins_at_once() -> None:
    rig = Rig(A, tuning=TUNING)
    slow, _ = rig.subscribers(2, "a")

    slow.stall()
    slow.resume()

    assert cohorts(rig) == 1


def test_the_only_member_of_a_cohort_may_stall_and_come_back() -> None:
    rig = Rig(A, tuning=TUNING)
    (peer,) = rig.subscribers(1, "a")
    peer.is_full = True

    rig.deliver("a", 1)
    rig.deliver("a", 2)
    peer.resume()
    rig.advance(1)

    assert peer.data() == [1, 2]


def test_those_that_stall_in_one_flush_stay_together() -> None:
    rig = Rig(A, tuning=TUNING)
    peers = rig.subscribers(10, "a")
    for peer in peers[2:]:
        peer.is_full = True

    rig.deliver("a", 1)
    rig.advance(1)
    rig.deliver("a", 2)
    rig.advance(1)

    assert cohorts(rig) == 2
    for peer in peers[2:]:
        peer.resume()
    rig.advance(1)
    assert [peer.data() for peer in peers] == [[1, 2]] * 10


def test_those_that_stall_in_different_flushes_do_not_mix() -> None:
    rig = Rig(A, tuning=TUNING)
    first, second, third = rig.subscribers(3, "a")
    first.is_full = True
    rig.deliver("a", 1)
    rig.advance(1)
    second.is_full = True
    rig.deliver("a", 2)
    rig.advance(1)

    first.resume()
    second.resume()
    rig.advance(1)

    assert first.data() == second.data() == third.data() == [1, 2]


def test_a_place_to_stall_in_may_have_emptied() -> None:
    rig = Rig(A, tuning=TUNING)
    first, second, third = rig.subscribers(3, "a")
    rig.deliver("a", 1)

    first.stall()
    first.resume()
    second.stall()
    rig.deliver("a", 2)
    rig.advance(1)
    second.resume()

    assert first.data() == second.data() == third.data() == [1, 2]


def test_those_that_resume_together_stay_together() -> None:
    rig = Rig(A, tuning=Tuning(interval=BEAT, rate=8, buffer_items=100))
    peers = rig.subscribers(6, "a")
    for peer in peers[1:]:
        peer.is_full = True
    rig.deliver("a", 0)
    rig.publish("a", *range(1, 40))
    rig.advance(1)

    for peer in peers[1:]:
        peer.is_full = False
        rig.engine.resumed(peer.session, rig.now)
    together = cohorts(rig)
    rig.advance(20)

    assert together == 2
    assert [peer.data() for peer in peers] == [list(range(40))] * 6


def test_one_that_resumes_later_than_the_others_reads_on_from_its_own_place() -> None:
    rig = Rig(A, tuning=TUNING)
    early, late, quick = rig.subscribers(3, "a")
    early.is_full = late.is_full = True
    rig.deliver("a", 1)
    rig.advance(1)
    rig.deliver("a", 2)
    rig.advance(1)

    early.resume()
    rig.advance(1)
    rig.deliver("a", 3)
    rig.advance(1)
    late.resume()
    rig.advance(1)

    assert early.data() == late.data() == quick.data() == [1, 2, 3]
    assert late.ledger("a") == early.ledger("a") == quick.ledger("a")


def test_a_stalled_client_loses_what_it_may_not_wait_for() -> None:
    rig = Rig(A, TABLE, tuning=Tuning(interval=BEAT, buffer_items=3))
    peer, _ = rig.subscribers(2, "a", "t")
    peer.stall()

    rig.publish("a", *range(1, 11))
    rig.publish("t", 1, 2, key="k")
    rig.advance(1)
    peer.resume()

    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (1, 7, 7, "buffer")
    assert peer.data() == [8, 9, 10, 2]


def test_a_short_stall_that_missed_no_flush_costs_nothing() -> None:
    rig = Rig(A, tuning=Tuning(interval=BEAT, buffer_items=3))
    peer, other = rig.subscribers(2, "a")
    rig.deliver("a", 0)

    rig.deliver("a", *range(1, 11))
    peer.stall()
    peer.resume()
    rig.advance(1)

    assert peer.data() == other.data() == list(range(11))


def test_who_subscribes_while_it_is_stalled_is_served_once_it_is_not() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.stall()
    peer.forget()

    peer.send_subscribe("a")
    rig.deliver("a", 1)
    in_between = list(peer.types)
    peer.resume()

    assert in_between == []
    assert peer.types == ["$subscribed", "a"]


def test_a_stalled_client_stays_stalled_when_its_subscriptions_change() -> None:
    rig = Rig(A, B)
    peer, _ = rig.subscribers(2, "a")
    peer.stall()

    peer.send_subscribe("b")
    rig.deliver("a", 1)
    rig.deliver("b", 2)

    assert peer.items == []
    peer.resume()
    assert peer.data() == [1, 2]


def test_nobody_joins_a_cohort_that_has_more_tokens() -> None:
    """A client that has used its rate must not get more of it from others."""
    rig = Rig(A, B, tuning=Tuning(interval=BEAT, rate=10))
    (rested,) = rig.subscribers(1, "a")
    (busy,) = rig.subscribers(1, "a", "b")
    rig.deliver("b", *range(10))

    busy.unsubscribe("b")
    rig.deliver("a", *range(10))
    rig.advance(0.5)

    assert cohorts(rig) == 2
    assert (len(rested.data()), len(busy.data("a"))) == (10, 5)
    rig.advance(10)
    assert busy.data("a") == list(range(10))


def test_who_joins_a_cohort_takes_its_tokens() -> None:
    rig = Rig(A, tuning=Tuning(interval=BEAT, rate=10))
    (busy,) = rig.subscribers(1, "a")
    rig.deliver("a", *range(10))
    rested = rig.connect()
    rested.subscribe("a")

    together = cohorts(rig)
    rig.deliver("a", *range(10, 20))
    rig.advance(0.5)

    assert together == 1
    assert rested.data() == busy.data()[10:] == [10, 11, 12, 13, 14]


def test_who_was_held_back_joins_once_its_tokens_allow() -> None:
    rig = Rig(A, tuning=Tuning(interval=BEAT, rate=10))
    busy, _ = rig.subscribers(2, "a")
    busy.subscribe({"channel": "a", "last": 0})
    rig.advance(5)
    rig.deliver("a", 1)
    rig.advance(5)
    rig.deliver("a", 2)
    rig.advance(5)

    assert cohorts(rig) == 1


def test_a_paced_client_keeps_its_pace_among_others() -> None:
    rig = Rig(A, B, tuning=TUNING)
    paced = rig.connect()
    paced.subscribe({"channel": "a", "max_hz": 1}, "b")
    rig.deliver("a", 1)
    other = rig.connect()
    other.subscribe({"channel": "a", "max_hz": 1})

    paced.unsubscribe("b")
    rig.advance(BEAT)
    rig.deliver("a", 2)

    assert (paced.data(), other.data()) == ([1], [2])
    rig.advance(1)
    assert paced.data() == [1, 2]


def test_cohorts_of_a_layout_take_their_turns_together() -> None:
    """The beat of the second client differs by half an interval; after a while both are written in one go."""
    rig = Rig(A, tuning=TUNING)
    peers = []
    for _ in range(2):
        peers.append(rig.connect())
        peers[-1].subscribe({"channel": "a", "last": 1})
        rig.deliver("a", "first")
        rig.advance(BEAT / 2)
    rig.advance(1)
    rig.deliver("a", "x")
    rig.advance(1)

    assert cohorts(rig) == 1
    assert peers[0].data()[-1] == peers[1].data()[-1] == "x"


def test_who_is_not_in_step_is_not_merged() -> None:
    rig = Rig(A, tuning=Tuning(interval=BEAT, rate=4))
    first, second = rig.subscribers(2, "a")
    second.subscribe({"channel": "a", "last": 0})

    rig.publish("a", *range(8))
    rig.pump()
    second.stall()
    rig.advance(0.5)

    assert cohorts(rig) == 2
    second.resume()
    rig.advance(10)
    assert first.data() == second.data() == list(range(8))


def test_who_remains_alone_after_a_turn_of_two_is_served_as_before() -> None:
    rig = Rig(A, tuning=TUNING)
    first, second = rig.subscribers(2, "a")
    second.stall()
    rig.publish("a", 1)
    rig.engine.handle_timer(rig.now)
    rig.engine.disconnect(second.session, rig.now)
    rig.pump()
    rig.advance(1)
    rig.deliver("a", 2)

    assert cohorts(rig) == 1
    assert first.data() == [1, 2]


def test_who_joins_one_that_was_congested_is_not_said_to_have_been() -> None:
    rig = Rig(Channel("a", keep_items=4), tuning=TUNING)
    first, second = rig.connect(), rig.connect()
    first.subscribe("a")
    first.is_full = True
    rig.deliver("a", 0)
    rig.advance(2)
    first.resume()
    second.subscribe("a")
    assert cohorts(rig) == 1

    rig.publish("a", *range(20))
    rig.advance(10)

    assert [gap["reason"] for gap in second.items_of("$gap")] == ["rate"]
