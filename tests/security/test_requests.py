"""D and F, for the hub itself: commands that are malformed, too many or too large, on every transport."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from ..transports.peer import CLOSE, TEXT
from .client import Peer
from .environment import targets
from .exchanges import closed_with, is_served
from .target import ASGI, MIB, NATIVE, Target

environment = targets(*NATIVE, *ASGI, "tcp", "tcp-trio-tls")

MAX_MESSAGE: Final = 64 * 1024
RATE: Final = 1000
"""Commands a second, and as many at once; as many over that are answered with an error."""
SHARE: Final = 125
"""Channels in one command."""
DEEP: Final = b"[" * 30_000 + b"]" * 30_000
PING: Final = b'{"action":"ping"}'

MALFORMED: Final = {
    "nothing": b"",
    "two at once": PING + PING,
    "a comment": b'{"action":"ping"/**/}',
    "NaN": b'{"action":"ping","id":NaN}',
    "a control character": b'{"action":"ping","id":"\x01"}',
    "half a surrogate": b'{"action":"ping","id":"\\ud800"}',
    "a byte order mark": b"\xef\xbb\xbf" + PING,
    "a list in a list": b"[[]]",
    "a long id": b'{"action":"ping","id":"' + b"x" * 129 + b'"}',
    "20,000 digits": b'{"action":"ping","id":' + b"1" * 20_000 + b"}",
    "an exponent of 20,000 digits": b'{"action":"ping","id":1e' + b"1" * 20_000 + b"}",
    "30,000 nested lists": DEEP,
    "30,000 nested lists in an id": b'{"action":"ping","id":' + DEEP + b"}",
    "30,000 nested lists in an unknown field": b'{"action":"ping","x":' + DEEP + b"}",
    "13,000 nested objects": b'{"":' * 13_000 + b"1" + b"}" * 13_000,
    "an impossible position": b'{"action":"subscribe","channels":[{"channel":"feed","last":-1}]}',
}
"""`tests/conformance/test_bad_input.py` has all kinds."""
UNKNOWN: Final = {"twice": b'{"action":"fly","action":"ping"}', "an object": b'{"action":{"a":1}}'}


def test_d03_malformed_commands_are_answered(target: Target, subtests: pytest.Subtests) -> None:
    """And the next command is served: neither `RecursionError` nor `ValueError` ends the connection."""
    with target.open() as peer:
        for code, cases in (("bad-request", MALFORMED), ("unknown-action", UNKNOWN)):
            for name, text in cases.items():
                with subtests.test(name):
                    peer.send_texts(text)
                    error = peer.next_item("$error")
                    assert (error["code"], error["retry"]) == (code, "never"), error
                    assert 0 < len(error["message"]) < 400
                    assert is_served(peer)
    target.assert_counted("error-bad-request", len(MALFORMED))
    target.assert_counted("error-unknown-action", len(UNKNOWN))


def test_d03_ten_malformed_commands_in_a_row_close_a_client_and_nine_do_not(target: Target) -> None:
    with target.open() as peer:
        for _ in range(2):
            peer.send_texts(*[b"{}"] * 9)
            assert is_served(peer)
        peer.send_texts(*[b"{}"] * 10)

        assert closed_with(peer) == (4400, "10 malformed commands in a row")
    target.assert_counted("error-bad-request", 28)
    target.assert_counted("closed-4400")


def test_d05_unknown_channels_leave_nothing(target: Target) -> None:
    """20,000, each of which counts as a command."""
    target.allowance.peak = 4 * MIB
    unknown = refused = 0
    with target.open() as peer:
        started = time.monotonic()
        for number in range(160):
            names = [f"unknown:{number}:{place}" for place in range(SHARE)]
            peer.send_commands({"action": "subscribe", "channels": names})
            answer = next(item for item in peer.items() if item["type"] in ("$subscribed", "$error"))
            if answer["type"] == "$error":
                assert answer["code"] == "rate-limited"
                refused += 1
            else:
                assert {channel["code"] for channel in answer["channels"]} == {"unknown-channel"}
                unknown += SHARE
        elapsed = time.monotonic() - started
        assert RATE <= unknown <= RATE * (1 + elapsed) + SHARE, f"{unknown} in {elapsed} s"
        assert target.report().subscriptions == target.before.subscriptions
    target.assert_counted("error-unknown-channel", unknown)
    if refused:
        target.assert_counted("error-rate-limited", refused)


def count_answers(peer: Peer, most: int) -> tuple[Counter[str], int | None]:
    """The commands that were served and refused, up to `most`, and the close code if the client is closed before."""
    counted: Counter[str] = Counter()
    while counted["$pong"] + counted["$error"] < most:
        received = peer.read_frame()
        if received.opcode == CLOSE:
            return counted, received.code
        for item in json.loads(received.payload) if received.opcode == TEXT else ():
            counted[item["type"]] += 1
            if item["type"] == "$error":
                assert (item["code"], item["retry"]) == ("rate-limited", "later")
                assert item["after"] >= 0
    return counted, None


def test_d08_many_more_commands_than_the_rate_close_a_client(target: Target) -> None:
    """17,500 in five messages, which at the rate would take 17 s."""
    with target.open() as neighbour, target.open() as peer:
        assert is_served(neighbour)
        peer.send_texts(*[array(3500)] * 5)

        counted, code = count_answers(peer, 17_500)
        assert code == 4429
        assert counted["$error"] >= RATE
        assert is_served(neighbour)
    target.assert_counted("error-rate-limited", counted["$error"])
    target.assert_counted("closed-4429")


def test_d08_a_flood_is_served_at_the_rate(target: Target) -> None:
    """20,000 messages; how fast the server reads them decides whether it closes the client."""
    with target.open() as peer, ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        pool.submit(peer.send_texts, *[PING] * 20_000)

        counted, code = count_answers(peer, 20_000)
        elapsed = time.monotonic() - started
        assert code in (4429, None)
        assert counted["$pong"] <= RATE * (1 + elapsed) + 1, f"{counted} in {elapsed} s"
    if code:
        target.assert_counted("closed-4429")


def array(number: int) -> bytes:
    """`number` commands in one message."""
    return b"[" + b",".join([PING] * number) + b"]"


def test_f07_a_message_at_the_limit_is_accepted_and_a_longer_one_refused(target: Target) -> None:
    """Also where an ASGI server with a limit of its own reads it."""
    with target.open() as peer:
        peer.send_texts(PING.ljust(MAX_MESSAGE))
        assert peer.next_item("$pong")

        peer.send_texts(PING.ljust(MAX_MESSAGE + 1))
        code, reason = closed_with(peer)
        assert code == 1009
        assert str(MAX_MESSAGE) in reason
    target.assert_counted("protocol-fault")
