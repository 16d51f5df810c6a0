"""The positions that frames state, for wires with a cursor."""

from __future__ import annotations

import msgspec
import pytest

from analytics_hub.channels import Channel
from analytics_hub.core import cohort as cohort_module
from analytics_hub.core.events import Read
from analytics_hub.protocol import MAX_FRAME_BYTES
from analytics_hub.tuning import Tuning

from .cursor_wire import Cursor, CursorWire, cuts, last_cursor
from .rig import Peer, Rig
from .wire import Fields

A = Channel("a")
B = Channel("b")
INTERVAL = 0.125
TUNING = Tuning(interval=INTERVAL)


def connect(rig: Rig, *channels: str | Fields) -> Peer:
    """A client with a cursor and these subscriptions."""
    peer = rig.connect(wire=CursorWire())
    peer.subscribe(*channels)
    return peer


def seqs(cursor: Cursor) -> dict[str, int]:
    return {channel: seq for channel, (_, seq) in cursor.items()}


def test_a_client_without_subscriptions_has_no_position() -> None:
    peer = Rig(A).connect(wire=CursorWire())

    assert last_cursor(peer) == {}


def test_a_cursor_has_epochs_and_numbers() -> None:
    rig = Rig(A, B, tuning=TUNING)
    rig.publish("a", 1, 2)

    peer = connect(rig, "a", {"channel": "b", "last": 5})

    epochs = {answer["channel"]: answer["epoch"] for answer in peer.items_of("$subscribed")[0]["channels"]}
    assert last_cursor(peer) == {"a": (epochs["a"], 2), "b": (epochs["b"], 0)}


def test_each_frame_of_a_write_states_a_position_below_the_next() -> None:
    rig = Rig(A, B, tuning=Tuning(interval=INTERVAL, max_batch=2))
    peer = connect(rig, "a", "b")
    peer.forget()

    rig.publish("a", 1)
    rig.publish("b", 1, 2)
    rig.publish("a", 2, 3)
    rig.advance(1)

    assert [seqs(cut.cursor) for cut in cuts(peer)] == [{"a": 1, "b": 1}, {"a": 2, "b": 2}, {"a": 3, "b": 2}]


def test_a_busy_client_with_a_cursor_does_not_follow() -> None:
    rig = Rig(A, tuning=TUNING)
    peer = connect(rig, "a")

    for number in range(1, 20):
        rig.publish("a", *range(3))
        rig.advance(INTERVAL)

        assert peer.session.cohort is not None
        assert peer.session.cohort.queue is None
        assert seqs(last_cursor(peer)) == {"a": 3 * number}


def test_a_snapshot_in_several_frames_states_positions_below_what_is_still_to_come() -> None:
    rig = Rig(Channel("t", mode="table"), tuning=Tuning(interval=INTERVAL, max_batch=2))
    for number in range(5):
        rig.publish("t", number, key=str(number))
    rig.publish("t", 5, key="0")

    peer = connect(rig, "t")
    rig.advance(1)

    assert [seqs(cut.cursor) for cut in cuts(peer)[-3:]] == [{"t": 3}, {"t": 5}, {"t": 6}]


def test_a_table_in_several_writes_states_positions_below_what_is_still_to_come() -> None:
    rig = Rig(Channel("t", mode="table"), tuning=Tuning(interval=INTERVAL, max_batch=2, max_frames=1))
    for number in range(4):
        rig.publish("t", number, key=str(number))

    peer = connect(rig, "t")
    assert seqs(last_cursor(peer)) == {"t": 2}
    rig.publish("t", "newer", key="3")
    rig.advance(1)

    assert [seqs(cut.cursor) for cut in cuts(peer)[-2:]] == [{"t": 4}, {"t": 5}]


def test_a_loss_that_was_not_reported_is_still_ahead() -> None:
    rig = Rig(A, B, tuning=Tuning(interval=INTERVAL, buffer_items=2))
    peer = connect(rig, "a", "b")
    peer.stall()
    rig.publish("a", *range(5))
    rig.now += 1
    rig.engine.resumed(peer.session, rig.now)
    peer.send({"action": "ping"})

    pong, gap = cuts(peer)[-2:]

    assert [item["type"] for item in pong.items] == ["$pong"]
    assert seqs(pong.cursor) == {"a": 0, "b": 0}
    assert gap.items[0]["to"] == 3
    assert seqs(gap.cursor) == {"a": 5, "b": 0}


def test_a_gap_and_its_next_item_may_be_in_two_frames() -> None:
    rig = Rig(A, tuning=Tuning(interval=INTERVAL, buffer_items=2, max_batch=1))
    peer = connect(rig, "a")
    peer.stall()
    rig.publish("a", *range(5))
    rig.now += 1
    peer.forget()
    peer.resume()

    assert [seqs(cut.cursor) for cut in cuts(peer)] == [{"a": 3}, {"a": 4}, {"a": 5}]


