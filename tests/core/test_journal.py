"""Durable channels: nothing reaches a client before the journal has it, and nothing that the journal has is lost."""

from __future__ import annotations

import msgspec
import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.events import Append, Read
from analytics_hub.core.journal import RETRY
from analytics_hub.exceptions import InvalidItem
from analytics_hub.tuning import Tuning

from .rig import Peer, Rig
from .wire import Fields

D = Channel("d", mode="durable", keep_items=3)
A = Channel("a")


def since(seq: int, **options: object) -> Fields:
    return {"channel": "d", "since": {"epoch": "test.1", "seq": seq}, **options}


def resuming(rig: Rig, seq: int = 0) -> Peer:
    """A client that resumes at a position."""
    peer = rig.connect()
    peer.send_subscribe(since(seq))
    return peer


def seven(**tuning: int) -> Rig:
    """A channel with seven items, of which memory has the last three."""
    rig = Rig(D, A, tuning=Tuning(**tuning))
    rig.publish_durable("d", *range(1, 8))
    return rig


# --- writing


def test_nothing_is_written_before_the_journal_has_it() -> None:
    rig = Rig(D)
    peer = rig.connect()
    peer.subscribe("d")

    rig.deliver("d", 1)
    before = peer.data()
    rig.commit("d")

    assert (before, peer.data(), peer.seqs()) == ([], [1], [1])


def test_items_published_meanwhile_are_the_next_batch() -> None:
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


def test_a_batch_carries_the_waiters_of_the_driver() -> None:
    rig = Rig(D)
    waiter = object()

    rig.deliver("d", 1, type="x", waiter=waiter)

    (draft,) = rig.events_of(Append)[0].drafts
    assert (draft.waiter, draft.type, draft.data) == (waiter, "x", b"1")


def test_a_durable_item_gets_its_number_from_the_journal() -> None:
    rig = Rig(D, A)

    assert rig.engine.publish("d", b"1", rig.now) is None
    assert rig.engine.publish("a", b"1", rig.now) == ("test.2", 1)


def test_a_rejected_batch_is_not_delivered_and_gets_no_number() -> None:
    rig = Rig(D)
    peer = rig.connect()
    peer.subscribe("d")
    rig.deliver("d", "lost", "too")

    rig.engine.rejected("d")
    rig.publish_durable("d", "kept")

    assert (peer.data(), peer.seqs()) == (["kept"], [1])
    assert rig.engine.statistics().counters["journal-rejected"] == 2


def test_the_engine_is_not_quiet_while_a_batch_is_with_the_journal() -> None:
    rig = Rig(D)

    rig.publish("d", 1)
    waiting = (rig.engine.wants_turn, rig.engine.get_timer(), rig.engine.is_quiet)
    rig.pump()
    writing = (rig.engine.wants_turn, rig.engine.is_quiet)
    rig.commit("d")

    assert waiting == (True, rig.now, False)
    assert writing == (False, False)
    assert rig.engine.is_quiet


def test_an_item_that_is_too_large_does_not_reach_the_journal() -> None:
    rig = Rig(D, tuning=Tuning(max_item_bytes=100))

    with pytest.raises(InvalidItem, match=r"the item for channel 'd' has .* bytes; at most 100 are allowed"):
        rig.deliver("d", "x" * 100)

    assert rig.events_of(Append) == []


# --- reading what memory no longer has


def test_a_client_that_is_behind_memory_reads_from_the_journal() -> None:
    rig = seven()
    peer = resuming(rig)

    ledger = peer.ledger("d")
    rig.answer_read()
    rig.advance(1)

    assert ledger.pending == 7
    assert rig.events_of(Read) == [Read("d", 0, 256)]
    assert peer.data() == list(range(1, 8))
    assert peer.items_of("$subscribed")[0]["channels"][0]["recovered"] is True
    assert peer.items_of("$gap") == []


def test_the_journal_is_read_in_chunks_before_live_items() -> None:
    rig = seven(journal_chunk=3)
    peer = resuming(rig)
    peer.subscribe("a")

    rig.publish_durable("d", 8)
    rig.deliver("a", "other")
    for _ in range(2):
        rig.answer_read()
        rig.advance(1)

    assert [read.after for read in rig.events_of(Read)] == [0, 3]
    assert peer.data("d") == list(range(1, 9))
    assert peer.data("a") == ["other"]


