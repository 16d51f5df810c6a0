"""H: handshakes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from ..transports.peer import KEY
from .client import connections, trickle, upgrade
from .environment import assert_recovers, targets
from .target import NATIVE, Target

environment = targets(*NATIVE)

HEADERS = [f"X-{number}: y\r\n".encode() for number in range(1000)]
BLANKS = " ," * 4000
"""As long as one line may be: an algorithm that is quadratic in it takes seconds."""


def test_h01_h02_slow_and_silent_handshakes_time_out(target: Target) -> None:
    """One timer runs from accept, whatever arrives: bytes, headers, or nothing."""
    start = b"GET / HTTP/1.1\r\nHost: x\r\n"
    with connections(target.connect() for _ in range(4)) as (bytewise, linewise, stuck, silent):
        streams = {
            bytewise: [bytes([byte]) for byte in start + b"X: " + b"y" * 200],
            linewise: [start, *HEADERS[:200]],
            stuck: itertools.chain([start], itertools.repeat(b"", 200)),
            silent: itertools.repeat(b"", 200),
        }

        assert trickle(streams), "the server waits without end"
        assert silent.read_end() == b""
        for peer in (bytewise, linewise, stuck):
            assert peer.read_end().startswith(b"HTTP/1.1 408 ")
    target.assert_counted("handshake-timeout", 4)


def assert_refused(
    target: Target, subtests: pytest.Subtests, cases: Mapping[str, tuple[bytes, int]], counter: str
) -> None:
    """Each head is answered with its status and a reason, and counted."""
    for name, (head, status) in cases.items():
        with subtests.test(name), target.connect() as peer:
            peer.send(head)

            answer = peer.read_last_response()
            assert answer.status == status
            assert answer.body.strip()
            if status == 426:
                assert answer.headers["sec-websocket-version"] == "13"
    target.assert_counted(counter, len(cases))


LONG = {
    "many headers": (upgrade(*[f"X-{number}: y" for number in range(5000)]), 431),
    "an endless header": (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 40_000, 431),
    "a long request line": (upgrade(path="/" + "a" * 33_000), 414),
    "an endless request line": (b"GET /" + b"a" * 40_000, 414),
}
"""`tests/transports/test_handshake.py` has all kinds, as of malformed ones."""


def test_h03_a_head_is_bounded(target: Target, subtests: pytest.Subtests) -> None:
    assert_refused(target, subtests, LONG, "refused-size")


def test_h03_blanks_in_a_list_are_parsed_in_linear_time(target: Target) -> None:
    names = ("Connection", "Upgrade", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Cookie")
    for name in names * 10:
        with target.connect() as peer:
            peer.send(upgrade("Authorization: Bearer wrong", f"{name}: {BLANKS}"))

            assert peer.read_last_response().status == 401

    spent = target.report().cpu - target.before.cpu
    assert spent < 3.0, f"50 lists took {spent} s of processor time"


def replaced(*headers: str) -> bytes:
    """An upgrade with these headers instead of the usual ones of the same names."""
    return upgrade(*headers, drop=tuple(header.partition(":")[0] for header in headers))


MALFORMED = {
    "two hosts": (upgrade("Host: other"), 400),
    "HTTP 2.0": (upgrade(version="HTTP/2.0"), 400),
    "POST": (upgrade().replace(b"GET", b"POST", 1), 405),
    "no upgrade": (upgrade(drop=("Upgrade",)), 426),
    "an old version": (replaced("Sec-WebSocket-Version: 8"), 426),
    "two keys": (upgrade(f"Sec-WebSocket-Key: {KEY}"), 400),
    "a body": (upgrade("Content-Length: 3") + b"abc", 400),
    "two lengths": (upgrade("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "bare line feeds": (upgrade().replace(b"\r\n", b"\n") + b"\r\n\r\n", 400),
    "not ASCII": (replaced("Host: \xe9\xff"), 400),
    "unknown subprotocols": (upgrade("Sec-WebSocket-Protocol: mqtt"), 400),
}


def test_h04_malformed_upgrades_are_refused(target: Target, subtests: pytest.Subtests) -> None:
    assert_refused(target, subtests, MALFORMED, "refused-request")


OFFERS = (
    "permessage-deflate; server_max_window_bits=abc",
    'permessage-deflate; client_max_window_bits="abc"',
    "permessage-deflate; server_max_window_bits=",
    "permessage-deflate; unknown=1",
    ";;;,,, =",
)


def test_h04_malformed_offers_are_declined(target: Target, subtests: pytest.Subtests) -> None:
    """wsproto raises for each of them, outside of its own exceptions."""
    for offer in OFFERS:
        with subtests.test(offer), target.connect() as peer:
            peer.send(upgrade(f"Authorization: Bearer {target.token()}", f"Sec-WebSocket-Extensions: {offer}"))

            answer = peer.read_head()
            assert answer.status == 101
            assert "sec-websocket-extensions" not in answer.headers


OTHER_ORIGINS = (
    "null",
    "https://evil.example",
    "https://friend.example.evil.example",
    "https://friend.example:8443",
    "http://friend.example",
    "https://x@friend.example",
    "https://[friend.example",
)


def test_h07_other_origins_are_refused_before_the_token(target: Target, subtests: pytest.Subtests) -> None:
    """A page of another site learns nothing about a token."""
    for origin in OTHER_ORIGINS:
        for token in (target.token(), "wrong"):
            with subtests.test(origin), target.connect() as peer:
                peer.send(upgrade(f"Origin: {origin}", f"Authorization: Bearer {token}"))

                assert peer.read_head().status == 101  # the page sees only a close code
                assert peer.read_frame().code == 4403
                peer.send_close(4403)
                assert peer.read_end() == b""
    target.assert_counted("refused-origin", 2 * len(OTHER_ORIGINS))


def test_h07_the_own_and_the_listed_origins_are_admitted(target: Target) -> None:
    scheme = "https" if target.is_tls else "http"
    for origin in ("https://friend.example", f"{scheme}://127.0.0.1"):
        with target.open(f"Origin: {origin}") as peer:
            assert peer.next_item("$hello")["protocol"] == 1


def test_h09_aborted_handshakes_leave_nothing(target: Target) -> None:
    whole = upgrade(f"Authorization: Bearer {target.token()}")
    for _ in range(50):
        with connections(target.connect() for _ in range(4)) as (first, second, third, fourth):
            first.send(whole[:10])
            second.send(whole[: len(whole) // 2])
            third.send(whole[:-1])
            fourth.send(whole[:-2])
            third.reset()
            fourth.reset()
    assert_recovers(target)
