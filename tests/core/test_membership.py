"""Which clients share a cohort, and thereby frames, when they fall behind and catch up.

The machine checks what each client receives meanwhile; here the cohorts are counted.
"""

from __future__ import annotations

from dataclasses import replace

from analytics_hub.channels import Channel
from analytics_hub.tuning import Tuning

from .rig import Rig
from .wire import LineWire

A = Channel("a")
B = Channel("b")
TABLE = Channel("t", mode="table")
INTERVAL = 0.125
TUNING = Tuning(interval=INTERVAL)


def cohorts(rig: Rig) -> int:
    return rig.engine.statistics().cohorts


def test_clients_with_the_same_subscriptions_share_a_cohort() -> None:
    rig = Rig(A, B)
    rig.connect().subscribe("a", "b")
    rig.connect().subscribe("b", "a")
    rig.advance(1)

    assert cohorts(rig) == 1


def test_clients_with_different_wires_share_nothing() -> None:
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


# --- stalling


def test_a_client_that_has_caught_up_rejoins() -> None:
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


def test_a_client_that_missed_nothing_rejoins_at_once() -> None:
    rig = Rig(A, tuning=TUNING)
    slow, _ = rig.subscribers(2, "a")

    slow.stall()
    slow.resume()

    assert cohorts(rig) == 1


def test_clients_that_stall_in_one_flush_stay_together() -> None:
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


def test_a_stalled_cohort_that_has_become_empty_is_not_joined() -> None:
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


def test_clients_that_resume_together_stay_together() -> None:
    rig = Rig(A, tuning=Tuning(interval=INTERVAL, rate=8, buffer_items=100))
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


def test_a_stalled_client_loses_what_exceeds_its_buffer() -> None:
    rig = Rig(A, TABLE, tuning=Tuning(interval=INTERVAL, buffer_items=3))
    peer, _ = rig.subscribers(2, "a", "t")
    peer.stall()

    rig.publish("a", *range(1, 11))
    rig.publish("t", 1, 2, key="k")
    rig.advance(1)
    peer.resume()

    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (1, 7, 7, "buffer")
    assert peer.data() == [8, 9, 10, 2]


def test_a_stall_that_missed_no_flush_costs_nothing() -> None:
    rig = Rig(A, tuning=Tuning(interval=INTERVAL, buffer_items=3))
    peer, other = rig.subscribers(2, "a")
    rig.deliver("a", 0)

    rig.deliver("a", *range(1, 11))
    peer.stall()
    peer.resume()
    rig.advance(1)

    assert peer.data() == other.data() == list(range(11))


# --- joining


def test_a_client_that_joins_a_cohort_gets_its_tokens() -> None:
    rig = Rig(A, tuning=Tuning(interval=INTERVAL, rate=10))
    (busy,) = rig.subscribers(1, "a")
    rig.deliver("a", *range(10))
    rested = rig.connect()
    rested.subscribe("a")

    together = cohorts(rig)
    rig.deliver("a", *range(10, 20))
    rig.advance(0.5)

    assert together == 1
    assert rested.data() == busy.data()[10:] == [10, 11, 12, 13, 14]


def test_a_client_with_fewer_tokens_does_not_join() -> None:
    """Otherwise a client that has used up its rate would get more of it from others."""
    rig = Rig(A, B, tuning=Tuning(interval=INTERVAL, rate=10))
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


def test_a_client_with_max_hz_keeps_its_pace_when_it_could_join() -> None:
    rig = Rig(A, B, tuning=TUNING)
    paced = rig.connect()
    paced.subscribe({"channel": "a", "max_hz": 1}, "b")
    rig.deliver("a", 1)
    other = rig.connect()
    other.subscribe({"channel": "a", "max_hz": 1})

    paced.unsubscribe("b")
    rig.advance(INTERVAL)
    rig.deliver("a", 2)

    assert (paced.data(), other.data()) == ([1], [2])
    rig.advance(1)
    assert paced.data() == [1, 2]


def test_cohorts_of_a_subscription_set_take_their_turns_together() -> None:
    """The intervals of the second client are shifted by half of one; soon both are written to at once."""
    rig = Rig(A, tuning=TUNING)
    peers = []
    for _ in range(2):
        peers.append(rig.connect())
        peers[-1].subscribe({"channel": "a", "last": 1})
        rig.deliver("a", "first")
        rig.advance(INTERVAL / 2)
    rig.advance(1)
    rig.deliver("a", "x")
    rig.advance(1)

    assert cohorts(rig) == 1
    assert peers[0].data()[-1] == peers[1].data()[-1] == "x"


def test_a_cohort_that_remains_alone_after_a_turn_is_not_merged() -> None:
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


def test_a_gap_after_joining_a_cohort_that_was_stalled_has_the_reason_rate() -> None:
    rig = Rig(Channel("a"), tuning=replace(TUNING, burst_items=4))
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