def test_readers_at_one_position_share_an_answer() -> None:
    rig = seven()
    peers = []
    for hz in (None, 5, 7):
        peers.append(rig.connect())
        peers[-1].subscribe(since(0, max_hz=hz))

    rig.answer_read()
    rig.advance(1)

    assert len(rig.events_of(Read)) == 1
    assert [peer.data() for peer in peers] == [list(range(1, 8))] * 3


def test_a_stalled_client_loses_nothing_that_the_journal_has() -> None:
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


def test_a_read_that_failed_is_repeated_for_all_readers_that_wait() -> None:
    rig = seven()
    first = resuming(rig)
    rig.engine.journal_read("d", 0, None, rig.now)
    second = rig.connect()
    second.subscribe(since(0, max_hz=9))

    rig.advance(RETRY / 2)
    early = len(rig.events_of(Read))
    rig.advance(RETRY / 2)
    rig.answer_read()
    rig.advance(1)

    assert (early, len(rig.events_of(Read))) == (1, 2)
    assert first.data() == second.data() == list(range(1, 8))


def test_a_read_that_failed_is_not_repeated_without_readers() -> None:
    rig = seven()
    peer = resuming(rig)

    rig.engine.journal_read("d", 0, None, rig.now)
    rig.engine.disconnect(peer.session, rig.now)
    rig.advance(5 * RETRY)

    assert len(rig.events_of(Read)) == 1
    other = resuming(rig)
    rig.answer_read()
    rig.advance(1)
    assert other.data() == list(range(1, 8))


def test_a_read_that_succeeded_after_a_failure_is_not_repeated() -> None:
    rig = seven()
    peer = resuming(rig)

    rig.engine.journal_read("d", 0, None, rig.now)
    rig.answer_read()
    rig.advance(5 * RETRY)

    assert len(rig.events_of(Read)) == 1
    assert peer.data() == list(range(1, 8))


def test_an_answer_for_a_session_that_has_ended_is_ignored() -> None:
    rig = seven()
    peer = resuming(rig)

    rig.engine.disconnect(peer.session, rig.now)
    rig.answer_read()

    assert peer.data() == []
    assert rig.engine.is_quiet


def test_a_second_answer_changes_nothing() -> None:
    rig = Rig(D, tuning=Tuning(rate=2))
    rig.publish_durable("d", *range(1, 8))
    peer = resuming(rig)
    (read,) = rig.events_of(Read)

    rig.answer_read(read)
    rig.answer_read(read)
    rig.advance(10)

    assert peer.data() == list(range(1, 8))


@pytest.mark.parametrize("is_flushed", [True, False])
def test_a_client_may_subscribe_to_more_while_the_journal_reads(is_flushed: bool) -> None:
    rig = seven()
    peer = resuming(rig)

    rig.engine.receive_data(peer.session, '{"action":"subscribe","channels":["a"]}', rig.now)
    if is_flushed:
        rig.pump()
    for read in rig.events_of(Read):
        rig.answer_read(read)
    rig.advance(1)

    assert peer.data("d") == list(range(1, 8))


# --- what the journal has deleted


def test_what_the_journal_has_deleted_is_a_gap() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 11), keep=5)
    peer = resuming(rig, 2)

    rig.answer_read()
    rig.advance(1)

    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (3, 5, 3, "retention")
    assert peer.data() == list(range(6, 11))


@pytest.mark.parametrize("deleted", [3, 7], ids=["some", "all"])
def test_what_the_journal_deletes_before_it_answers_is_a_gap(deleted: int) -> None:
    rig = seven()
    peer = resuming(rig)

    for seq in range(1, deleted + 1):
        del rig.kept["d"][seq]
    rig.answer_read()
    rig.advance(1)

    lost = min(deleted, 4)  # memory has the last three
    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (1, lost, lost, "retention")
    assert peer.data() == list(range(lost + 1, 8))


def test_what_memory_still_has_is_not_lost_when_the_journal_deletes_it() -> None:
    rig = Rig(D)
    rig.publish_durable("d", *range(1, 6), keep=1)

    peer = resuming(rig, 2)

    assert peer.data() == [3, 4, 5]
    assert rig.events_of(Read) == []


# --- after a restart


def test_a_restored_channel_continues_where_its_journal_ends() -> None:
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
