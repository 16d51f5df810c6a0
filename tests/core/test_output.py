"""The order of what is written, and flushes of cohorts so large that they are written in slices."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.cohort import SLICE, Delivery
from analytics_hub.protocol import MAX_FRAME_BYTES
from analytics_hub.tuning import Tuning

from .rig import ALICE, Rig
from .wire import Fields

A = Channel("a")
B = Channel("b")
TABLE = Channel("t", mode="table")
INTERVAL = 0.125
PING: Fields = {"action": "ping"}


class Flush:
    """A flush of which one slice was written, and two slices are still owed."""

    def __init__(self) -> None:
        self.rig = Rig(A, B, TABLE, tuning=Tuning(interval=INTERVAL))
        self.peers = self.rig.subscribers(2 * SLICE + 1, "a", "b", "t")
        self.rig.publish("a", 1, 2)
        self.rig.publish("t", "old", "new", key="k")
        self.rig.engine.handle_timer(self.rig.now)
        self.deliveries: Iterator[Delivery] = self.rig.engine.data_to_send()
        self.write_one()
        self.written = self.peers[0]
        self.owed = self.peers[SLICE]
        self.last = self.peers[-1]

    def write_one(self) -> None:
        delivery = next(self.deliveries)
        self.rig.write(delivery.frame, delivery.recipients)

    def receive(self, text: str) -> None:
        """A command of the client that is owed its slice, without writing the rest."""
        self.rig.engine.receive_data(self.owed.session, text, self.rig.now)


def test_a_large_cohort_is_written_in_slices() -> None:
    flush = Flush()
    sizes = []
    for delivery in flush.deliveries:
        sizes.append(len(delivery.recipients))
        flush.rig.write(delivery.frame, delivery.recipients)

    assert sizes == [SLICE, 1]
    assert [peer.data() for peer in flush.peers] == [[1, 2, "new"]] * len(flush.peers)


def test_what_a_member_is_owed_is_pending() -> None:
    flush = Flush()

    written, owed, table = flush.written.ledger("a"), flush.owed.ledger("a"), flush.owed.ledger("t")
    flush.rig.pump()

    assert (written.delivered, written.pending) == (2, 0)
    assert (owed.delivered, owed.pending) == (0, 2)
    assert (table.conflated, table.pending, table.delivered) == (1, 1, 0)
    assert flush.owed.ledger("a") == written


def test_an_answer_goes_after_what_is_owed() -> None:
    flush = Flush()

    flush.receive('{"action":"unsubscribe","channels":["a"]}')
    flush.rig.pump()

    assert flush.owed.types == ["a", "a", "t", "$unsubscribed"]
    assert flush.owed.items_of("$unsubscribed")[0]["channels"] == [{"channel": "a", "seq": 2, "abandoned": 0}]


def test_an_answer_to_a_member_that_was_written_already_goes_at_once() -> None:
    flush = Flush()

    flush.rig.engine.receive_data(flush.written.session, '{"action":"ping"}', flush.rig.now)
    flush.write_one()

    assert flush.written.types == ["a", "a", "t", "$pong"]
    assert flush.owed.items == []


def test_a_member_that_disconnects_abandons_what_it_is_owed() -> None:
    flush = Flush()

    for peer in (flush.owed, flush.last, flush.written):
        flush.rig.engine.disconnect(peer.session, flush.rig.now)
    flush.rig.pump()

    assert flush.owed.data() == flush.last.data() == []
    assert flush.owed.ledger("a").abandoned == flush.last.ledger("a").abandoned == 2
    assert flush.written.ledger("a").delivered == 2
    assert flush.peers[SLICE + 1].data() == [1, 2, "new"]


def test_all_members_may_disconnect_in_the_middle() -> None:
    flush = Flush()

    for peer in flush.peers:
        flush.rig.engine.disconnect(peer.session, flush.rig.now)
    flush.rig.pump()

    assert flush.rig.engine.statistics().cohorts == 0
    assert flush.owed.data() == []
    assert flush.rig.engine.is_quiet


def test_a_session_that_is_ended_gets_what_it_is_owed_first() -> None:
    flush = Flush()

    flush.rig.engine.end(flush.owed.session, 1012, "bye", flush.rig.now)
    assert list(flush.rig.engine.events()) == []
    flush.rig.pump()

    assert flush.owed.data() == [1, 2, "new"]
    assert flush.owed.close is not None
    assert flush.owed.ledger("a").delivered == 2


def test_a_member_stalled_by_its_slice_gets_the_answer_later() -> None:
    flush = Flush()
    flush.owed.is_full = True

    flush.receive('{"action":"ping"}')
    flush.rig.publish("a", 3)
    flush.rig.pump()
    flush.rig.advance(1)

    assert flush.owed.types == ["a", "a", "t"]
    assert flush.last.data() == [1, 2, "new", 3]
    flush.owed.resume()
    assert flush.owed.types == ["a", "a", "t", "$pong", "a"]


@pytest.mark.parametrize("verb", ["stalled", "disconnect"])
def test_a_client_that_is_due_and_cannot_be_written_to_is_skipped(verb: str) -> None:
    rig = Rig(A, tuning=Tuning(interval=INTERVAL))
    (peer,) = rig.subscribers(1, "a")

    rig.publish("a", 1)
    rig.engine.handle_timer(rig.now)
    getattr(rig.engine, verb)(peer.session, rig.now)
    rig.pump()

    assert peer.data() == []


def test_two_turns_before_the_first_write_are_one_flush() -> None:
    rig = Rig(A, B, tuning=Tuning(interval=INTERVAL))
    (peer,) = rig.subscribers(1, "a", "b")

    rig.publish("a", 1)
    rig.engine.handle_timer(rig.now)
    rig.publish("b", 2)
    rig.engine.handle_timer(rig.now)
    deliveries = rig.engine.data_to_send()
    rig.write(*next(deliveries))
    rig.publish("a", 3)
    rig.engine.handle_timer(rig.now)
    rest = list(deliveries)
    rig.advance(1)

    assert rest == []
    assert peer.written_data == [[1, 2], [3]]


# --- control items


def test_control_items_go_before_data() -> None:
    rig = Rig(A)
    (peer,) = rig.subscribers(1, "a")

    rig.publish("a", 1)
    rig.engine.receive_data(peer.session, '{"action":"ping"}', rig.now)
    rig.pump()

    assert peer.types == ["$pong", "a"]


COMMANDS_WITH_LONG_ANSWERS = json.dumps([{"action": "subscribe", "channels": ["x" * 300] * 128}] * 12)


def test_long_answers_take_several_frames_and_writes() -> None:
    rig = Rig(A, tuning=Tuning(max_batch=3, command_rate=None, control_bytes=1_000_000))
    peer = rig.connect()
    peer.forget()

    rig.engine.stalled(peer.session, rig.now)
    peer.send_raw(COMMANDS_WITH_LONG_ANSWERS)
    peer.resume()

    assert len(peer.items_of("$subscribed")) == 12
    assert len(peer.writes) > 1
    assert max(map(len, peer.frames)) == 3
    assert max(peer.sizes) <= MAX_FRAME_BYTES


def test_control_items_are_written_before_the_close_however_long_they_are() -> None:
    rig = Rig(A, tuning=Tuning(command_rate=None, control_bytes=1_000_000))
    peer = rig.connect()
    peer.forget()

    rig.engine.stalled(peer.session, rig.now)
    peer.send_raw(COMMANDS_WITH_LONG_ANSWERS)
    rig.engine.resumed(peer.session, rig.now)
    peer.send_raw("[" + ",".join(["5"] * 10) + "]")

    assert len(peer.items_of("$subscribed")) == 12
    assert len(peer.items_of("$error")) == 10
    assert peer.close is not None
    assert peer.close.code == 4400


def test_a_client_that_stalls_before_its_answer_gets_it_later() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.forget()

    rig.engine.receive_data(peer.session, '{"action":"ping"}', rig.now)
    rig.engine.stalled(peer.session, rig.now)
    rig.pump()
    before = peer.types
    peer.resume()

    assert (before, peer.types) == ([], ["$pong"])


def test_the_control_queue_of_a_stalled_client_is_bounded_in_bytes() -> None:
    rig = Rig(A, tuning=Tuning(control_bytes=1024))
    peer = rig.connect()
    peer.stall()
    peer.forget()

    peer.send(*[PING] * 50)

    assert peer.ending == (4503, "too many control items wait")
    assert peer.items == []


def test_a_control_queue_that_was_written_is_empty() -> None:
    rig = Rig(A, tuning=Tuning(control_bytes=1024))
    peer = rig.connect()

    for _ in range(50):
        peer.send(PING)
        peer.stall()
        peer.send(PING)
        peer.resume()

    assert peer.close is None
    assert len(peer.items_of("$pong")) == 100


def test_a_control_queue_too_full_for_hello_closes_the_client_once() -> None:
    rig = Rig(A, tuning=Tuning(control_bytes=1024))
    peer = rig.connect(identity=None)
    peer.stall()
    peer.send(*[PING] * 6)
    is_closed_early = peer.close is not None

    peer.send({"action": "auth", "token": "t"})
    rig.engine.authenticated(peer.session, ALICE, rig.now)
    rig.pump()

    assert not is_closed_early
    assert peer.close is not None
    assert peer.close.code == 4503
    assert peer.items == []
    assert not peer.session.subscriptions
