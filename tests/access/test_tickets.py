"""One-time tickets: as good as what bought them, once, for a short while."""

from __future__ import annotations

import json
import re

import anyio
import pytest

from analytics_hub import AuthenticationError, Handshake, Hub, Identity, Overloaded
from analytics_hub.access import tickets as module
from analytics_hub.access.tickets import Tickets
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import WIRE

from ..hub.rig import FakeTransport, running

pytestmark = pytest.mark.anyio

ALICE = Identity(id="alice", roles=frozenset({"trader"}))
# What RFC 9110 allows in a token, of which a subprotocol is one.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def nobody(handshake: Handshake) -> Identity:
    """Tickets are the hub's own, and not asked about."""
    raise AssertionError("asked about a ticket")


async def is_good(hub: Hub, ticket: str) -> bool:
    try:
        return await hub.check(Handshake(token=ticket)) is not None
    except AuthenticationError:
        return False


async def test_a_ticket_is_good_once() -> None:
    async with running(authenticate=nobody) as hub:
        ticket = hub.issue_ticket(ALICE)

        assert await hub.check(Handshake(token=ticket)) is ALICE
        assert not await is_good(hub, ticket)
        assert hub.statistics().counters["invalid-ticket"] == 1


async def test_of_many_at_once_one_gets_in() -> None:
    async with running(authenticate=nobody) as hub:
        ticket = hub.issue_ticket(ALICE)
        outcomes: list[bool] = []

        async def try_it() -> None:
            outcomes.append(await is_good(hub, ticket))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(try_it)

        assert sorted(outcomes) == [False] * 19 + [True]


@pytest.mark.parametrize("text", ["ticket.", "ticket.x", "ticket.x.y", "ticket." + "x" * 100_000, "ticket.é\0"])
async def test_what_is_none_of_ours_is_refused(text: str) -> None:
    async with running(authenticate=nobody) as hub:
        hub.issue_ticket(ALICE)
        assert not await is_good(hub, text)


async def test_it_comes_as_a_first_message_and_as_a_refresh() -> None:
    async with running(authenticate=nobody) as hub:
        transport = FakeTransport()
        session = hub.gateway.connect(transport, WIRE, None, Handshake(transport="fake"))
        for _ in range(2):
            hub.gateway.receive_data(session, json.dumps({"action": "auth", "token": hub.issue_ticket(ALICE)}))
        await transport.until(lambda: transport.text.count("$authenticated") == 2)
        hub.gateway.receive_data(session, json.dumps({"action": "auth", "token": hub.issue_ticket(Identity(id="bob"))}))
        await transport.until(lambda: "for the subject of the session" in transport.text)

        assert session.identity is ALICE


async def test_it_is_bound_to_what_bought_it() -> None:
    clock = ManualClock()
    async with running(authenticate=nobody, clock=clock, wall_clock=clock.wall) as hub:
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


async def test_it_takes_the_roles_that_its_owner_has_by_then() -> None:
    async with running(authenticate=nobody) as hub:
        ticket = hub.issue_ticket(ALICE)
        hub.set_roles("alice", ["guest"])

        assert (await hub.check(Handshake(token=ticket))).roles == {"guest"}


def test_it_lives_for_a_while() -> None:
    clock = ManualClock()
    tickets = Tickets(30.0, clock)
    early, late = tickets.issue(ALICE), tickets.issue(ALICE)
    clock.advance(30)
    assert tickets.redeem(early)[0] is ALICE
    clock.advance(0.1)
    with pytest.raises(AuthenticationError, match="invalid token"):
        tickets.redeem(late)
    tickets.issue(ALICE)

    assert len(tickets) == 1, "what is over is forgotten"


def test_it_may_stand_in_a_url_a_header_and_a_subprotocol() -> None:
    tickets = {Tickets(30.0, ManualClock()).issue(ALICE) for _ in range(100)}

    assert len(tickets) == 100
    assert all(TOKEN.fullmatch(f"bearer.{ticket}") and re.fullmatch(r"[\w.-]+", ticket) for ticket in tickets)


def test_one_identity_has_few_and_the_oldest_goes() -> None:
    tickets = Tickets(30.0, ManualClock())
    bobs = tickets.issue(Identity(id="bob"))
    alices = [tickets.issue(ALICE) for _ in range(module.MAX_FOR_ONE + 1)]

    assert len(tickets) == module.MAX_FOR_ONE + 1
    with pytest.raises(AuthenticationError):
        tickets.redeem(alices[0])
    for ticket in (bobs, *alices[1:]):
        tickets.redeem(ticket)
    assert len(tickets) == 0
    assert not tickets._of


def test_there_are_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TICKETS", 2)
    clock = ManualClock()
    tickets = Tickets(30.0, clock)
    for name in "ab":
        tickets.issue(Identity(id=name))
    with pytest.raises(Overloaded):
        tickets.issue(ALICE)
    clock.advance(31)
    tickets.issue(ALICE)


def test_nothing_shows_them() -> None:
    tickets = Tickets(30.0, ManualClock())
    ticket = tickets.issue(ALICE)

    assert ticket not in repr(tickets)
    assert ticket not in repr(Handshake(token=ticket))
