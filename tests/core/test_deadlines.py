"""What happens because time passes (`docs/protocol.md` §7 to §9)."""

from __future__ import annotations

import pytest

from analytics_hub.channels import Channel
from analytics_hub.identity import Identity
from analytics_hub.tuning import Tuning

from .rig import ALICE, WALL, Peer, Rig
from .wire import Fields

A = Channel("a")
D = Channel("d", mode="durable")
GRAIN = 0.25  # deadlines may be this late


def check_ending(peer: Peer, seconds: float, code: int, reason: str) -> None:
    """The session ends after so many seconds, and not earlier."""
    peer.rig.advance(seconds - 0.1)
    assert peer.close is None
    peer.rig.advance(0.1 + GRAIN)
    assert peer.ending == (code, reason)


def test_a_client_that_sends_no_token_is_closed() -> None:
    rig = Rig(A, tuning=Tuning(auth_timeout=3))

    check_ending(rig.connect(identity=None), 3, 4408, "no token within 3 s")


def test_a_client_that_sends_its_token_in_time_stays() -> None:
    rig = Rig(A, tuning=Tuning(auth_timeout=3))
    peer = rig.connect(identity=None)
    peer.send({"action": "auth", "token": "t"})

    rig.engine.authenticated(peer.session, ALICE, rig.now)
    rig.advance(10)

    assert peer.close is None


@pytest.mark.parametrize(("channel", "seconds"), [("a", 6), ("d", 2)])
def test_a_client_that_is_stalled_for_too_long_is_closed(channel: str, seconds: float) -> None:
    rig = Rig(A, D, tuning=Tuning(write_timeout=6, durable_write_timeout=2))
    peer = rig.connect()
    peer.subscribe(channel)
    peer.stall()

    check_ending(peer, seconds, 4503, f"nothing could be written for {seconds} s")


def test_a_client_that_is_resumed_in_time_stays() -> None:
    rig = Rig(A, tuning=Tuning(write_timeout=6))
    peer = rig.connect()
    peer.subscribe("a")

    for _ in range(4):
        peer.stall()
        rig.advance(4)
        peer.resume()

    assert peer.close is None


@pytest.mark.parametrize("command", [{"action": "ping"}, {"action": "seen", "frames": 0}])
def test_a_client_that_has_pinged_or_confirmed_once_must_continue(command: Fields) -> None:
    rig = Rig(A, tuning=Tuning(silence_timeout=5))
    peer, listener = rig.connect(), rig.connect()
    peer.send(command)
    rig.advance(4)
    peer.send(command)

    check_ending(peer, 5, 4408, "no sign of life for 5 s")
    assert listener.close is None


def test_the_expiry_of_a_token_is_announced_once_and_ends_the_session() -> None:
    rig = Rig(A, tuning=Tuning(expiry_warning=30))
    peer = rig.connect(Identity(id="alice", expires=WALL + 100))

    rig.advance(69)
    early = peer.items_of("$expiring")
    check_ending(peer, 31, 4401, "expired token")

    (warning,) = peer.items_of("$expiring")
    assert early == []
    assert warning["in"] == pytest.approx(30, abs=GRAIN)


def test_the_expiry_of_a_refreshed_token_is_announced_again() -> None:
    rig = Rig(A, tuning=Tuning(expiry_warning=30))
    peer = rig.connect(Identity(id="alice", expires=WALL + 40))
    rig.advance(20)
    peer.send({"action": "auth", "token": "t"})

    rig.engine.authenticated(peer.session, Identity(id="alice", expires=WALL + 100), rig.now)
    rig.advance(75)

    assert len(peer.items_of("$expiring")) == 2
    assert peer.close is None


def test_a_token_expires_by_the_time_of_day() -> None:
    rig = Rig(A)
    peer = rig.connect(Identity(id="alice", expires=WALL + 1000))

    rig.engine.tell_time(rig.now, WALL + 2000)
    rig.advance(1000)

    assert peer.close is not None
    assert peer.close.code == 4401


# --- heartbeats


def test_a_client_that_is_written_nothing_gets_heartbeats() -> None:
    rig = Rig(A, tuning=Tuning(heartbeat=5))
    peer = rig.connect()
    peer.forget()

    rig.advance(15 + GRAIN)

    assert peer.frames == [[], [], []]


def test_data_replaces_heartbeats() -> None:
    rig = Rig(A, tuning=Tuning(heartbeat=5))
    peer = rig.connect()
    peer.subscribe("a")
    peer.forget()

    for number in range(8):
        rig.deliver("a", number)
        rig.advance(4)

    assert [] not in peer.frames


def test_a_stalled_client_gets_its_heartbeat_when_it_is_resumed() -> None:
    rig = Rig(A, tuning=Tuning(heartbeat=5, write_timeout=100))
    peer = rig.connect()
    peer.stall()
    peer.forget()

    rig.advance(20)
    before = peer.frames
    peer.resume()
    rig.advance(GRAIN)

    assert (before, peer.frames) == ([], [[]])


def test_an_answer_replaces_a_heartbeat() -> None:
    rig = Rig(A, tuning=Tuning(heartbeat=5))
    peer = rig.connect()
    peer.forget()

    rig.now += 6
    rig.engine.receive_data(peer.session, '{"action":"ping"}', rig.now)
    rig.pump()

    assert peer.types == ["$pong"]
    assert [] not in peer.frames


def test_a_frame_that_is_owed_replaces_a_heartbeat() -> None:
    rig = Rig(A, tuning=Tuning(heartbeat=5, interval=0.125))
    peers = rig.subscribers(257, "a")
    rig.publish("a", 1)
    rig.engine.handle_timer(rig.now)
    deliveries = rig.engine.data_to_send()
    rig.write(*next(deliveries))

    rig.now += 6
    rig.pump()

    assert peers[256].frames[0] == peers[0].frames[0]
    assert peers[256].data() == [1]


def test_a_session_that_has_ended_has_no_deadlines() -> None:
    rig = Rig(A, tuning=Tuning(auth_timeout=1, heartbeat=1))
    peers = [rig.connect(identity=None), rig.connect()]

    for peer in peers:
        rig.engine.disconnect(peer.session, rig.now)
        peer.forget()
    rig.advance(10)

    assert [peer.close for peer in peers] == [None, None]
    assert [peer.frames for peer in peers] == [[], []]
