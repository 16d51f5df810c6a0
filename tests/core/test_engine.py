"""The verbs of the engine, and the channels that come and go."""

from __future__ import annotations

import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.engine import Engine
from analytics_hub.exceptions import ChannelLimitReached, InvalidChannel, InvalidItem, UnknownChannel
from analytics_hub.tuning import Tuning

from .rig import Rig

A = Channel("a")
MEMBERS = Channel("user:*", keep_seconds=10)


def test_an_engine_with_nothing_to_do_wants_no_call() -> None:
    rig = Rig(A)

    assert rig.engine.get_timer() is None
    assert rig.engine.is_quiet
    assert not rig.engine.has_output


def test_a_published_item_is_wanted_at_once() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    rig.advance(1)

    rig.publish("a", 1)

    assert rig.engine.wants_turn
    assert rig.engine.get_timer() == rig.now
    assert not rig.engine.is_quiet


def test_what_waits_for_its_turn_is_not_quiet() -> None:
    rig = Rig(A, tuning=Tuning(interval=0.125))
    peer = rig.connect()
    peer.subscribe("a")

    rig.deliver("a", 1)
    rig.deliver("a", 2)
    waiting = rig.engine.is_quiet
    rig.advance(0.125)

    assert not waiting
    assert peer.data() == [1, 2]


def test_what_waits_for_a_stalled_client_is_quiet() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    peer.stall()

    rig.deliver("a", 1)

    assert rig.engine.is_quiet


def test_publishing_returns_epoch_and_number() -> None:
    rig = Rig(A)

    assert rig.engine.publish("a", b"1", rig.now) == ("test.1", 1)
    assert rig.engine.publish("a", b"2", rig.now) == ("test.1", 2)


def test_an_item_that_is_too_large_takes_no_number() -> None:
    rig = Rig(A, tuning=Tuning(max_item_bytes=100))

    with pytest.raises(InvalidItem, match=r"the item for channel 'a' has .* bytes; at most 100 are allowed"):
        rig.publish("a", "x" * 60)
    with pytest.raises(InvalidItem):
        rig.engine.check_size("a", b"x" * 101)

    rig.engine.check_size("a", b"x" * 100)
    assert rig.engine.publish("a", b"1", rig.now) == ("test.1", 1)


def test_an_engine_has_settings_of_its_own() -> None:
    assert Engine([], nonce="n").tuning == Tuning()


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
    peer = rig.connect()

    rig.engine.end(peer.session, 1012, "bye", rig.now)
    rig.engine.end(peer.session, 4401, "again", rig.now)
    rig.engine.disconnect(peer.session, rig.now)
    rig.pump()

    assert peer.close is not None
    assert [peer.close] == rig.events


def test_a_session_that_is_ended_has_its_last_words_first() -> None:
    rig = Rig(A)
    peer = rig.connect()

    rig.engine.receive_data(peer.session, '{"action":"ping"}', rig.now)
    rig.engine.end(peer.session, 1012, "bye", rig.now)
    too_early = list(rig.engine.events())
    rig.pump()

    assert too_early == []
    assert peer.types == ["$hello", "$pong"]
    assert peer.close is not None


def test_a_session_that_is_ended_abandons_what_was_pending() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")

    rig.publish("a", 1)
    rig.engine.end(peer.session, 1012, "bye", rig.now)
    rig.pump()

    assert peer.data() == []
    assert peer.ledger("a").abandoned == 1


def test_drain_spreads_the_clients_over_the_grace() -> None:
    rig = Rig(A)
    peers = [rig.connect() for _ in range(4)]
    stranger = rig.connect(identity=None)

    rig.engine.drain(10, rig.now)
    rig.pump()

    assert [peer.items_of("$drain")[0]["in"] for peer in peers] == [0, 2, 4, 6]
    assert stranger.items == []


def test_drain_of_nobody_is_nothing() -> None:
    rig = Rig(A)

    rig.engine.drain(10, rig.now)

    assert rig.engine.is_quiet


# --- channels


def test_no_channel_is_declared_twice() -> None:
    with pytest.raises(InvalidChannel, match="channel 'a' is declared twice"):
        Rig(A, A)


def test_a_pattern_cannot_be_durable() -> None:
    with pytest.raises(InvalidChannel, match=r"pattern 'x:.' is durable"):
        Rig(Channel("x:*", mode="durable"))


def test_the_longest_pattern_that_matches_decides() -> None:
    rig = Rig(MEMBERS, Channel("user:admin:*", mode="latest"), Channel("user:root", mode="table"))

    answers = rig.connect().subscribe("user:1", "user:admin:1", "user:root")["channels"]

    assert [one["mode"] for one in answers] == ["events", "latest", "table"]


def test_a_pattern_is_no_member_of_itself() -> None:
    with pytest.raises(UnknownChannel):
        Rig(MEMBERS).publish("user:", 1)


def test_a_pattern_has_so_many_members() -> None:
    rig = Rig(MEMBERS, tuning=Tuning(max_members=1))
    rig.publish("user:1", 1)

    with pytest.raises(ChannelLimitReached, match=r"one more than the 1 members that pattern 'user:.' may have"):
        rig.publish("user:2", 1)


def test_a_member_that_nobody_wants_goes_and_comes_back_with_a_new_epoch() -> None:
    rig = Rig(MEMBERS)
    rig.publish("user:1", 1)
    rig.advance(9)
    still_there = "user:1" in rig.engine.statistics().channels

    rig.advance(2)
    gone = "user:1" not in rig.engine.statistics().channels

    assert still_there
    assert gone
    assert rig.engine.publish("user:1", b"1", rig.now) == ("test.2", 1)


def test_a_member_makes_room_when_it_goes() -> None:
    rig = Rig(MEMBERS, tuning=Tuning(max_members=1))
    rig.publish("user:1", 1)

    rig.advance(11)
    rig.publish("user:2", 1)

    assert list(rig.engine.statistics().channels) == ["user:2"]


def test_a_member_that_somebody_watches_stays() -> None:
    rig = Rig(MEMBERS)
    peer = rig.connect()
    peer.subscribe("user:1")

    rig.advance(60)
    rig.deliver("user:1", 1)
    watched = peer.data()
    peer.unsubscribe("user:1")
    rig.advance(60)

    assert watched == [1]
    assert rig.engine.statistics().channels == {}


def test_a_member_lives_as_long_as_something_is_published() -> None:
    rig = Rig(MEMBERS)

    for number in range(5):
        rig.publish("user:1", number)
        rig.advance(7)

    assert rig.engine.publish("user:1", b"1", rig.now) == ("test.1", 6)


@pytest.mark.parametrize("mode", ["table", "latest"])
def test_members_of_patterns_have_any_mode_that_is_not_durable(mode: str) -> None:
    rig = Rig(Channel("x:*", mode=mode, keep_seconds=1))  # type: ignore[arg-type]
    key = "k" if mode == "table" else None

    rig.publish("x:1", 1, key=key)
    rig.advance(3)

    assert rig.engine.statistics().channels == {}


def test_what_waits_for_a_stalled_client_is_buffered() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.stall()
    assert rig.engine.measure_buffered() == 0

    peer.send({"action": "ping", "id": 1})
    held = rig.engine.measure_buffered()
    peer.resume()

    assert held > 0
    assert rig.engine.measure_buffered() == 0
