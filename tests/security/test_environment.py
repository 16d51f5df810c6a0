"""The checks around attacks: they must fail for what they are there to find."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from . import target as target_module
from .environment import monitored, targets
from .observer import LONGEST, Record
from .target import MIB, Environment, Target

environment = targets("asyncio")


def assert_fails(message: str) -> AbstractContextManager[object]:
    """The checks around the attack fail with this message."""
    return pytest.raises(AssertionError, match=message)


def test_a_client_that_stays_is_found(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = None
    with monkeypatch.context() as patch:
        patch.setattr(target_module, "TIMEOUT", 0.1)
        with (
            assert_fails("never happened: clients, tasks and descriptors return"),
            monitored(environment),
        ):
            peer = environment.target.open()
            peer.next_item("$hello")
    assert peer is not None
    peer.close()
    environment.target.wait_disconnected()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda target: f"a client came with {target.token()}\n", "a token is in the log"),
        (lambda target: f"a signature: {target.token().rpartition('.')[2]}\n", "a part of a token is in the log"),
        (lambda target: "Traceback (most recent call last):\n", "Traceback"),
        (lambda target: "a line\n" * 1000, "too much in"),
    ],
    ids=["token", "signature", "traceback", "flood"],
)
def test_the_log_is_checked(environment: Environment, write: Callable[[Target], str], message: str) -> None:
    with (
        assert_fails(message),
        monitored(environment),
        environment.target.process.log_file.open("a") as log,
    ):
        log.write(write(environment.target))


def test_the_memory_is_checked(environment: Environment) -> None:
    with assert_fails("it cost too much"), monitored(environment):
        environment.target.allowance.peak = -environment.target.before.rss


def test_a_server_that_stands_still_is_found(environment: Environment) -> None:
    with assert_fails("the observer was kept waiting"), monitored(environment):
        environment.target.process.signal(signal.SIGSTOP)
        time.sleep(LONGEST + 0.5)  # the fault itself
        environment.target.process.signal(signal.SIGCONT)


def test_a_burst_disturbs_no_other_client(target: Target) -> None:
    """And its accounts balance, with a client that reads it and one that does not."""
    target.allowance.peak = 64 * MIB
    with target.open() as reader, target.open(receive_buffer=4096) as unread:
        for peer in (reader, unread):
            peer.send_commands({"action": "subscribe", "channels": ["burst"]})
            assert peer.next_item("$subscribed")["channels"][0]["ok"]
        target.publish("burst", 10_000, size=100)
        assert reader.next_item("burst")["data"]["n"] == 1
    totals = target.wait_until(lambda now: now.sessions == target.before.sessions, "both clients have left").totals
    assert totals["burst"]["published"] >= 10_000


def subscribed(record: Record, seq: int) -> Record:
    record.add([{"type": "$subscribed", "channels": [{"channel": "feed", "seq": seq}]}])
    return record


def item(n: int) -> dict[str, object]:
    return {"type": "feed", "channel": "feed", "seq": n, "data": {"n": n}}


@pytest.mark.parametrize("numbers", [(8, 10), (8, 8), (9,), (8, 9, 8)], ids=["hole", "twice", "late", "backwards"])
def test_the_observer_counts(numbers: tuple[int, ...]) -> None:
    record = subscribed(Record(), 7)

    record.add([item(n) for n in numbers])

    assert record.faults


def test_the_observer_reports_losses() -> None:
    record = subscribed(Record(), 7)
    record.add([item(8), item(9)])
    assert not record.faults

    record.add([{"type": "$gap", "channel": "feed", "count": 1}, item(11)])

    assert len(record.faults) == 2
