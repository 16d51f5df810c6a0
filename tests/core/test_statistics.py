from __future__ import annotations

from analytics_hub.channels import Channel
from analytics_hub.core.statistics import Ledger
from analytics_hub.tuning import Tuning

from .rig import Rig

A = Channel("a", keep_items=3)
TABLE = Channel("t", mode="table")


def test_a_fresh_engine_has_counted_nothing() -> None:
    statistics = Rig(A).engine.statistics()

    assert (statistics.sessions, statistics.subscriptions, statistics.cohorts, statistics.subscription_sets) == (
        0,
        0,
        0,
        0,
    )
    assert statistics.counters == {}
    assert statistics.channels["a"].ledger == Ledger()


def test_statistics_count_who_is_there() -> None:
    rig = Rig(A, TABLE)
    peers = rig.subscribers(3, "a", "t")
    peers[0].stall()

    statistics = rig.engine.statistics()

    assert (statistics.sessions, statistics.stalled, statistics.subscriptions) == (3, 1, 6)
    assert (statistics.subscription_sets, statistics.cohorts) == (1, 2)
    assert statistics.channels["a"].watchers == 3
    assert statistics.counters == {"connected": 3, "stalled": 1}


def test_a_channel_says_where_it_stands() -> None:
    rig = Rig(A)

    rig.publish("a", *range(10))

    channel = rig.engine.statistics().channels["a"]
    assert (channel.mode, channel.epoch, channel.head, channel.kept) == ("events", "test.1", 10, 3)


def test_the_ledger_of_a_channel_sums_those_that_are_and_those_that_were() -> None:
    rig = Rig(A, tuning=Tuning(rate=1, buffer_items=1))
    first, second = rig.connect(), rig.connect()
    first.subscribe("a")
    second.subscribe("a")
    rig.deliver("a", 1, 2, 3)

    first.unsubscribe("a")
    rig.engine.disconnect(second.session, rig.now)
    third = rig.connect()
    third.subscribe("a")
    rig.deliver("a", 4)

    ledger = rig.engine.statistics().channels["a"].ledger
    assert ledger.is_balanced
    assert ledger == Ledger(published=7, delivered=3, dropped=2, abandoned=2)


def test_how_sessions_ended_is_counted() -> None:
    rig = Rig(A)
    first, second = rig.connect(), rig.connect()

    rig.engine.disconnect(first.session, rig.now)
    rig.engine.disconnect(first.session, rig.now)
    rig.engine.end(second.session, 1012, "bye", rig.now)

    assert rig.engine.statistics().counters == {"connected": 2, "disconnected": 1, "closed-1012": 1}


def test_a_ledger_adds_and_closes() -> None:
    ledger = Ledger(published=10, delivered=4, conflated=1, dropped=2, pending=3)

    assert ledger.close() == Ledger(published=10, delivered=4, conflated=1, dropped=2, abandoned=3)
    assert (ledger + ledger.close()).abandoned == 3
    assert (ledger + ledger).is_balanced
    assert not Ledger(published=1).is_balanced
