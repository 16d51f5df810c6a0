"""What goes out in which order; flushes of crowds so big that they are written in slices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.cohort import SLICE, Delivery
from analytics_hub.protocol import MAX_FRAME_BYTES
from analytics_hub.tuning import Tuning

from .rig import ALICE, Rig
from .wire import LineWire

A = Channel("a")
B = Channel("b")
TABLE = Channel("t", mode="table")
BEAT = 0.125


class Flush:
    """A flush of a crowd of which one slice has been written and two are still owed."""

    def __init__(self, count: int = 2 * SLICE + 1) -> None:
        self.rig = Rig(A, B, TABLE, tuning=Tuning(interval=BEAT))
        self.peers = self.rig.subscribers(count, "a", "b", "t")
        self.rig.publish("a", 1, 2)
        self.rig.publish("t", "old", "new", key="k")
        self.rig.engine.handle_timer(self.rig.now)
        self.deliveries: Iterator[Delivery] = self.rig.engine.data_to_send()
        self.write_one()
        self.served = self.peers[0]
        self.owed = self.peers[SLICE]
        self.last = self.peers[-1]

    def write_one(self) -> None:
        delivery = next(self.deliveries)
        self.rig.write(delivery.frame, delivery.recipients)

    def go_on(self) -> None:
        self.rig.pump()


def test_a_big_crowd_is_written_in_slices() -> None:
    flush = Flush()
    sizes = [len(delivery.recipients) for delivery in flush.deliveries]

    assert sizes == [SLICE, 1]


def test_every_member_of_a_big_crowd_is_written_once() -> None:
    flush = Flush()

    flush.go_on()

    assert [peer.data() for peer in flush.peers] == [[1, 2, "new"]] * len(flush.peers)


def test_who_is_not_written_yet_has_it_pending() -> None:
    flush = Flush()

    served, owed = flush.served.ledger("a"), flush.owed.ledger("a")
    flush.go_on()

    assert (served.delivered, served.pending) == (2, 0)
    assert (owed.delivered, owed.pending) == (0, 2)
    assert flush.owed.ledger("a") == served


def test_what_was_superseded_is_so_for_who_is_not_written_yet() -> None:
    flush = Flush()

    ledger = flush.owed.ledger("t")

    assert (ledger.conflated, ledger.pending, ledger.delivered) == (1, 1, 0)


def test_an_answer_goes_after_the_portion_that_is_owed() -> None:
    flush = Flush()

    flush.rig.engine.receive_data(flush.owed.session, '{"action":"ping"}', flush.rig.now)
    flush.go_on()

    assert flush.owed.types == ["a", "a", "t", "$pong"]
    assert flush.owed.ledger("a").delivered == 2


def test_an_answer_to_who_is_written_already_goes_at_once() -> None:
    flush = Flush()

    flush.rig.engine.receive_data(flush.served.session, '{"action":"ping"}', flush.rig.now)
    flush.write_one()

    assert flush.served.types == ["a", "a", "t", "$pong"]
    assert flush.owed.items == []


def test_several_answers_in_the_middle_of_a_flush_lose_and_repeat_nothing() -> None:
    flush = Flush()
    askers = [*flush.peers[SLICE : SLICE + 5], flush.last, flush.served]

    for peer in askers:
        flush.rig.engine.receive_data(peer.session, '{"action":"ping"}', flush.rig.now)
    flush.go_on()
    flush.rig.publish("a", 3)
    flush.rig.advance(1)

    assert [peer.data() for peer in flush.peers] == [[1, 2, "new", 3]] * len(flush.peers)


def test_who_leaves_in_the_middle_abandons_what_it_is_owed() -> None:
    flush = Flush()

    flush.rig.engine.disconnect(flush.owed.session, flush.rig.now)
    flush.rig.engine.disconnect(flush.last.session, flush.rig.now)
    flush.rig.engine.disconnect(flush.served.session, flush.rig.now)
    flush.go_on()

    assert flush.owed.data() == flush.last.data() == []
    assert flush.owed.ledger("a").abandoned == flush.last.ledger("a").abandoned == 2
    assert flush.served.ledger("a").delivered == 2
    assert flush.peers[SLICE + 1].data() == [1, 2, "new"]


def test_a_crowd_may_vanish_in_the_middle() -> None:
    flush = Flush()

    for peer in flush.peers:
        flush.rig.engine.disconnect(peer.session, flush.rig.now)
    flush.go_on()

    assert flush.rig.engine.statistics().cohorts == 0
    assert flush.owed.data() == []
    assert flush.rig.engine.is_quiet


def test_who_ends_a_subscription_in_the_middle_gets_its_portion_first() -> None:
    flush = Flush()

    flush.rig.engine.receive_data(flush.owed.session, '{"action":"unsubscribe","channels":["a"]}', flush.rig.now)
    flush.go_on()

    assert flush.owed.types == ["a", "a", "t", "$unsubscribed"]
    assert flush.owed.items_of("$unsubscribed")[0]["channels"] == [{"channel": "a", "seq": 2, "abandoned": 0}]


def test_who_is_ended_in_the_middle_gets_its_portion_first() -> None:
    flush = Flush()

    flush.rig.engine.end(flush.owed.session, 1012, "bye", flush.rig.now)
    assert list(flush.rig.engine.events()) == []
    flush.go_on()

    assert flush.owed.data() == [1, 2, "new"]
    assert flush.owed.close is not None
    assert flush.owed.ledger("a").delivered == 2


def test_who_is_stalled_by_its_portion_gets_the_answer_later() -> None:
    flush = Flush()
    flush.owed.is_full = True

    flush.rig.engine.receive_data(flush.owed.session, '{"action":"ping"}', flush.rig.now)
    flush.rig.publish("a", 3)
    flush.go_on()
    flush.rig.advance(1)

    assert flush.owed.types == ["a", "a", "t"]
    assert flush.last.data() == [1, 2, "new", 3]
    flush.owed.resume()
    assert flush.owed.types == ["a", "a", "t", "$pong", "a"]


def test_who_is_stalled_by_its_portion_as_it_ends_loses_its_last_words() -> None:
    flush = Flush()
    flush.owed.is_full = True

    flush.rig.engine.receive_data(flush.owed.session, '{"action":"ping"}', flush.rig.now)
    flush.rig.engine.end(flush.owed.session, 1012, "bye", flush.rig.now)
    flush.go_on()

    assert flush.owed.types == ["a", "a", "t"]
    assert flush.owed.close is not None


def test_those_that_stall_as_they_are_written_stay_together() -> None:
    flush = Flush()
    slow = flush.peers[SLICE : SLICE + 4]
    for peer in slow:
        peer.is_full = True

    flush.go_on()
    flush.rig.publish("a", 3)
    flush.rig.advance(1)

    assert flush.rig.engine.statistics().cohorts == 2
    assert [peer.data() for peer in slow] == [[1, 2, "new"]] * 4
    for peer in slow:
        peer.resume()
    assert [peer.data() for peer in slow] == [[1, 2, "new", 3]] * 4


def test_who_comes_in_the_middle_gets_what_is_published_from_then_on() -> None:
    flush = Flush()
    new = flush.rig.new_peer(ALICE, LineWire(), "new")

    flush.rig.engine.receive_data(new.session, '{"action":"subscribe","channels":["a","b"]}', flush.rig.now)
    flush.rig.publish("a", 3)
    flush.go_on()
    flush.rig.advance(1)

    assert new.data() == [3]
    assert flush.owed.data() == [1, 2, "new", 3]


def test_what_is_published_in_the_middle_goes_with_the_next_flush() -> None:
    flush = Flush()

    flush.rig.publish("b", 3)
    flush.go_on()
    before = flush.owed.data()
    flush.rig.advance(BEAT)

    assert before == [1, 2, "new"]
    assert [peer.data() for peer in flush.peers] == [[1, 2, "new", 3]] * len(flush.peers)


def test_looking_at_the_time_in_the_middle_writes_nothing_twice() -> None:
    rig = Rig(A, tuning=Tuning(interval=BEAT))
    peers = rig.subscribers(2, "a")
    other = rig.connect()
    other.subscribe({"channel": "a", "max_hz": 500})
    rig.advance(1)

    rig.publish("a", 1)
    rig.engine.handle_timer(rig.now)
    rig.publish("a", 2)
    for delivery in rig.engine.data_to_send():
        rig.write(delivery.frame, delivery.recipients)
        rig.publish("a", 3)
        rig.engine.handle_timer(rig.now)
    rig.advance(1)

    assert peers[0].data() == peers[1].data() == other.data()
    assert peers[0].data()[:3] == [1, 2, 3]


@pytest.mark.parametrize("verb", ["stalled", "disconnect"])
def test_who_is_due_and_can_take_nothing_is_passed_over(verb: str) -> None:
    rig = Rig(A, tuning=Tuning(interval=BEAT))
    (peer,) = rig.subscribers(1, "a")

    rig.publish("a", 1)
    rig.engine.handle_timer(rig.now)
    getattr(rig.engine, verb)(peer.session, rig.now)
    rig.pump()

    assert peer.data() == []


def test_two_turns_before_the_first_write_are_one_flush() -> None:
    rig = Rig(A, B, tuning=Tuning(interval=BEAT))
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
    assert [[item["data"] for item in frame] for frame in peer.frames] == [[1, 2], [3]]


def test_answers_bypass_data() -> None:
    rig = Rig(A)
    (peer,) = rig.subscribers(1, "a")

    rig.publish("a", 1)
    rig.engine.receive_data(peer.session, '{"action":"ping"}', rig.now)
    rig.pump()

    assert peer.types == ["$pong", "a"]


def test_long_answers_go_in_frames_and_writes_that_are_not_too_long() -> None:
    rig = Rig(A, tuning=Tuning(max_batch=3, command_rate=None, control_bytes=1_000_000))
    peer = rig.connect()
    peer.forget()
    name = "x" * 300
    command = '{"action":"subscribe","channels":[' + ",".join([f'"{name}"'] * 128) + "]}"

    rig.engine.stalled(peer.session, rig.now)
    peer.send_raw("[" + ",".join([command] * 12) + "]")
    peer.resume()

    assert len(peer.items_of("$subscribed")) == 12
    assert len(peer.writes) > 1
    assert max(map(len, peer.frames)) == 3
    assert len(command) * 12 > MAX_FRAME_BYTES


def test_the_last_words_are_written_however_long_they_are() -> None:
    rig = Rig(A, tuning=Tuning(command_rate=None, control_bytes=1_000_000))
    peer = rig.connect()
    peer.forget()
    name = "x" * 300
    command = '{"action":"subscribe","channels":[' + ",".join([f'"{name}"'] * 128) + "]}"

    rig.engine.stalled(peer.session, rig.now)
    peer.send_raw("[" + ",".join([command] * 12) + "]")
    rig.engine.resumed(peer.session, rig.now)
    peer.send_raw("[" + ",".join(["5"] * 10) + "]")

    assert len(peer.items_of("$subscribed")) == 12
    assert len(peer.items_of("$error")) == 10
    assert peer.close is not None
    assert peer.close.code == 4400


def test_who_stalls_before_its_answer_gets_it_later() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.forget()

    rig.engine.receive_data(peer.session, '{"action":"ping"}', rig.now)
    rig.engine.stalled(peer.session, rig.now)
    rig.pump()
    before = peer.types
    peer.resume()

    assert (before, peer.types) == ([], ["$pong"])


def test_the_lane_of_a_stalled_client_is_bounded_in_bytes() -> None:
    rig = Rig(A, tuning=Tuning(control_bytes=1024))
    peer = rig.connect()
    peer.stall()
    peer.forget()

    for _ in range(50):
        peer.send({"action": "ping"})

    assert peer.close is not None
    assert (peer.close.code, peer.close.reason) == (4503, "too many control items wait")
    assert peer.items == []


def test_a_lane_that_was_written_is_empty() -> None:
    rig = Rig(A, tuning=Tuning(control_bytes=1024))
    peer = rig.connect()

    for _ in range(50):
        peer.send({"action": "ping"})
        peer.stall()
        peer.send({"action": "ping"})
        peer.resume()

    assert peer.close is None
    assert len(peer.items_of("$pong")) == 100


def test_whose_lane_is_too_full_for_its_welcome_is_closed_once() -> None:
    rig = Rig(A, tuning=Tuning(control_bytes=1024))
    peer = rig.connect(identity=None)
    peer.stall()
    for _ in range(6):
        peer.send({"action": "ping"})
    lives = peer.close is None

    peer.send({"action": "auth", "token": "t"})
    rig.engine.authenticated(peer.session, ALICE, rig.now)
    rig.pump()

    assert lives
    assert peer.close is not None
    assert peer.close.code == 4503
    assert peer.items == []
    assert not peer.session.subscriptions
