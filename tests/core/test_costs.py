"""What one client can make the engine do, and keep, with few bytes: counted, never timed."""

from __future__ import annotations

import json

import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.commands import TURN
from analytics_hub.core.subscriptions import MAX_CLOSED
from analytics_hub.exceptions import ChannelLimitReached, UnknownChannel
from analytics_hub.tuning import Tuning

from .rig import Peer, Rig

A = Channel("a")
ROOMS = Channel("room:*", keep_seconds=300)
PING = '{"action":"ping"}'


def rooms(first: int, count: int) -> list[str]:
    return [f"room:{number}" for number in range(first, first + count)]


def command(action: str, *names: str) -> str:
    return json.dumps({"action": action, "channels": names})


def hand_in(rig: Rig, peer: Peer, *commands: str) -> None:
    """One frame, without a turn of the driver."""
    rig.engine.receive_data(peer.session, f"[{','.join(commands)}]", rig.now)


# --- turns


@pytest.mark.parametrize("names", [["a"], ["a"] * 16], ids=["one channel each", "sixteen channels each"])
def test_a_frame_full_of_commands_is_executed_turn_by_turn(names: list[str]) -> None:
    rig = Rig(A)
    flooding, other = rig.connect(), rig.connect()

    hand_in(rig, flooding, *[command("subscribe", *names)] * (4 * TURN // len(names)))
    hand_in(rig, other, PING)
    left = len(flooding.session.commands)
    timer = rig.engine.get_timer()
    rig.engine.handle_timer(rig.now)
    left_after_a_turn = len(flooding.session.commands)
    rig.pump()

    turn = TURN // len(names)
    assert (left, left_after_a_turn) == (3 * turn, 2 * turn)
    assert timer == rig.now
    assert not other.session.commands
    assert len(flooding.items_of("$subscribed")) == 4 * turn


def test_floods_of_several_clients_share_a_turn() -> None:
    rig = Rig(A)
    peers = [rig.connect() for _ in range(5)]
    for peer in peers:
        hand_in(rig, peer, *[PING] * (2 * TURN))

    rig.engine.handle_timer(rig.now)
    left = sum(len(peer.session.commands) for peer in peers)
    rig.pump()

    assert left == 4 * TURN
    assert [len(peer.items_of("$pong")) for peer in peers] == [2 * TURN] * 5


def test_the_answers_to_a_client_that_reads_nothing_are_bounded() -> None:
    rig = Rig(A)
    peer = rig.connect()
    rig.pump()
    peer.is_full = True

    hand_in(rig, peer, *[command("subscribe", *["?"] * 128)] * 100)
    rig.pump()

    assert peer.close is not None
    assert peer.close.code == 4503
    assert sum(peer.sizes) < 64 * 1024


def test_a_client_that_disconnects_in_the_middle_of_its_commands_leaves_none() -> None:
    rig = Rig(A)
    peer = rig.connect()

    hand_in(rig, peer, *[PING] * (3 * TURN))
    rig.engine.disconnect(peer.session, rig.now)

    assert not rig.engine.wants_turn
    assert not peer.session.commands


# --- the rate


def test_each_channel_that_a_command_names_counts_as_a_command() -> None:
    rig = Rig(*map(Channel, "abcdef"), tuning=Tuning(command_rate=4))
    peer = rig.connect()

    peer.subscribe(*"abcdef")
    peer.send({"action": "ping", "id": 1})
    rig.advance(0.75)
    peer.send({"action": "ping", "id": 2})

    assert [answer["ok"] for answer in peer.items_of("$subscribed")[0]["channels"]] == [True] * 6
    (error,) = peer.items_of("$error")
    assert (error["id"], error["code"], error["after"]) == (1, "rate-limited", 0.75)
    assert [answer["id"] for answer in peer.items_of("$pong")] == [2]


def test_a_client_with_many_subscriptions_may_change_them_less_often() -> None:
    """Each change moves all of them to another cohort."""
    names = [f"c{number}" for number in range(64)]
    rig = Rig(*map(Channel, names), tuning=Tuning(command_rate=100))
    peer = rig.connect()
    peer.subscribe(*names)
    rig.advance(10)

    hand_in(rig, peer, *[command("subscribe", "c1")] * 30)
    rig.pump()

    assert len(peer.items_of("$subscribed")) == 1 + 100 // 5
    assert len(peer.items_of("$error")) == 10


# --- names


def test_the_message_about_an_unknown_channel_names_no_member_of_a_pattern() -> None:
    rig = Rig(A, ROOMS)
    rig.connect().subscribe("room:secret")

    with pytest.raises(UnknownChannel, match=r"'nosuch' is not declared; the hub has a, room:\*$"):
        rig.publish("nosuch", 1)


def test_a_client_that_goes_through_the_names_of_a_pattern_occupies_no_place_for_long() -> None:
    rig = Rig(ROOMS, tuning=Tuning(max_members=20, command_rate=None))
    peer = rig.connect()
    for first in range(0, 100, 10):
        peer.subscribe(*rooms(first, 10))
        peer.unsubscribe(*rooms(first, 10))

    other = rig.connect().subscribe("room:1000")["channels"]
    rig.publish("room:1001", 1)

    assert other[0]["ok"]
    assert len(rig.engine.registry.logs) <= 12


def test_members_with_items_or_watchers_stay() -> None:
    rig = Rig(ROOMS, tuning=Tuning(max_members=4))
    peer, other = rig.connect(), rig.connect()
    rig.publish("room:1", 1)
    peer.subscribe(*rooms(1, 4))
    other.subscribe("room:2")
    peer.unsubscribe("room:1", "room:2", "room:3")
    rig.pump()

    assert sorted(rig.engine.registry.logs) == ["room:1", "room:2", "room:4"]
    rig.publish("room:5", 1)
    with pytest.raises(ChannelLimitReached):
        rig.publish("room:6", 1)


def test_a_session_keeps_a_bounded_number_of_closed_accounts() -> None:
    rig = Rig(A, ROOMS, tuning=Tuning(command_rate=None))
    peer = rig.connect()
    peer.subscribe("a")
    for first in range(0, MAX_CLOSED + 200, 100):
        peer.subscribe(*rooms(first, 100))
        peer.unsubscribe(*rooms(first, 100))

    rig.engine.disconnect(peer.session, rig.now)

    assert len(peer.session.final) == MAX_CLOSED
    assert "a" in peer.session.final


# --- tables and buffers


def test_a_table_counts_what_is_pending_however_much_was_deleted() -> None:
    rig = Rig(Channel("t", mode="table", max_keys=3))
    for key in "abc":
        rig.publish("t", 1, key=key)
    rig.engine.delete("t", "b", rig.now)
    log = rig.engine.registry.logs["t"]

    assert [log.position_back(count) for count in range(4)] == [4, 2, 0, 0]
    assert [log.count_pending(0, fresh) for fresh in (False, True)] == [3, 2]
    assert [log.count_pending(1, fresh) for fresh in (False, True)] == [2, 1]
    assert [log.count_pending(4, fresh) for fresh in (False, True)] == [0, 0]


@pytest.mark.parametrize("published", [12, 400], ids=["a few are dropped", "most are dropped"])
def test_a_client_that_starts_far_back_keeps_the_newest_items_of_all_its_channels(published: int) -> None:
    rig = Rig(*map(Channel, "ab"), tuning=Tuning(rate=1, buffer_items=10))
    for number in range(published):
        rig.publish("ab"[number % 2], number)
    peer = rig.connect()

    peer.subscribe({"channel": "a", "last": published}, {"channel": "b", "last": published})
    rig.advance(60)

    values = peer.data()
    assert values[-10:] == [*range(published - 10, published)]
    assert sum(gap["count"] for gap in peer.items_of("$gap")) + len(values) == published
