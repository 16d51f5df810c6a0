"""The delays before reconnecting, and the endings after which a client does not reconnect."""

from __future__ import annotations

import pytest

from analytics_hub.client import ConnectionClosed, HandshakeRefused, TokenRefused
from analytics_hub.client.backoff import Backoff, RetryDecision, permanent_failure
from analytics_hub.client.text import printable
from analytics_hub.exceptions import PermissionDenied


def new_backoff(jitter: float = 1.0) -> Backoff:
    return Backoff(lambda: jitter)


def after_close(code: int, reason: str = "") -> RetryDecision:
    return new_backoff().after_close(code, reason, slot=None, at_least=0.0)


def after_refusal(status: int, body: str = "", retry_after: float | None = None) -> RetryDecision:
    return new_backoff().after_refusal(status, body, retry_after)


def test_the_delay_doubles_up_to_its_bound() -> None:
    backoff = new_backoff()

    assert [backoff.next_delay() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_jitter_is_full() -> None:
    assert new_backoff(0.0).next_delay() == 0
    assert new_backoff(0.5).next_delay() == 0.25


def test_the_server_sets_the_bounds_up_to_the_maximum_of_the_client() -> None:
    backoff = new_backoff()
    backoff.set_bounds(2, 3)
    assert [backoff.next_delay() for _ in range(3)] == [2, 3, 3]

    backoff.set_bounds(40, 86_400)
    assert backoff.next_delay() == 30


def test_a_slot_or_a_requested_delay_takes_precedence() -> None:
    decision = new_backoff().after_close(1012, "restart", slot=3.25, at_least=0.0)
    assert decision == RetryDecision("disconnected (1012, restart)", 3.25)
    assert new_backoff().after_close(4429, "", slot=None, at_least=7.0).delay == 7
    assert after_refusal(503, "full", 12.0) == RetryDecision("temporarily refused (HTTP 503, full)", 12)
    assert after_refusal(429).delay == 0.5


@pytest.mark.parametrize("code", [1000, 1002, 1007, 1009, 4400])
def test_these_close_codes_are_final(code: int) -> None:
    decision = after_close(code, "reason")

    assert decision.delay is None
    assert isinstance(decision.error, ConnectionClosed)
    assert decision.error.code == code
    assert f"({code}, reason)" in str(decision.error)


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 4408, 4429, 4503, 4999])
def test_the_client_reconnects_after_all_other_codes(code: int) -> None:
    assert after_close(code).delay is not None
    assert after_close(code).error is None


def test_a_client_that_is_not_allowed_does_not_reconnect() -> None:
    for decision in (after_close(4403, "no"), after_refusal(403, "no")):
        assert decision.delay is None
        assert isinstance(decision.error, PermissionDenied)


@pytest.mark.parametrize("fault", ["missing", "invalid", "expired"])
def test_a_rejected_token_requires_another_one(fault: str) -> None:
    for decision in (after_close(4401, f"{fault} token"), after_refusal(401, f"{fault} token")):
        assert decision.needs_new_token
        assert decision.delay == 0.5
        assert isinstance(decision.error, TokenRefused)
        assert decision.error.fault == fault
        assert "rejected the token" in str(decision.error)


@pytest.mark.parametrize("status", [200, 301, 400, 404, 426])
def test_other_statuses_are_final(status: int) -> None:
    decision = after_refusal(status, "what?")

    assert decision.delay is None
    assert isinstance(decision.error, HandshakeRefused)
    assert decision.error.status == status
    assert str(decision.error) == f"refused (HTTP {status}, what?)"


def test_messages_are_printable() -> None:
    text = "a\x1b[2J\n\x9b"

    assert printable("Grüße 李") == "Grüße 李"
    assert printable(text) == "a\\x1b[2J\\n\\x9b"
    decisions = (
        after_close(1012, text), after_refusal(503, text), new_backoff().after_loss(text), permanent_failure(text),
    )  # fmt: skip
    assert all(decision.message.isprintable() for decision in decisions)