def test_an_answer_after_a_frame_that_was_owed_states_the_position_after_it() -> None:
    cohort_module.SLICE = 1  # type: ignore[misc]  # reset by the fixture
    rig = Rig(A, B, tuning=TUNING)
    peers = [connect(rig, "a") for _ in range(2)]
    rig.advance(1)
    rig.publish("a", 1)
    rig.engine.handle_timer(rig.now)
    first = next(rig.engine.data_to_send())
    rig.write(first.frame, first.recipients)
    owed = peers[1]

    rig.publish("a", 2)
    owed.subscribe("b")

    assert [seqs(cut.cursor) for cut in cuts(owed)[-2:]] == [{"a": 1}, {"a": 1, "b": 0}]


def test_the_answer_to_unsubscribe_does_not_state_the_channel() -> None:
    rig = Rig(A, B, tuning=TUNING)
    peer = connect(rig, "a", "b")

    peer.unsubscribe("a")

    assert seqs(last_cursor(peer)) == {"b": 0}


def test_a_client_keeps_its_position_until_all_answers_are_written() -> None:
    """Otherwise a client that is cut off between `$subscribed` and its `$gap` would never learn of the loss."""
    rig = Rig(Channel("a", keep_items=2), B, tuning=Tuning(interval=INTERVAL, max_batch=1))
    peer = connect(rig, "b")
    rig.publish("a", *range(9))
    epoch = rig.engine.registry.logs["a"].epoch

    peer.forget()
    peer.send({"action": "subscribe", "channels": [{"channel": "a", "since": {"epoch": epoch, "seq": 3}}]})

    answer, gap, *data = cuts(peer)
    assert seqs(answer.cursor) == {"b": 0}
    assert gap.items[0]["type"] == "$gap"
    assert seqs(gap.cursor) == {"a": 7, "b": 0}
    assert [seqs(cut.cursor)["a"] for cut in data] == [8, 9]


def test_the_last_of_several_writes_with_answers_states_the_new_position() -> None:
    rig = Rig(A, B, tuning=Tuning(interval=INTERVAL, command_rate=None, control_bytes=1_000_000))
    peer = connect(rig, "a")
    peer.forget()
    names = [f"{number:0255}" for number in range(128)]
    commands: list[Fields] = [{"action": "subscribe", "channels": ["b"]}]
    commands += [{"action": "subscribe", "channels": names}] * (2 + MAX_FRAME_BYTES // (128 * 400))

    rig.engine.stalled(peer.session, rig.now)
    rig.engine.receive_data(peer.session, msgspec.json.encode(commands).decode(), rig.now)
    rig.pump()
    peer.resume()

    assert len(peer.writes) > 1
    assert [set(cut.cursor) for cut in cuts(peer)[:-1]] == [{"a"}] * (len(cuts(peer)) - 1)
    assert set(last_cursor(peer)) == {"a", "b"}


@pytest.mark.parametrize("max_batch", [1, 50])
def test_a_write_has_room_for_its_cursors(max_batch: int) -> None:
    names = [f"{number:0200}" for number in range(50)]
    tuning = Tuning(interval=INTERVAL, rate=None, max_batch=max_batch, max_subscriptions=1000)
    rig = Rig(*map(Channel, names), tuning=tuning)
    peer = connect(rig, *names)
    peer.forget()

    rig.publish(names[0], *["x" * 1000] * 500)
    rig.publish(names[1], "x" * 60_000)
    rig.advance(30)

    assert seqs(last_cursor(peer))[names[0]] == 500
    assert len(peer.sizes) > 3
    assert max(peer.sizes) <= MAX_FRAME_BYTES


def test_heartbeats_state_no_position() -> None:
    rig = Rig(A, tuning=Tuning(heartbeat=5))
    peer = connect(rig, "a")
    peer.forget()

    rig.advance(6)

    assert peer.frames == [[]]


def test_items_from_the_journal_state_their_positions() -> None:
    rig = Rig(
        Channel("d", mode="durable", keep_items=2), tuning=Tuning(interval=INTERVAL, journal_chunk=3, max_batch=2)
    )
    rig.publish_durable("d", *range(8))
    peer = connect(rig, {"channel": "d", "last": 8})
    while (place := last_cursor(peer)["d"][1]) < 8:
        if rig.events_of(Read)[-1].after == place:
            rig.answer_read()
        rig.advance(1)

    assert [seqs(cut.cursor)["d"] for cut in cuts(peer)[1:]] == [0, 2, 3, 5, 6, 8]
