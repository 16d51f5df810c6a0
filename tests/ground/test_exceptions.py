"""Every exception has the codes with which a peer is told of it."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, get_args

import pytest

from analytics_hub import exceptions
from analytics_hub.codes import CloseCode, ErrorCode
from analytics_hub.exceptions import (
    AuthenticationError,
    AuthenticationUnavailable,
    HubError,
    InvalidItem,
    ItemTooLarge,
    JournalError,
    KeySetError,
    Overloaded,
    PermissionDenied,
    RevokedError,
    TableFull,
    TooManyRequests,
    UnknownChannel,
    find_error,
)
from analytics_hub.telemetry import COUNTERS

ERRORS = [each for each in vars(exceptions).values() if isinstance(each, type) and issubclass(each, HubError)]
REFUSING_A_TOKEN = (
    AuthenticationError,
    RevokedError,
    PermissionDenied,
    TooManyRequests,
    Overloaded,
    AuthenticationUnavailable,
)


@pytest.mark.parametrize("error", ERRORS)
def test_every_exception_has_codes(error: type[HubError]) -> None:
    assert isinstance(error.http_status, HTTPStatus)
    assert error.http_status >= 400
    assert re.fullmatch("[a-z]+(-[a-z]+)*", error.http_code)
    assert isinstance(error.close_code, CloseCode)
    assert error.error_code in (*get_args(ErrorCode), HubError.error_code)
    assert error.counter is None or error.counter in COUNTERS


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_for_which_a_peer_may_retry_has_a_time(error: type[HubError]) -> None:
    """That of `TooManyRequests` is an argument."""
    assert (error.retry_after is not None) == (error.http_status == HTTPStatus.SERVICE_UNAVAILABLE)


@pytest.mark.parametrize("error", REFUSING_A_TOKEN)
def test_an_exception_that_refuses_a_token_has_a_code_of_the_protocol(error: type[HubError]) -> None:
    """It is the answer to `auth`, and closes a session that has no identity."""
    assert error.error_code in get_args(ErrorCode)
    assert error.close_code != CloseCode.PROTOCOL_ERROR


def test_the_messages_for_a_peer() -> None:
    assert UnknownChannel("channel 'x' is not declared").public_message == "channel 'x' is not declared"
    assert TooManyRequests("more than 3 connections", 4.2).public_message == "more than 3 connections; try again in 5 s"
    assert TooManyRequests("more than 3 connections", 0.0).public_message.endswith("try again in 1 s")
    assert TooManyRequests("more than 3 connections", 4.2).retry_after == 4.2
    assert AuthenticationUnavailable().public_message == "tokens cannot be checked now"
    assert AuthenticationError("expired", "for the operator").public_message == "expired token"


def test_the_fault_of_a_token_is_one_of_three() -> None:
    fault: Any = "forged"

    with pytest.raises(ValueError, match=r"^fault is 'forged'; it must be missing, invalid or expired"):
        AuthenticationError(fault)


def test_a_code_is_mapped_back_to_its_exception() -> None:
    candidates = (UnknownChannel, PermissionDenied, ItemTooLarge, InvalidItem)

    assert [find_error(each.http_code, candidates) for each in candidates] == [*candidates]
    assert find_error("new-in-a-later-version", candidates) is HubError


def test_a_code_that_a_class_merely_inherits_is_not_its_own() -> None:
    candidates = (TableFull, JournalError)  # neither has an `error_code`

    assert find_error(HubError.error_code, candidates) is HubError
    assert find_error(HubError.http_code, (KeySetError,)) is HubError
