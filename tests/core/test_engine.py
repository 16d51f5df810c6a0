"""The verbs of the engine, its channels and its statistics."""

from __future__ import annotations

import pytest

from analytics_hub.channels import Channel, Mode
from analytics_hub.core.engine import Engine
from analytics_hub.core.statistics import Ledger
from analytics_hub.exceptions import ChannelLimitReached, InvalidChannel, InvalidItem, UnknownChannel
from analytics_hub.tuning import Tuning

from .rig import Rig

A = Channel("a")
FEW = Channel("few", keep_items=3)
TABLE = Channel("t", mode="table")
MEMBERS = Channel("user:*", keep_seconds=10)


def test_a_new_engine_wants_no_call_and_has_counted_nothing() -> None:
    engine = Rig(A).engine
    statistics = engine.statistics()

    assert engine.get_timer() is None
    assert engine.is_quiet
    assert not engine.has_output
    assert statistics.sessions == statistics.subscriptions == statistics.cohorts == statistics.subscription_sets == 0
    assert statistics.counters == {}
    assert statistics.channels["a"].ledger == Ledger()
    assert Engine([], nonce="n").tuning == Tuning()


def test_an_engine_is_not_quiet_until_everything_was_written() -> None:
    rig = Rig(A, tuning=Tuning(interval=0.125))
    peer = rig.connect()
    peer.subscribe("a")
    rig.advance(1)

    rig.publish("a", 1)
    published = (rig.engine.wants_turn, rig.engine.get_timer() == rig.now, rig.engine.is_quiet)
    rig.pump()
    rig.deliver("a", 2)
    waiting = rig.engine.is_quiet
    rig.advance(0.125)

    assert published == (True, True, False)
    assert not waiting
    assert rig.engine.is_quiet
    assert peer.data() == [1, 2]


def test_an_engine_is_quiet_though_items_wait_for_a_stalled_client() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    peer.stall()

    rig.deliver("a", 1)

    assert rig.engine.is_quiet


def test_publish_returns_epoch_and_number() -> None:
    rig = Rig(A)

    assert rig.engine.publish("a", b"1", rig.now) == ("test.1", 1)
    assert rig.engine.publish("a", b"2", rig.now) == ("test.1", 2)


def test_an_item_that_is_too_large_gets_no_number() -> None:
    rig = Rig(A, tuning=Tuning(max_item_bytes=100))

    with pytest.raises(InvalidItem, match=r"the item for channel 'a' has .* bytes; at most 100 are allowed"):
        rig.publish("a", "x" * 60)
    with pytest.raises(InvalidItem):
        rig.engine.check_size("a", b"x" * 101)

    rig.engine.check_size("a", b"x" * 100)
    assert rig.engine.publish("a", b"1", rig.now) == ("test.1", 1)


# --- sessions


def test_what_a_closed_session_sends_is_ignored() -> None:
    rig = Rig(A)
    peer = rig.connect()
    rig.engine.end(peer.session, 1012, "bye", rig.now)
    rig.pump()

    peer.send({"action": "ping"})
    peer.stall()
    peer.resume()

    assert peer.types == ["$hello"]
    assert rig.engine.statistics().counters == {"connected": 1, "closed-1012": 1}


def test_stalling_or_resuming_twice_is_harmless() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")

    peer.resume()
    peer.stall()
    peer.stall()
    rig.deliver("a", 1)
    peer.resume()
    peer.resume()

    assert peer.data() == [1]
    assert rig.engine.statistics().counters["stalled"] == 1


def test_ending_twice_closes_once() -> None:
    rig = Rig(A)
    peer, gone = rig.connect(), rig.connect()

    rig.engine.end(peer.session, 1012, "bye", rig.now)
    rig.engine.end(peer.session, 4401, "again", rig.now)
    for each in (peer, gone, gone):
        rig.engine.disconnect(each.session, rig.now)
    rig.pump()

    assert peer.close is not None
    assert rig.events == [peer.close]
    assert rig.engine.statistics().counters == {"connected": 2, "disconnected": 1, "closed-1012": 1}


def test_a_session_that_is_ended_gets_its_answers_first_and_abandons_its_data() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")

    rig.publish("a", 1)
    rig.engine.receive_data(peer.session, '{"action":"ping"}', rig.now)
    rig.engine.end(peer.session, 1012, "bye", rig.now)
    early = list(rig.engine.events())
    rig.pump()

    assert early == []
    assert peer.types == ["$hello", "$subscribed", "$pong"]
    assert peer.close is not None
    assert peer.ledger("a").abandoned == 1


def test_drain_spreads_the_clients_over_the_grace_period() -> None:
    rig = Rig(A)
    rig.engine.drain(10, rig.now)
    assert rig.engine.is_quiet
    peers = [rig.connect() for _ in range(4)]
    unauthenticated = rig.connect(identity=None)

    rig.engine.drain(10, rig.now)
    rig.pump()

    assert [peer.items_of("$drain")[0]["in"] for peer in peers] == [0, 2, 4, 6]
    assert unauthenticated.items == []


