"""Durable channels: nothing reaches a client before the journal has it, and nothing the journal has is lost."""

from __future__ import annotations

import msgspec
import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.events import Append, Read
from analytics_hub.core.journal import RETRY
from analytics_hub.exceptions import InvalidItem
from analytics_hub.tuning import Tuning

from .rig import Peer, Rig

D = Channel("d", mode="durable", keep_items=3)
A = Channel("a")


def listen(rig: Rig, *, since: int = 0) -> Peer:
    """A client that resumes at a position."""
    peer = rig.connect()
    peer.send({"action": "subscribe", "channels": [{"channel": "d", "since": {"epoch": "test.1", "seq": since}}]})
    return peer


def test_nothing_is_written_before_the_journal_has_it() -> None:
    rig = Rig(D)
    peer = rig.connect()
    peer.subscribe("d")

    rig.deliver("d", 1)
    before = peer.data()
    rig.commit("d")

    assert (before, peer.data(), peer.seqs()) == ([], [1], [1])


def test_what_is_published_meanwhile_goes_as_the_next_batch() -> None:
    rig = Rig(D)
    rig.deliver("d", 1)
    rig.deliver("d", 2, 3)
    at_first = rig.events_of(Append)

    rig.commit("d")
    rig.commit("d")

    assert [len(batch.items) for batch in at_first] == [1]
    assert [(batch.first, len(batch.items)) for batch in rig.events_of(Append)] == [(1, 1), (2, 2)]
    assert [msgspec.json.decode(item)["seq"] for item in rig.events_of(Append)[1].items] == [2, 3]
    assert rig.engine.is_quiet


def test_a_batch_carries_what_the_driver_hung_on_it() -> None:
    rig = Rig(D)
    waiter = object()

    rig.deliver("d", 1, type="x", waiter=waiter)

    (draft,) = rig.events_of(Append)[0].drafts
    assert (draft.waiter, draft.type, draft.data) == (waiter, "x", b"1")


def test_an_item_of_the_journal_gets_its_number_late() -> None:
    rig = Rig(D, A)

    assert rig.engine.publish("d", b"1", rig.now) is None
    assert rig.engine.publish("a", b"1", rig.now) == ("test.2", 1)


def test_a_refused_batch_reaches_nobody_and_takes_no_number() -> None:
    rig = Rig(D)
    peer = rig.connect()
    peer.subscribe("d")
    rig.deliver("d", "lost", "too")

    rig.engine.rejected("d")
    rig.publish_durable("d", "kept")

    assert (peer.data(), peer.seqs()) == (["kept"], [1])
    assert rig.engine.statistics().counters["journal-rejected"] == 2


def test_the_engine_is_busy_while_a_batch_is_with_the_journal() -> None:
    rig = Rig(D)

    rig.publish("d", 1)
    waiting = (rig.engine.wants_turn, rig.engine.get_timer(), rig.engine.is_quiet)
    rig.pump()
    writing = (rig.engine.wants_turn, rig.engine.is_quiet)
    rig.commit("d")

    assert waiting == (True, rig.now, False)
    assert writing == (False, False)
    assert rig.engine.is_quiet


def test_an_item_that_is_too_large_never_reaches_the_journal() -> None:
    rig = Rig(D, tuning=Tuning(max_item_bytes=100))

    with pytest.raises(InvalidItem, match=r"the item for channel 'd' has .* bytes; at most 100 are allowed"):
        rig.deliver("d", "x" * 100)

    assert rig.events_of(Append) == []


# --- reading behind the memory


def test_who_is_behind_the_memory_reads_from_the_journal() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 11))
    peer = listen(rig)

    ledger = peer.ledger("d")
    rig.answer_read()
    rig.advance(1)

    assert ledger.pending == 10
    assert rig.events_of(Read) == [Read("d", 0, 256)]
    assert peer.data() == list(range(1, 11))
    assert peer.items_of("$subscribed")[0]["channels"][0]["recovered"] is True
    assert peer.items_of("$gap") == []


def test_the_journal_is_read_in_chunks() -> None:
    rig = Rig(D, tuning=Tuning(journal_chunk=4))
    rig.publish_durable("d", *range(1, 13))
    peer = listen(rig)

    for _ in range(3):
        rig.answer_read()
        rig.advance(1)

    assert [read.after for read in rig.events_of(Read)] == [0, 4, 8]
    assert peer.data() == list(range(1, 13))


def test_live_items_come_after_what_the_journal_gave() -> None:
    rig = Rig(D, A, tuning=Tuning(journal_chunk=4))
    rig.publish_durable("d", *range(1, 9))
    peer = listen(rig)
    peer.subscribe("a")

    rig.publish_durable("d", 9)
    rig.deliver("a", "other")
    rig.answer_read()
    rig.advance(1)
    rig.answer_read()
    rig.advance(1)

    assert peer.data("d") == list(range(1, 10))
    assert peer.data("a") == ["other"]


def test_those_at_one_position_share_an_answer() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 8))
    peers = []
    for hz in (None, 5, 7):
        peers.append(rig.connect())
        selection = {"channel": "d", "since": {"epoch": "test.1", "seq": 0}, "max_hz": hz}
        peers[-1].subscribe(selection)

    rig.answer_read()
    rig.advance(1)

    assert len(rig.events_of(Read)) == 1
    assert [peer.data() for peer in peers] == [list(range(1, 8))] * 3


