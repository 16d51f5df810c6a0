"""The watch itself: it must see what it is there to see."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from . import target as target_module
from .target import MIB, House, Target
from .watch import targets, watching
from .witness import LONGEST, Record

house = targets("asyncio")


def missed(what: str) -> AbstractContextManager[object]:
    return pytest.raises(AssertionError, match=what)


def test_it_sees_a_client_that_stays(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = None
    with monkeypatch.context() as patch:
        patch.setattr(target_module, "GUARD", 0.1)
        with missed("never happened: clients, tasks and descriptors return"), watching(house):
            peer = house.target.open()
            peer.say({"action": "ping"})
            peer.next_item("$pong")
    assert peer is not None
    peer.close()
    house.target.wait_hung_up()


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda target: f"a client came with {target.token()}\n", "a token is in the log"),
        (lambda target: f"a signature: {target.token().rpartition('.')[2]}\n", "a part of a token is in the log"),
        (lambda target: "Traceback (most recent call last):\n", "Traceback"),
        (lambda target: "a line\n" * 1000, "too much in"),
    ],
    ids=["token", "signature", "traceback", "flood"],
)
def test_it_reads_the_log(house: House, write: Callable[[Target], str], what: str) -> None:
    with missed(what), watching(house):
        os.write(house.target.log_file, write(house.target).encode())


def test_it_weighs_the_memory(house: House) -> None:
    with missed("it cost too much"), watching(house):
        house.target.allowance.peak = -house.target.before.rss


def test_it_hears_of_a_server_that_stands_still(house: House) -> None:
    with missed("the witness was kept waiting"), watching(house):
        house.target.process.send_signal(signal.SIGSTOP)
        time.sleep(LONGEST + 1.0)  # the fault itself
        house.target.process.send_signal(signal.SIGCONT)


def test_a_burst_keeps_nobody_waiting(target: Target) -> None:
    """And the whole of it balances, with one who reads it and one who does not."""
    target.allowance.peak = 64 * MIB
    with target.open() as reader, target.open(room=4096) as deaf:
        for peer in (reader, deaf):
            peer.say({"action": "subscribe", "channels": ["burst"]})
            assert peer.next_item("$subscribed")["channels"][0]["ok"]
        target.publish("burst", 10_000, size=100)
        assert reader.next_item("burst")["data"]["n"] == 1
    totals = target.wait_until(lambda now: now.sessions == target.before.sessions, "both have gone").ledger["totals"]
    assert totals["burst"]["published"] >= 10_000


def subscribed(record: Record, seq: int) -> Record:
    record.take([{"type": "$subscribed", "channels": [{"channel": "feed", "seq": seq}]}])
    return record


def item(n: int) -> dict[str, object]:
    return {"type": "feed", "channel": "feed", "seq": n, "data": {"n": n}}


@pytest.mark.parametrize("numbers", [(8, 10), (8, 8), (9,), (8, 9, 8)], ids=["hole", "twice", "late", "backwards"])
def test_the_witness_counts(numbers: tuple[int, ...]) -> None:
    record = subscribed(Record(), 7)

    record.take([item(n) for n in numbers])

    assert record.faults


def test_the_witness_complains_of_losses_it_is_told_of() -> None:
    record = subscribed(Record(), 7)
    record.take([item(8), item(9)])
    assert not record.faults

    record.take([{"type": "$gap", "channel": "feed", "count": 1}, item(11)])

    assert len(record.faults) == 2
