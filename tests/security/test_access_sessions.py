"""A: how long somebody stays in, what they see, and the tickets they buy."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from .asking import (
    Refused,
    ask,
    bearer,
    heard_until,
    introduce,
    is_alive,
    knock,
    refusal,
    request,
    subscribe,
    told,
)
from .attack import Peer, crowd
from .target import SOME, Target
from .test_access import EXPIRED, INVALID, REVOKED, everywhere
from .watch import targets

house = targets(*SOME)


# --- as long as it holds


@everywhere
def test_a01_a07_nobody_stays_without_a_token_that_holds(target: Target) -> None:
    """A WebSocket and a stream end; who has refreshed its token stays, as the one that it was."""
    with (
        crowd([target.open(token=""), target.open(), target.open()]) as (nobody, leaver, stayer),
        stream_for_a_while(target) as stream,
    ):
        nobody.say({"action": "subscribe", "id": 7, "channels": ["feed"]})
        assert next(nobody.items())["code"] == "unauthenticated"
        for peer in (leaver, stayer):
            refresh_for_a_while(target, peer)
        for token, code in ((target.token("bob"), "forbidden"), ("wrong", "unauthenticated")):
            stayer.say({"action": "auth", "token": token})
            assert stayer.next_item("$error")["code"] == code
        stayer.say({"action": "auth", "token": target.token()})
        stayer.next_item("$authenticated")

        with pytest.raises(EOFError, match="4408 no token within 1 s"):
            assert not next(nobody.items()), "nothing else comes before the end"
        assert told(leaver) == (4401, EXPIRED)
        while b'"code":4401' not in stream.buffer:
            assert stream.fill()
        assert is_alive(stayer)
    target.wait_counted("closed-4401", 2)
    target.wait_counted("closed-4408")


LIVES = (1.0, 4.0, 16.0)
"""Seconds; the first is long enough, unless the machine stands still."""


def refresh_for_a_while(target: Target, peer: Peer) -> None:
    """Until it is told that this will not last."""
    for life in LIVES:
        peer.say({"action": "auth", "token": target.token(exp=time.time() + life)})
        if next(item["type"] for item in peer.items() if item["type"] in ("$expiring", "$error")) == "$expiring":
            return
    raise AssertionError("no token lives long enough")


def stream_for_a_while(target: Target) -> Peer:
    for life in LIVES:
        peer = target.dial()
        token = target.token(exp=time.time() + life)
        peer.send(request("/events?channels=burst", bearer(token), method="GET"))
        if peer.read_head().status == 200:
            return peer
        peer.close()
    raise AssertionError("no token lives long enough")


@everywhere
def test_a08_who_is_revoked_is_out(target: Target) -> None:
    """By identity and by token, the tickets bought before too; new tokens are good again, and others stay."""
    name = f"eve-{time.time()}"
    first, second, other = target.token(name, jti=f"{name}-1"), target.token(name), target.token("bob")
    ticket = json.loads(ask(target, "/ticket", bearer(second)).body)["ticket"]
    with crowd(target.open(token=token) for token in (first, second, second, other)) as (one, two, three, neighbour):
        assert target.post("/revoke", token_id=f"{name}-1") == {"ended": 1}
        assert target.report().sessions == target.before.sessions + 3
        assert told(one) == (4401, REVOKED)
        assert target.post("/revoke", identity=name) == {"ended": 2}
        assert target.report().sessions == target.before.sessions + 1, "at once"
        assert told(two) == told(three) == (4401, REVOKED)

        for token in (first, second, ticket):
            assert refusal(knock(target, bearer(token))) == (401, INVALID)
            assert introduce(target, token) == (4401, INVALID)
        target.open(token=target.token(name, now=time.time() + 2)).close()
        assert is_alive(neighbour)
    target.wait_counted("closed-4401", 6)
    target.wait_counted("invalid-revoked", 5)  # the ticket was used by then


@everywhere
def test_a08_lowered_roles_lose_their_channels(target: Target) -> None:
    name = f"boss-{time.time()}"
    token = target.token(name, "admin")
    with target.open(token=token) as peer, target.open(token=target.token("bob", "admin")) as neighbour:
        for each in (peer, neighbour):
            assert subscribe(each, "secret", "burst") == {"secret": "ok", "burst": "ok"}

        target.post("/roles", identity=name, roles="clerk")

        ended = peer.next_item("$unsubscribed")
        assert ([channel["channel"] for channel in ended["channels"]], ended["reason"]) == (["secret"], "forbidden")
        target.publish("secret")
        target.publish("burst")
        assert heard_until(peer, "burst") == ["burst"]
        assert heard_until(neighbour, "burst") == ["secret", "burst"]
        with target.open(token=token) as again:
            assert subscribe(again, "secret") == {"secret": "forbidden"}, "whatever the token says"
        with target.open(token=target.token(name, "admin", now=time.time() + 2)) as promoted:
            assert subscribe(promoted, "secret") == {"secret": "ok"}


# --- what they see


def test_a09_a_forbidden_channel_is_refused_and_the_others_are_not(target: Target) -> None:
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
        assert heard_until(peer, "burst") == ["burst"]
    target.wait_counted("error-forbidden", 2)


def test_a09_who_may_not_publish_does_not(target: Target) -> None:
    item = b'{"channel":"desk","data":1}'
    head = target.report().heads["desk"]
    for token, status in ((target.token("mallory", "admin"), 403), (target.token("bob", "worker"), 200)):
        answer = ask(target, "/publish", bearer(token), "Content-Type: application/json", body=item)
        assert answer.status == status, answer
    assert target.report().heads["desk"] == head + 1


# --- origins


def test_h07_origins_come_before_tokens(target: Target) -> None:
    """Who is foreign learns nothing about a token, which is not looked at; a friend may read the answers."""
    evil, friend = "Origin: https://evil.example", "Origin: https://friend.example"
    for token in (target.token(), "wrong"):
        with target.open(evil, token=token) as peer:
            assert told(peer) == Refused(4403, "this origin is not allowed")
        answer = ask(target, "/ticket", evil, bearer(token))
        assert refusal(answer) == Refused(403, "this origin is not allowed")
        assert "access-control-allow-origin" not in answer.headers
    assert ask(target, "/ticket", evil, method="OPTIONS").status == 403
    target.wait_counted("refused-origin", 5)

    for answer in (ask(target, "/ticket", friend, method="OPTIONS"), ask(target, "/ticket", friend, bearer("wrong"))):
        assert answer.status in (204, 401)
        assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    target.wait_counted("token-invalid")


# --- tickets


def buy(target: Target, token: str) -> str:
    answer = ask(target, "/ticket", bearer(token))
    assert answer.status == 201, answer
    assert answer.headers["cache-control"] == "no-store"
    return str(json.loads(answer.body)["ticket"])


@everywhere
def test_a12_a_ticket_is_good_once_wherever_a_token_is(target: Target) -> None:
    """And for no ticket. It stands in no URL twice."""
    token = target.token("carol", "admin")
    by_header, by_protocol, by_query, by_message, for_ticket = (buy(target, token) for _ in range(5))
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
                peer.say({"action": "auth", "token": ticket})
            peer.next_item("$hello")
            assert subscribe(peer, "secret") == {"secret": "ok"}, "it is as good as what bought it"
        assert refusal(knock(target, bearer(ticket))) == (401, INVALID), "twice"
        assert introduce(target, ticket) == (4401, INVALID)
    assert refusal(ask(target, "/ticket", bearer(for_ticket))) == (403, "a ticket buys no ticket")
    forged = ("ticket.", "ticket.x", f"{for_ticket}x", for_ticket[:-1], for_ticket.upper(), f"ticket.{token}")
    for ticket in forged[:4]:
        assert refusal(knock(target, bearer(ticket))) == (401, INVALID)
    target.wait_counted("invalid-ticket", 2 * len(ways) + 4)
    target.wait_counted("refused-ticket")
    assert not [ticket for ticket in (*ways, for_ticket) if ticket[7:] in target.log()]


def test_a14_a_flood_of_tickets_is_bounded(target: Target) -> None:
    """Of one identity the last 16 count."""
    token = target.token("dave")
    tickets = [buy(target, token) for _ in range(20)]
    for ticket in tickets[:4]:
        assert refusal(knock(target, bearer(ticket))) == (401, INVALID)
    for ticket in (tickets[4], tickets[-1]):
        target.open(token=ticket).close()