# --- channels


def test_a_channel_is_declared_once() -> None:
    with pytest.raises(InvalidChannel, match="channel 'a' is declared twice"):
        Rig(A, A)


def test_a_pattern_cannot_be_durable() -> None:
    with pytest.raises(InvalidChannel, match=r"pattern 'x:.' is durable"):
        Rig(Channel("x:*", mode="durable"))


def test_the_longest_pattern_that_matches_decides() -> None:
    rig = Rig(MEMBERS, Channel("user:admin:*", mode="latest"), Channel("user:root", mode="table"))

    answers = rig.connect().subscribe("user:1", "user:admin:1", "user:root")["channels"]

    assert [answer["mode"] for answer in answers] == ["events", "latest", "table"]


def test_a_pattern_is_no_member_of_itself() -> None:
    with pytest.raises(UnknownChannel):
        Rig(MEMBERS).publish("user:", 1)


def test_a_member_that_expires_makes_room_and_gets_a_new_epoch() -> None:
    rig = Rig(MEMBERS, tuning=Tuning(max_members=1))
    rig.publish("user:1", 1)
    with pytest.raises(ChannelLimitReached, match=r"one more than the 1 members that pattern 'user:.' may have"):
        rig.publish("user:2", 1)
    rig.advance(9)
    assert "user:1" in rig.engine.statistics().channels

    rig.advance(2)

    assert rig.engine.statistics().channels == {}
    rig.publish("user:2", 1)
    rig.advance(11)
    assert rig.engine.publish("user:1", b"1", rig.now) == ("test.3", 1)


@pytest.mark.parametrize(("mode", "key"), [("events", None), ("table", "k"), ("latest", None)])
def test_a_member_with_a_watcher_stays(mode: Mode, key: str | None) -> None:
    rig = Rig(Channel("user:*", mode=mode, keep_seconds=10))
    peer = rig.connect()
    peer.subscribe("user:1")

    rig.advance(60)
    rig.deliver("user:1", 1, key=key)
    received = peer.data()
    peer.unsubscribe("user:1")
    rig.advance(60)

    assert received == [1]
    assert rig.engine.statistics().channels == {}


def test_a_member_stays_as_long_as_something_is_published() -> None:
    rig = Rig(MEMBERS)

    for number in range(5):
        rig.publish("user:1", number)
        rig.advance(7)

    assert rig.engine.publish("user:1", b"1", rig.now) == ("test.1", 6)


# --- statistics


def test_statistics_count_sessions_and_cohorts() -> None:
    rig = Rig(FEW, TABLE)
    peers = rig.subscribers(3, "few", "t")
    peers[0].stall()
    rig.publish("few", *range(10))

    statistics = rig.engine.statistics()

    assert (statistics.sessions, statistics.stalled, statistics.subscriptions) == (3, 1, 6)
    assert (statistics.subscription_sets, statistics.cohorts) == (1, 2)
    assert statistics.counters == {"connected": 3, "stalled": 1}
    few = statistics.channels["few"]
    assert (few.mode, few.epoch, few.head, few.kept, few.watchers) == ("events", "test.1", 10, 10, 3)


def test_the_ledger_of_a_channel_sums_present_and_past_subscriptions() -> None:
    rig = Rig(FEW, tuning=Tuning(rate=1, buffer_items=1))
    first, second = rig.connect(), rig.connect()
    first.subscribe("few")
    second.subscribe("few")
    rig.deliver("few", 1, 2, 3)

    first.unsubscribe("few")
    rig.engine.disconnect(second.session, rig.now)
    third = rig.connect()
    third.subscribe("few")
    rig.deliver("few", 4)

    ledger = rig.engine.statistics().channels["few"].ledger
    assert ledger.is_balanced
    assert ledger == Ledger(published=7, delivered=3, dropped=2, abandoned=2)


def test_what_waits_for_a_stalled_client_is_buffered() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.stall()
    before = rig.engine.measure_buffered()

    peer.send({"action": "ping", "id": 1})
    buffered = rig.engine.measure_buffered()
    peer.resume()

    assert (before, rig.engine.measure_buffered()) == (0, 0)
    assert buffered > 0


def test_a_closed_ledger_has_nothing_pending() -> None:
    ledger = Ledger(published=10, delivered=4, conflated=1, dropped=2, pending=3)

    assert ledger.close() == Ledger(published=10, delivered=4, conflated=1, dropped=2, abandoned=3)
    assert (ledger + ledger.close()).abandoned == 3
    assert (ledger + ledger).is_balanced
    assert not Ledger(published=1).is_balanced
