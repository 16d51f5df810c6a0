"""When a client comes back, and whether at all."""

from __future__ import annotations

import pytest

from analytics_hub.client import ConnectionClosed, HandshakeRefused, TokenRefused
from analytics_hub.client.backoff import STEADY, Backoff, Ending, gave_up, printable
from analytics_hub.exceptions import PermissionDenied


def new_backoff(jitter: float = 1.0) -> Backoff:
    return Backoff(lambda: jitter)


def closed(code: int, reason: str = "") -> Ending:
    return new_backoff().closed(code, reason, slot=None, at_least=0.0)


def test_it_doubles_up_to_its_bound() -> None:
    backoff = new_backoff()

    assert [backoff.next() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_jitter_is_full() -> None:
    assert new_backoff(0.0).next() == 0
    assert new_backoff(0.5).next() == 0.25


def test_the_server_announces_the_bounds_within_ours() -> None:
    backoff = new_backoff()
    backoff.announced(2, 3)
    assert [backoff.next() for _ in range(3)] == [2, 3, 3]

    backoff.announced(40, 86_400)
    assert backoff.next() == 30


def test_only_a_connection_that_lasted_resets_it() -> None:
    backoff = new_backoff()
    delays = []
    for lived in (0.0, 1.0, STEADY, 0.0):
        backoff.lived(lived)
        delays.append(backoff.next())

    assert delays == [0.5, 1, 0.5, 1]


def test_a_slot_or_what_the_server_asks_for_comes_first() -> None:
    assert new_backoff().closed(1012, "restart", slot=3.25, at_least=0.0) == Ending(
        "disconnected (1012, restart)", 3.25
    )
    assert new_backoff().closed(4429, "", slot=None, at_least=7.0).delay == 7
    assert new_backoff().refused(503, "full", 12.0) == Ending("refused for now (HTTP 503, full)", 12)
    assert new_backoff().refused(429, "", None).delay == 0.5


@pytest.mark.parametrize("code", [1000, 1002, 1007, 1009, 4400])
def test_after_these_codes_it_does_not_come_back(code: int) -> None:
    ending = closed(code, "why")

    assert ending.delay is None
    assert isinstance(ending.error, ConnectionClosed)
    assert ending.error.code == code
    assert f"({code}, why)" in str(ending.error)


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 4408, 4429, 4503, 4999])
def test_after_all_others_it_does(code: int) -> None:
    assert closed(code).delay is not None
    assert closed(code).error is None


def test_who_is_not_welcome_stays_away() -> None:
    for ending in (closed(4403, "no"), new_backoff().refused(403, "no", None)):
        assert ending.delay is None
        assert isinstance(ending.error, PermissionDenied)


@pytest.mark.parametrize("fault", ["missing", "invalid", "expired"])
def test_some_endings_want_another_token(fault: str) -> None:
    for ending in (closed(4401, f"{fault} token"), new_backoff().refused(401, f"{fault} token", None)):
        assert ending.needs_token
        assert ending.delay == 0.5
        assert isinstance(ending.error, TokenRefused)
        assert ending.error.fault == fault
        assert "wants another token" in str(ending.error)


@pytest.mark.parametrize("status", [200, 301, 400, 404, 426])
def test_other_statuses_are_final(status: int) -> None:
    ending = new_backoff().refused(status, "what?", None)

    assert ending.delay is None
    assert isinstance(ending.error, HandshakeRefused)
    assert ending.error.status == status
    assert str(ending.error) == f"refused (HTTP {status}, what?)"


def test_sentences_can_be_printed() -> None:
    text = "a\x1b[2J\n\x9b"

    assert printable("Grüße 李") == "Grüße 李"
    assert printable(text) == "a\\x1b[2J\\n\\x9b"
    for ending in (
        closed(1012, text),
        new_backoff().refused(503, text, None),
        new_backoff().failed(text),
        gave_up(text),
    ):
        assert ending.sentence.isprintable()
