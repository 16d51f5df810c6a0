"""A: limits of one address, one identity and all clients together, and hooks that fail; on servers of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from .client import Peer, connections, upgrade
from .environment import targets
from .exchanges import (
    CLAIMS,
    bearer,
    closed_with,
    forge,
    forwarded_for,
    is_served,
    refusal_of,
    send_request,
    subscribe,
    try_first_message,
    try_handshake,
)
from .target import MIB, SOME, Target

# The address of an attacker is the one of its header, because this machine is a proxy. Other clients have none.
environment = targets(
    *SOME,
    asymmetric=True,
    authorize=True,
    token_failures=2,
    max_per_identity=3,
    max_per_address=4,
    max_buffered=MIB,
    ticket_ttl=1.0,
)


def test_a04_a_token_signed_with_the_public_key_is_refused(target: Target, subtests: pytest.Subtests) -> None:
    """As an HMAC secret, the public key of the server is known to an attacker."""
    pem = public_key(target)
    for name, key in {"PEM": pem, "PEM without its last line feed": pem.rstrip(), "the middle": pem[27:-26]}.items():
        for algorithm in ("HS256", "ES256"):
            with subtests.test(name, algorithm=algorithm):
                token = forge({"alg": algorithm}, key=key)
                assert refusal_of(try_handshake(target, bearer(token))) == (401, "invalid token")
                assert try_first_message(target, token) == (4401, "invalid token")
    target.assert_counted("invalid-algorithm", 6)
    target.assert_counted("invalid-signature", 6)


def public_key(target: Target) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_pem_x509_certificate

    key = load_pem_x509_certificate(target.certificate.read_bytes()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


# --- the hook of the application


def test_a09_a_hook_that_raises_or_hangs_refuses_one_client(target: Target) -> None:
    names = ("alice", "bob", "carol")
    with connections(target.open(token=target.token(name)) for name in names) as (raising, hanging, neighbour):
        hanging.send_commands({"action": "subscribe", "channels": ["burst", "user:hang", "user:bob"]})

        assert subscribe(raising, "user:raise", "user:alice", "user:bob") == {
            "user:raise": "forbidden",
            "user:alice": "ok",
            "user:bob": "forbidden",
        }
        assert subscribe(neighbour, "user:carol", "burst") == {"user:carol": "ok", "burst": "ok"}
        answers = hanging.next_item("$subscribed")["channels"]
        assert [answer["ok"] for answer in answers] == [True, False, False], "no answer in time is a refusal"
        assert is_served(raising)
        assert is_served(neighbour)
    target.assert_counted("authorize-failed", 2)


# --- tickets


@pytest.mark.parametrize("environment", SOME[:2], indirect=True)
def test_a12_a_ticket_expires(target: Target) -> None:
    ticket = json.loads(send_request(target, "/ticket", bearer(target.token())).body)["ticket"]
    with target.open(token="") as clock:
        assert closed_with(clock).code == 4408  # after `auth_timeout`, which is as long as `ticket_ttl`
    assert refusal_of(try_handshake(target, bearer(ticket))) == (401, "invalid token")
    target.assert_counted("invalid-ticket")


# --- failed tokens


def test_a14_refused_tokens_of_an_address_are_bounded(target: Target) -> None:
    """Beyond the limit no new token is checked, wherever it is; more proxies in the header change nothing."""
    there, behind = forwarded_for("192.0.2.1"), forwarded_for("198.51.100.7", "192.0.2.1")
    for _ in range(2):
        assert refusal_of(try_handshake(target, there, bearer("wrong"))) == (401, "invalid token")

    for number in range(100):
        answer = try_handshake(target, (there, behind)[number % 2], bearer("wrong" if number else target.token()))
        assert answer.status == 429
        assert answer.body.startswith(b"more than 2 refused tokens a minute from this address; try again in ")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert try_first_message(target, "wrong", there) == (
        4429,
        "more than 2 refused tokens a minute from this address",
    )
    assert send_request(target, "/ticket", there, bearer("wrong")).status == 429
    assert send_request(target, "/publish", there, bearer(target.token())).status == 429
    with target.open(there, "Origin: https://friend.example", token="wrong") as page:
        assert closed_with(page).code == 4429
    target.open(forwarded_for("192.0.2.2")).close()
    target.assert_counted("limited-failures", 104)
    target.assert_counted("token-invalid", 2)


def test_a14_invalid_tokens_are_cheap(target: Target) -> None:
    """The signature is checked before the claims, and the form before the signature: 150 of the most expensive."""
    deep = forge({"alg": "ES256"}, b'{"sub":' + b"[" * 5000)
    for token in (deep, "x" * 8000, f"{forge({'alg': 'ES256'}, CLAIMS)}{'A' * 7000}"):
        with connections(authenticating(target, token) for _ in range(50)) as peers:
            for peer in peers:
                assert closed_with(peer) == (4401, "invalid token")
    spent = target.report().cpu - target.before.cpu
    assert spent < 3.0, f"150 tokens took {spent} s of processor time"


def authenticating(target: Target, token: str) -> Peer:
    """A client that has sent a token as its first message."""
    peer = target.open(token="")
    peer.send_commands({"action": "auth", "token": token})
    return peer


# --- connections


@contextmanager
def admitted(target: Target, *headers: str, number: int) -> Iterator[list[Peer]]:
    """Clients with `$hello`, each with an identity of its own."""
    with connections(target.open(*headers, token=target.token(f"client-{n}")) for n in range(number)) as peers:
        for peer in peers:
            peer.next_item("$hello")
        yield peers


@pytest.mark.parametrize(
    ("addresses", "others"),
    [(["203.0.113.9"], "203.0.113.8"), ([f"2001:db8::{n}:1" for n in range(1, 5)], "2001:db8:0:1::1")],
    ids=["IPv4", "IPv6"],
)
def test_a14_connections_of_an_address_are_bounded(target: Target, addresses: list[str], others: str) -> None:
    """Of all identities together. An IPv6 address counts by its /64, because one client may have all of that."""
    with ExitStack() as stack:
        peers = [
            stack.enter_context(
                target.open(forwarded_for(addresses[n % len(addresses)]), token=target.token(f"client-{n}"))
            )
            for n in range(4)
        ]
        there = forwarded_for(addresses[0])
        for credentials in ((bearer(target.token("fifth")),), ()):
            answer = try_handshake(target, there, *credentials)
            assert refusal_of(answer) == (429, "more than 4 connections from this address; try again in 5 s")
            assert answer.headers["retry-after"] == "5"
        with target.open(there, "Origin: https://friend.example", token=target.token("fifth")) as page:
            assert closed_with(page).code == 4429
        target.open(forwarded_for(others), token=target.token("elsewhere")).close()
        assert all(map(is_served, peers))

        peers[0].close()
        target.wait_until(lambda now: now.sessions == target.before.sessions + 3, "one client has left")
        target.open(there, token=target.token("fifth")).close()
    target.assert_counted("limited-address", 3)


def test_a14_connections_of_an_identity_are_bounded(target: Target) -> None:
    """Exactly, even if eight authenticate at once."""
    token = target.token("many")
    with connections(authenticating(target, token) for _ in range(8)) as peers:
        assert sum(map(survives, peers)) == 3

        answer = try_handshake(target, bearer(token))
        assert refusal_of(answer) == (429, "more than 3 connections of one identity; try again in 5 s")
        target.open(token=target.token("another")).close()
    target.assert_counted("closed-4429", 5)
    target.assert_counted("limited-identity", 6)


def survives(peer: Peer) -> bool:
    """Whether a client that has sent a token is served, and not closed with 4429."""
    try:
        return is_served(peer)
    except EOFError as end:
        if "4429" in str(end):
            return False
        raise


# --- load


# Not hypercorn: it goes on sending pings to a client that left while its buffer was full, and its task stays.
@pytest.mark.parametrize("environment", SOME[:-1], indirect=True)
def test_a14_an_overloaded_hub_refuses_new_clients_and_serves_the_others(target: Target) -> None:
    """More bytes wait for clients that do not read than `max_buffered`."""
    target.allowance.peak = target.allowance.growth = 40 * MIB
    with target.open(token=target.token("neighbour")) as neighbour, page(target) as early:
        with admitted(target, number=16) as unread:
            for peer in unread:
                assert subscribe(peer, "burst") == {"burst": "ok"}
            target.publish("burst", 300, size=20_000)
            target.wait_until(lambda _: not admits_clients(target), "it refuses new clients")

            answer = try_handshake(target, bearer(target.token()))
            assert refusal_of(answer) == (503, "the hub is overloaded")
            assert int(answer.headers["retry-after"]) > 0
            assert refusal_of(send_request(target, "/ticket", bearer(target.token()))) == (503, "the hub is overloaded")
            assert send_request(target, "/events?channels=burst", bearer(target.token()), method="GET").status == 503
            with page(target) as late:
                assert closed_with(late) == (1013, "the hub is overloaded")
            assert is_served(neighbour)
            assert subscribe(neighbour, "feed") == {"feed": "ok"}
            assert neighbour.next_item("feed")
        target.wait_until(lambda _: admits_clients(target), "it admits clients again")
        assert is_served(early)


def page(target: Target) -> Peer:
    """A page, from which the browser hides the status of a handshake."""
    return target.open("Origin: https://friend.example", token=target.token("reader"))


def admits_clients(target: Target) -> bool:
    with target.connect() as peer:
        peer.send(upgrade(bearer(target.token())))
        status = peer.read_head().status
    assert status in (101, 503)
    return status == 101
