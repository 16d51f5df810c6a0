"""A: what one address, one identity and all together may cost, and a hook that misbehaves; on servers of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from .asking import CLAIMS, ask, bearer, coming_from, forge, introduce, is_alive, knock, refusal, subscribe, told
from .attack import Peer, crowd, upgrade
from .target import MIB, SOME, Target
from .watch import targets

# The address of an attacker is what it says: this machine is a proxy. So newcomers and the witness have none.
house = targets(
    *SOME,
    certifies=True,
    authorize=True,
    token_failures=2,
    max_per_identity=3,
    max_per_address=4,
    max_buffered=MIB,
    ticket_ttl=1.0,
    silence_timeout=60.0,
)


def test_a04_a_public_key_is_no_secret(target: Target, subtests: pytest.Subtests) -> None:
    """The server verifies with it; here somebody signs with it."""
    pem = public_key(target)
    for name, key in {"PEM": pem, "PEM without its last line feed": pem.rstrip(), "the middle": pem[27:-26]}.items():
        for algorithm in ("HS256", "ES256"):
            with subtests.test(name, algorithm=algorithm):
                token = forge({"alg": algorithm}, key=key)
                assert refusal(knock(target, bearer(token))) == (401, "invalid token")
                assert introduce(target, token) == (4401, "invalid token")
    target.wait_counted("invalid-algorithm", 6)
    target.wait_counted("invalid-signature", 6)


def public_key(target: Target) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_pem_x509_certificate

    key = load_pem_x509_certificate(target.certificate.read_bytes()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


# --- the hook of the application


def test_a09_a_hook_that_raises_or_hangs_harms_one_client(target: Target) -> None:
    names = ("alice", "bob", "carol")
    with crowd(target.open(token=target.token(name)) for name in names) as (raising, hanging, neighbour):
        hanging.say({"action": "subscribe", "channels": ["burst", "user:hang", "user:bob"]})

        assert subscribe(raising, "user:raise", "user:alice", "user:bob") == {
            "user:raise": "forbidden",
            "user:alice": "ok",
            "user:bob": "forbidden",
        }
        assert subscribe(neighbour, "user:carol", "burst") == {"user:carol": "ok", "burst": "ok"}
        answers = hanging.next_item("$subscribed")["channels"]
        assert [answer["ok"] for answer in answers] == [True, False, False], "what was not answered in time is no"
        assert is_alive(raising)
        assert is_alive(neighbour)
    target.wait_counted("authorize-failed", 2)


# --- tickets


@pytest.mark.parametrize("house", SOME[:2], indirect=True)
def test_a12_a_ticket_is_not_good_for_long(target: Target) -> None:
    ticket = json.loads(ask(target, "/ticket", bearer(target.token())).body)["ticket"]
    with target.open(token="") as clock:
        assert told(clock).code == 4408  # after `auth_timeout`, which is no shorter than the life of a ticket
    assert refusal(knock(target, bearer(ticket))) == (401, "invalid token")
    target.wait_counted("invalid-ticket")


# --- failed tokens


def test_a14_failed_tokens_of_an_address_run_out(target: Target) -> None:
    """Then none is looked at, good or bad, however it comes; a longer list of proxies is no way around it."""
    there, behind = coming_from("192.0.2.1"), coming_from("198.51.100.7", "192.0.2.1")
    for _ in range(2):
        assert refusal(knock(target, there, bearer("wrong"))) == (401, "invalid token")

    for number in range(100):
        answer = knock(target, (there, behind)[number % 2], bearer("wrong" if number else target.token()))
        assert answer.status == 429
        assert answer.body.startswith(b"more than 2 refused tokens a minute from this address; try again in ")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert introduce(target, "wrong", there) == (
        4429,
        "more than 2 refused tokens a minute from this address",
    )
    assert ask(target, "/ticket", there, bearer("wrong")).status == 429
    assert ask(target, "/publish", there, bearer(target.token())).status == 429
    with target.open(there, "Origin: https://friend.example", token="wrong") as page:
        assert told(page).code == 4429
    target.open(coming_from("192.0.2.2")).close()
    target.wait_counted("limited-failures", 104)
    target.wait_counted("token-invalid", 2)


def test_a14_what_is_looked_at_first_costs_little(target: Target) -> None:
    """A signature before claims, and neither for a token that cannot be one: 150 of the dearest."""
    deep = forge({"alg": "ES256"}, b'{"sub":' + b"[" * 5000)
    for token in (deep, "x" * 8000, f"{forge({'alg': 'ES256'}, CLAIMS)}{'A' * 7000}"):
        with crowd(target.open(token="") for _ in range(50)) as peers:
            for peer in peers:
                peer.say({"action": "auth", "token": token})
            for peer in peers:
                assert told(peer) == (4401, "invalid token")
    spent = target.report().cpu - target.before.cpu
    assert spent < 3.0, f"150 tokens took {spent} s of the processor"


# --- connections


@contextmanager
def guests(target: Target, *headers: str, number: int) -> Iterator[list[Peer]]:
    """Let in, each as somebody else."""
    with crowd(target.open(*headers, token=target.token(f"guest-{n}")) for n in range(number)) as peers:
        for peer in peers:
            peer.next_item("$hello")
        yield peers


@pytest.mark.parametrize(
    ("addresses", "others"),
    [(["203.0.113.9"], "203.0.113.8"), ([f"2001:db8::{n}:1" for n in range(1, 5)], "2001:db8:0:1::1")],
    ids=["IPv4", "IPv6"],
)
def test_a14_connections_of_an_address_are_bounded(target: Target, addresses: list[str], others: str) -> None:
    """Whoever they are. Of IPv6 the network counts, which one client may have to itself."""
    with ExitStack() as stack:
        peers = [
            stack.enter_context(
                target.open(coming_from(addresses[n % len(addresses)]), token=target.token(f"guest-{n}"))
            )
            for n in range(4)
        ]
        there = coming_from(addresses[0])
        for credentials in ((bearer(target.token("fifth")),), ()):
            answer = knock(target, there, *credentials)
            assert refusal(answer) == (429, "more than 4 connections from this address; try again in 5 s")
            assert answer.headers["retry-after"] == "5"
        with target.open(there, "Origin: https://friend.example", token=target.token("fifth")) as page:
            assert told(page).code == 4429
        target.open(coming_from(others), token=target.token("elsewhere")).close()
        assert all(map(is_alive, peers))

        peers[0].close()
        target.wait_until(lambda now: now.sessions == target.before.sessions + 3, "one has left")
        target.open(there, token=target.token("fifth")).close()
    target.wait_counted("limited-address", 3)


def test_a14_connections_of_an_identity_are_bounded(target: Target) -> None:
    """Exactly, also of eight that ask at once."""
    token = target.token("many")
    with crowd(target.open(token="") for _ in range(8)) as peers:
        for peer in peers:
            peer.say({"action": "auth", "token": token})
        assert sum(map(survives, peers)) == 3

        answer = knock(target, bearer(token))
        assert refusal(answer) == (429, "more than 3 connections of one identity; try again in 5 s")
        target.open(token=target.token("another")).close()
    target.wait_counted("closed-4429", 5)
    target.wait_counted("limited-identity", 6)


def survives(peer: Peer) -> bool:
    """Whether somebody who has sent a token was let in, and was not sent away after all."""
    try:
        return is_alive(peer)
    except EOFError as end:
        if "4429" in str(end):
            return False
        raise


# --- all together


# Not hypercorn: it goes on sending pings to a client that left while it was full, and its task stays for ever.
@pytest.mark.parametrize("house", SOME[:-1], indirect=True)
def test_a14_an_overloaded_hub_takes_nobody_new_and_keeps_those_it_has(target: Target) -> None:
    """So many do not read that more waits for them than may wait."""
    target.allowance.peak = target.allowance.growth = 40 * MIB
    with target.open(token=target.token("neighbour")) as neighbour, page(target) as early:
        with guests(target, number=16) as deaf:
            for peer in deaf:
                assert subscribe(peer, "burst") == {"burst": "ok"}
            target.publish("burst", 300, size=20_000)
            target.wait_until(lambda _: not is_served(target), "it has noticed")

            answer = knock(target, bearer(target.token()))
            assert refusal(answer) == (503, "the hub is overloaded")
            assert int(answer.headers["retry-after"]) > 0
            assert refusal(ask(target, "/ticket", bearer(target.token()))) == (503, "the hub is overloaded")
            assert ask(target, "/events?channels=burst", bearer(target.token()), method="GET").status == 503
            with page(target) as late:
                assert told(late) == (1013, "the hub is overloaded")
            assert is_alive(neighbour)
            assert subscribe(neighbour, "feed") == {"feed": "ok"}
            assert neighbour.next_item("feed")
        target.wait_until(lambda _: is_served(target), "it recovers")
        assert is_alive(early)


def page(target: Target) -> Peer:
    """A client that hides the status of a handshake from who uses it."""
    return target.open("Origin: https://friend.example", token=target.token("reader"))


def is_served(target: Target) -> bool:
    with target.dial() as peer:
        peer.send(upgrade(bearer(target.token())))
        status = peer.read_head().status
    assert status in (101, 503)
    return status == 101
