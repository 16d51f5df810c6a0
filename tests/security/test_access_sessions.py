"""A: how long a session lasts, what it may see, and tickets."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from .client import Peer, connections
from .environment import targets
from .exchanges import (
    Refusal,
    bearer,
    channels_until,
    closed_with,
    is_served,
    refusal_of,
    request,
    send_request,
    subscribe,
    try_first_message,
    try_handshake,
)
from .target import SOME, Target
from .test_access import EXPIRED, INVALID, REVOKED, everywhere

environment = targets(*SOME)


# --- the end of a token


@everywhere
def test_a01_a07_a_session_ends_with_its_token_unless_it_is_refreshed(target: Target) -> None:
    """A WebSocket and an event stream; a refresh keeps the identity."""
    with (
        connections([target.open(token=""), target.open(), target.open()]) as (anonymous, expiring, refreshed),
        open_brief_stream(target) as stream,
    ):
        anonymous.send_commands({"action": "subscribe", "id": 7, "channels": ["feed"]})
        assert next(anonymous.items())["code"] == "unauthenticated"
        for peer in (expiring, refreshed):
            refresh_briefly(target, peer)
        for token, code in ((target.token("bob"), "forbidden"), ("wrong", "unauthenticated")):
            refreshed.send_commands({"action": "auth", "token": token})
            assert refreshed.next_item("$error")["code"] == code
        refreshed.send_commands({"action": "auth", "token": target.token()})
        refreshed.next_item("$authenticated")

        with pytest.raises(EOFError, match="4408 no token within"):
            assert not next(anonymous.items()), "nothing else before the end"
        assert closed_with(expiring) == (4401, EXPIRED)
        while b'"code":4401' not in stream.buffer:
            assert stream.fill()
        assert is_served(refreshed)
    target.assert_counted("closed-4401", 2)
    target.assert_counted("closed-4408")


LIVES = (0.7, 4.0, 16.0)
"""Seconds; the first is long enough unless the machine stands still."""


def refresh_briefly(target: Target, peer: Peer) -> None:
    """Refresh with a token that expires soon, until the client gets `$expiring`."""
    for life in LIVES:
        peer.send_commands({"action": "auth", "token": target.token(exp=time.time() + life)})
        if next(item["type"] for item in peer.items() if item["type"] in ("$expiring", "$error")) == "$expiring":
            return
    raise AssertionError("every token expired before it was used")


def open_brief_stream(target: Target) -> Peer:
    for life in LIVES:
        peer = target.connect()
        token = target.token(exp=time.time() + life)
        peer.send(request("/events?channels=burst", bearer(token), method="GET"))
        if peer.read_head().status == 200:
            return peer
        peer.close()
    raise AssertionError("every token expired before it was used")


@everywhere
def test_a08_a_revocation_ends_sessions_tokens_and_tickets(target: Target) -> None:
    """By identity and by token id; newer tokens are valid, and other clients stay."""
    name = f"eve-{time.time()}"
    first, second, other = target.token(name, jti=f"{name}-1"), target.token(name), target.token("bob")
    ticket = json.loads(send_request(target, "/ticket", bearer(second)).body)["ticket"]
    with connections(target.open(token=token) for token in (first, second, second, other)) as (
        one,
        two,
        three,
        neighbour,
    ):
        assert target.revoke(token_id=f"{name}-1") == 1
        assert target.report().sessions == target.before.sessions + 3
        assert closed_with(one) == (4401, REVOKED)
        assert target.revoke(name) == 2
        assert target.report().sessions == target.before.sessions + 1, "at once"
        assert closed_with(two) == closed_with(three) == (4401, REVOKED)

        for token in (first, second, ticket):
            assert refusal_of(try_handshake(target, bearer(token))) == (401, INVALID)
            assert try_first_message(target, token) == (4401, INVALID)
        target.open(token=target.token(name, now=time.time() + 2)).close()
        assert is_served(neighbour)
    target.assert_counted("closed-4401", 6)
    target.assert_counted("invalid-revoked", 5)  # the ticket was used by then


@everywhere
def test_a08_lowered_roles_end_their_subscriptions(target: Target) -> None:
    name = f"boss-{time.time()}"
    token = target.token(name, "admin")
    with target.open(token=token) as peer, target.open(token=target.token("bob", "admin")) as neighbour:
        for each in (peer, neighbour):
            assert subscribe(each, "secret", "burst") == {"secret": "ok", "burst": "ok"}

        target.set_roles(name, "clerk")

        ended = peer.next_item("$unsubscribed")
        assert ([channel["channel"] for channel in ended["channels"]], ended["reason"]) == (["secret"], "forbidden")
        target.publish("secret")
        target.publish("burst")
        assert channels_until(peer, "burst") == ["burst"]
        assert channels_until(neighbour, "burst") == ["secret", "burst"]
        with target.open(token=token) as again:
            assert subscribe(again, "secret") == {"secret": "forbidden"}, "in spite of its token"
        with target.open(token=target.token(name, "admin", now=time.time() + 2)) as promoted:
            assert subscribe(promoted, "secret") == {"secret": "ok"}


# --- channels


def test_a09_a_forbidden_channel_is_refused_among_others(target: Target) -> None:
    with target.open() as peer:
        assert subscribe(peer, "secret") == {"secret": "forbidden"}
        assert subscribe(peer, "secret", "burst", "nowhere", "feed/../secret", "*", "secret*") == {
            "secret": "forbidden",
            "burst": "ok",
            "nowhere": "unknown-channel",
            "feed/../secret": "unknown-channel",
            "*": "bad-request",
            "secret*": "bad-request",
        }
        target.publish("secret")
        target.publish("burst")
        assert channels_until(peer, "burst") == ["burst"]
    target.assert_counted("error-forbidden", 2)


def test_a09_publishing_needs_a_role(target: Target) -> None:
    item = b'{"channel":"desk","data":1}'
    head = target.report().heads["desk"]
    for token, status in ((target.token("mallory", "admin"), 403), (target.token("bob", "worker"), 200)):
        answer = send_request(target, "/publish", bearer(token), "Content-Type: application/json", body=item)
        assert answer.status == status, answer
    assert target.report().heads["desk"] == head + 1


# --- origins


def test_h07_origins_are_checked_before_tokens(target: Target) -> None:
    """Other origins learn nothing about a token; listed ones may read the answers."""
    evil, friend = "Origin: https://evil.example", "Origin: https://friend.example"
    for token in (target.token(), "wrong"):
        with target.open(evil, token=token) as peer:
            assert closed_with(peer) == Refusal(4403, "this origin is not allowed")
        answer = send_request(target, "/ticket", evil, bearer(token))
        assert refusal_of(answer) == Refusal(403, "this origin is not allowed")
        assert "access-control-allow-origin" not in answer.headers
    assert send_request(target, "/ticket", evil, method="OPTIONS").status == 403
    target.assert_counted("refused-origin", 5)

    for answer in (
        send_request(target, "/ticket", friend, method="OPTIONS"),
        send_request(target, "/ticket", friend, bearer("wrong")),
    ):
        assert answer.status in (204, 401)
        assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    target.assert_counted("token-invalid")


# --- tickets


def fetch_ticket(target: Target, token: str) -> str:
    answer = send_request(target, "/ticket", bearer(token))
    assert answer.status == 201, answer
    assert answer.headers["cache-control"] == "no-store"
    return str(json.loads(answer.body)["ticket"])


@everywhere
def test_a12_a_ticket_is_valid_once_wherever_a_token_is(target: Target) -> None:
    """Except for another ticket."""
    token = target.token("carol", "admin")
    by_header, by_protocol, by_query, by_message, for_ticket = (fetch_ticket(target, token) for _ in range(5))
    ways: dict[str, dict[str, Any]] = {
        by_header: {"token": by_header},
        by_protocol: {"token": ""},
        by_query: {"token": "", "path": f"/ws/analytics?token={by_query}"},
        by_message: {"token": ""},
    }
    for ticket, way in ways.items():
        offer = (f"Sec-WebSocket-Protocol: bearer.{ticket}, analytics-hub.v1.json",) if ticket == by_protocol else ()
        with target.open(*offer, **way) as peer:
            if ticket == by_message:
                peer.send_commands({"action": "auth", "token": ticket})
            peer.next_item("$hello")
            assert subscribe(peer, "secret") == {"secret": "ok"}, "it has the roles of its token"
        assert refusal_of(try_handshake(target, bearer(ticket))) == (401, INVALID), "twice"
        assert try_first_message(target, ticket) == (4401, INVALID)
    assert refusal_of(send_request(target, "/ticket", bearer(for_ticket))) == (
        403,
        "a ticket cannot be exchanged for another ticket",
    )
    forged = ("ticket.", "ticket.x", f"{for_ticket}x", for_ticket[:-1], for_ticket.upper(), f"ticket.{token}")
    for ticket in forged[:4]:
        assert refusal_of(try_handshake(target, bearer(ticket))) == (401, INVALID)
    target.assert_counted("invalid-ticket", 2 * len(ways) + 4)
    target.assert_counted("refused-ticket")
    assert not [ticket for ticket in (*ways, for_ticket) if ticket[7:] in target.log()]


def test_a14_an_identity_has_16_tickets(target: Target) -> None:
    """Further ones replace the oldest."""
    token = target.token("dave")
    tickets = [fetch_ticket(target, token) for _ in range(20)]
    for ticket in tickets[:4]:
        assert refusal_of(try_handshake(target, bearer(ticket))) == (401, INVALID)
    for ticket in (tickets[4], tickets[-1]):
        target.open(token=ticket).close()