def test_a_stalled_client_reads_on_from_the_journal() -> None:
    rig = Rig(D, tuning=Tuning(buffer_items=1))
    peer = rig.connect()
    peer.subscribe("d")
    peer.stall()
    rig.publish_durable("d", *range(1, 11))

    peer.resume()
    rig.answer_read()
    rig.advance(1)

    assert peer.data() == list(range(1, 11))
    assert peer.ledger("d").dropped == 0


def test_a_read_that_failed_is_tried_again() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 8))
    peer = listen(rig)

    rig.engine.journal_read("d", 0, None, rig.now)
    rig.advance(RETRY / 2)
    too_early = len(rig.events_of(Read))
    rig.advance(RETRY / 2)
    rig.answer_read()
    rig.advance(1)

    assert (too_early, len(rig.events_of(Read))) == (1, 2)
    assert peer.data() == list(range(1, 8))


def test_a_read_that_failed_is_not_tried_for_who_has_left() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 8))
    peer = listen(rig)

    rig.engine.journal_read("d", 0, None, rig.now)
    rig.engine.disconnect(peer.session, rig.now)
    rig.advance(5 * RETRY)

    assert len(rig.events_of(Read)) == 1
    other = listen(rig)
    rig.answer_read()
    rig.advance(1)
    assert other.data() == list(range(1, 8))


def test_an_answer_for_who_has_left_is_ignored() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 8))
    peer = listen(rig)

    rig.engine.disconnect(peer.session, rig.now)
    rig.answer_read()

    assert peer.data() == []
    assert rig.engine.is_quiet


def test_a_second_answer_changes_nothing() -> None:
    rig = Rig(D, tuning=Tuning(rate=2))
    rig.publish_durable("d", *range(1, 8))
    peer = listen(rig)
    (read,) = rig.events_of(Read)

    rig.answer_read(read)
    rig.answer_read(read)
    rig.advance(10)

    assert peer.data() == list(range(1, 8))


def test_who_subscribes_to_more_while_the_journal_reads_is_not_forgotten() -> None:
    rig = Rig(D, A)
    rig.publish_durable("d", *range(1, 8))
    peer = listen(rig)

    peer.subscribe("a")
    for read in rig.events_of(Read):
        rig.answer_read(read)
    rig.advance(1)

    assert peer.data("d") == list(range(1, 8))


def test_what_the_journal_has_forgotten_is_a_gap() -> None:
    rig = Rig(D)
    for value in range(1, 11):
        rig.deliver("d", value)
        rig.commit("d", keep=5)
    peer = listen(rig, since=2)

    rig.answer_read()
    rig.advance(1)

    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (3, 5, 3, "retention")
    assert peer.data() == list(range(6, 11))


def test_what_the_journal_forgets_while_it_is_asked_is_a_gap() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 9))
    peer = listen(rig)

    for seq in range(1, 5):
        del rig.kept["d"][seq]
    rig.answer_read()
    rig.advance(1)

    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (1, 4, 4, "retention")
    assert peer.data() == [5, 6, 7, 8]


def test_an_empty_answer_means_that_only_memory_is_left() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 9))
    peer = listen(rig)

    rig.kept["d"].clear()
    rig.answer_read()
    rig.advance(1)

    assert peer.items_of("$gap")[0]["count"] == 5
    assert peer.data() == [6, 7, 8]


def test_what_memory_still_has_is_not_lost_when_the_journal_forgets_it() -> None:
    rig = Rig(D)
    for value in range(1, 6):
        rig.deliver("d", value)
        rig.commit("d", keep=1)

    peer = listen(rig, since=2)

    assert peer.data() == [3, 4, 5]
    assert rig.events_of(Read) == []


# --- a journal from before


def test_a_restored_channel_goes_on_where_its_journal_stands() -> None:
    rig = Rig(D)
    rig.engine.restore("d", "old", oldest=3, head=5)
    rig.kept["d"] = {
        seq: msgspec.json.encode({"channel": "d", "seq": seq, "type": "d", "data": seq}) for seq in (3, 4, 5)
    }
    peer = rig.connect()

    answer = peer.subscribe({"channel": "d", "snapshot": True})["channels"][0]
    rig.answer_read()
    rig.publish_durable("d", 6)
    rig.advance(1)

    assert (answer["epoch"], answer["seq"]) == ("old", 2)
    assert peer.data() == [3, 4, 5, 6]


def test_a_snapshot_of_a_durable_channel_is_all_that_the_journal_has() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 8))
    peer = rig.connect()

    peer.subscribe({"channel": "d", "snapshot": True})
    rig.answer_read()
    rig.advance(1)

    assert peer.data() == list(range(1, 8))


def test_a_retried_read_answers_those_who_came_meanwhile() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 8))
    first = listen(rig)
    rig.engine.journal_read("d", 0, None, rig.now)
    second = rig.connect()
    second.subscribe({"channel": "d", "since": {"epoch": "test.1", "seq": 0}, "max_hz": 9})

    rig.advance(RETRY)
    rig.answer_read()
    rig.advance(1)

    assert len(rig.events_of(Read)) == 2
    assert first.data() == second.data() == list(range(1, 8))


def test_an_answer_may_come_just_after_its_client_has_subscribed_to_more() -> None:
    rig = Rig(D, A)
    rig.publish_durable("d", *range(1, 8))
    peer = listen(rig)

    rig.engine.receive_data(peer.session, '{"action":"subscribe","channels":["a"]}', rig.now)
    rig.answer_read()
    rig.advance(1)

    assert peer.data() == list(range(1, 8))
