"""One-time tickets: each replaces a credential once, for a short time."""

from __future__ import annotations

import json
import re

import anyio
import pytest

from analytics_hub import AuthenticationError, Handshake, Hub, Identity, Overloaded
from analytics_hub.access import tickets as module
from analytics_hub.access.tickets import Tickets
from analytics_hub.clock import Clock
from analytics_hub.contracts import Peer
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import WIRE

from ..hub.rig import FakeTransport, running

pytestmark = pytest.mark.anyio

ALICE = Identity(id="alice", roles=frozenset({"trader"}))
# RFC 9110: a subprotocol is a token.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def authenticate(handshake: Handshake) -> Identity:
    """The hub redeems tickets by itself."""
    raise AssertionError("called for a ticket")


async def is_good(hub: Hub, ticket: str) -> bool:
    try:
        return (await hub.gateway.authenticate(Handshake(token=ticket))).identity is not None
    except AuthenticationError:
        return False


async def test_a_ticket_is_good_once() -> None:
    async with running(authenticate=authenticate) as hub:
        ticket = hub.issue_ticket(ALICE)

        assert (await hub.gateway.authenticate(Handshake(token=ticket))).identity is ALICE
        assert not await is_good(hub, ticket)
        assert hub.statistics().counters["invalid-ticket"] == 1


async def test_of_concurrent_redemptions_one_succeeds() -> None:
    async with running(authenticate=authenticate) as hub:
        ticket = hub.issue_ticket(ALICE)
        outcomes: list[bool] = []

        async def try_it() -> None:
            outcomes.append(await is_good(hub, ticket))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(try_it)

        assert sorted(outcomes) == [False] * 19 + [True]


@pytest.mark.parametrize("text", ["ticket.", "ticket.x", "ticket.x.y", "ticket." + "x" * 100_000, "ticket.é\0"])
async def test_an_unknown_ticket_is_refused(text: str) -> None:
    async with running(authenticate=authenticate) as hub:
        hub.issue_ticket(ALICE)
        assert not await is_good(hub, text)


async def test_a_ticket_may_be_the_first_message_or_a_refresh() -> None:
    async with running(authenticate=authenticate) as hub:
        transport = FakeTransport()
        session = hub.gateway.connect(transport, WIRE, Peer(Handshake(transport="fake")))
        for _ in range(2):
            hub.gateway.receive_data(session, json.dumps({"action": "auth", "token": hub.issue_ticket(ALICE)}))
        await transport.until(lambda: transport.text.count("$authenticated") == 2)
        hub.gateway.receive_data(session, json.dumps({"action": "auth", "token": hub.issue_ticket(Identity(id="bob"))}))
        await transport.until(lambda: "for the subject of the session" in transport.text)

        assert session.identity is ALICE


async def test_a_ticket_expires_and_is_revoked_with_its_credential() -> None:
    clock = ManualClock()
    async with running(authenticate=authenticate, clock=clock, wall_clock=clock.wall) as hub:
        brief = hub.issue_ticket(Identity(id="alice", expires=clock.wall() + 5))
        of_session = hub.issue_ticket(ALICE)
        of_token = hub.issue_ticket(Identity(id="bob", issued=clock.wall(), token_id="t1"))
        clock.advance(6)
        assert not await is_good(hub, brief)
        hub.revoke("alice")
        hub.revoke(token_id="t1")
        assert not await is_good(hub, of_session)
        assert not await is_good(hub, of_token)
        clock.advance(1)
        assert await is_good(hub, hub.issue_ticket(ALICE))


async def test_a_redeemed_ticket_has_the_current_roles() -> None:
    async with running(authenticate=authenticate) as hub:
        ticket = hub.issue_ticket(ALICE)
        hub.set_roles("alice", ["guest"])

        peer = await hub.gateway.authenticate(Handshake(token=ticket))
        assert peer.identity == Identity(id="alice", roles=frozenset({"guest"}))


def test_a_ticket_expires_after_its_lifetime() -> None:
    clock = ManualClock()
    tickets = Tickets(30.0, Clock(clock))
    early, late = tickets.issue(ALICE), tickets.issue(ALICE)
    clock.advance(30)
    assert tickets.redeem(early)[0] is ALICE
    clock.advance(0.1)
    with pytest.raises(AuthenticationError, match="invalid token"):
        tickets.redeem(late)
    tickets.issue(ALICE)

    assert len(tickets) == 1, "expired tickets are forgotten"


def test_a_ticket_is_valid_in_a_url_a_header_and_a_subprotocol() -> None:
    tickets = {Tickets(30.0, Clock(ManualClock())).issue(ALICE) for _ in range(100)}

    assert len(tickets) == 100
    assert all(TOKEN.fullmatch(f"bearer.{ticket}") and re.fullmatch(r"[\w.-]+", ticket) for ticket in tickets)


def test_the_oldest_of_too_many_tickets_of_one_identity_is_dropped() -> None:
    tickets = Tickets(30.0, Clock(ManualClock()))
    of_bob = tickets.issue(Identity(id="bob"))
    of_alice = [tickets.issue(ALICE) for _ in range(module.MAX_PER_IDENTITY + 1)]

    assert len(tickets) == module.MAX_PER_IDENTITY + 1
    with pytest.raises(AuthenticationError):
        tickets.redeem(of_alice[0])
    for ticket in (of_bob, *of_alice[1:]):
        tickets.redeem(ticket)
    assert len(tickets) == 0
    assert not tickets._of_identity


def test_the_number_of_open_tickets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TICKETS", 2)
    clock = ManualClock()
    tickets = Tickets(30.0, Clock(clock))
    for name in "ab":
        tickets.issue(Identity(id=name))
    with pytest.raises(Overloaded):
        tickets.issue(ALICE)
    clock.advance(31)
    tickets.issue(ALICE)


def test_repr_does_not_show_tickets() -> None:
    tickets = Tickets(30.0, Clock(ManualClock()))
    ticket = tickets.issue(ALICE)

    assert ticket not in repr(tickets)
    assert ticket not in repr(Handshake(token=ticket))
