"""What an application takes back: tokens, identities and roles. It holds at once, and for those who come back."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest

from analytics_hub import (
    Action,
    AuthenticationError,
    Channel,
    Handshake,
    Hub,
    HubError,
    Identity,
    Revocation,
    Tuning,
    anonymous,
)
from analytics_hub.access import revocation as module
from analytics_hub.access.revocation import Revocations
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import WIRE, subscribe

from ..hub.rig import FAST, FakeTransport, is_empty, new_hub, running

pytestmark = pytest.mark.anyio

OPEN, DESK = Channel("open"), Channel("desk", roles=frozenset({"trader"}))
TRADER = frozenset({"trader"})


class Tokens:
    """An `authenticate` for tokens such as `alice 100 t1`: who, when it was issued, its id; and for sessions: `alice`.

    While the gate is closed a check is under way.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.start = clock.wall()
        self.gate = anyio.Event()
        self.gate.set()
        self.arrived = anyio.Event()

    async def __call__(self, handshake: Handshake) -> Identity:
        self.arrived.set()
        await self.gate.wait()
        name, *rest = (handshake.token or "").split()
        if not name:
            raise AuthenticationError("missing")
        issued = self.start + float(rest[0]) if rest else None
        return Identity(id=name, roles=TRADER, issued=issued, token_id=rest[1] if rest[1:] else None)


class House:
    """A hub whose time stands still, and its doors."""

    def __init__(self, hub: Hub, clock: ManualClock, tokens: Tokens) -> None:
        self.hub, self.clock, self.tokens = hub, clock, tokens

    async def enter(self, token: str, *channels: str) -> FakeTransport:
        """Let in by a handshake."""
        handshake = Handshake(token=token, transport="fake")
        return self.connect(await self.hub.check(handshake), handshake, *channels)

    def connect(self, identity: Identity | None, handshake: Handshake, *channels: str) -> FakeTransport:
        transport = FakeTransport()
        session = self.hub.gateway.connect(transport, WIRE, identity, handshake)
        if channels:
            self.hub.gateway.receive_data(session, json.dumps({"action": "subscribe", "channels": channels}))
        return transport

    async def is_refused(self, token: str) -> bool:
        try:
            await self.hub.check(Handshake(token=token))
        except AuthenticationError as error:
            return (error.fault, error.detail) == ("invalid", "revoked")
        return False


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[House]:
    clock = ManualClock()
    tokens = Tokens(clock)
    settings: dict[str, Any] = {"authenticate": tokens, "clock": clock, "wall_clock": clock.wall}
    async with running((OPEN, DESK), **settings | options) as hub:
        yield House(clock.attach(hub), clock, tokens)


def ended(transport: FakeTransport) -> bool:
    return transport.ended is not None


# --- sending away


async def test_all_sessions_of_an_identity_end_at_once() -> None:
    """A08. Nothing that is published after the call reaches them, whatever was on its way."""
    async with serving() as house:
        alices = [await house.enter(token, "open", "desk") for token in ("alice 0 t1", "alice 0 t2", "alice")]
        bob = await house.enter("bob 0 t3", "open")
        sessions = house.hub.sessions
        house.hub.publish("open", "before")

        count = house.hub.revoke("alice")
        house.hub.publish("open", "after")
        states = [session.is_closed for session in sessions]
        for alice in alices:
            await alice.until(partial(ended, alice))
        house.clock.advance(1)
        await bob.until(lambda: "after" in bob.text)

        assert count == 3
        assert states == [True, True, True, False]
        assert [alice.ended for alice in alices] == [(4401, "revoked token")] * 3
        assert not any("after" in alice.text for alice in alices)
        assert all(ledger.is_balanced and not ledger.pending for s in sessions[:3] for ledger in s.final.values())
        assert house.hub.revoke("alice") == 0


async def test_a_token_is_revoked_by_its_id() -> None:
    async with serving() as house:
        first, second = await house.enter("alice 0 t1"), await house.enter("alice 0 t2")

        assert house.hub.revoke(token_id="t1") == 1
        await first.until(lambda: ended(first))
        assert first.ended == (4401, "revoked token")
        assert second.ended is None
        assert await house.is_refused("alice 0 t1")
        assert not await house.is_refused("alice 0 t2")


async def test_what_was_issued_until_then_is_refused_and_what_comes_later_is_not() -> None:
    async with serving() as house:
        house.clock.advance(50.5)
        house.hub.revoke("alice")

        assert await house.is_refused("alice 0")
        assert await house.is_refused("alice 50")  # in the same second, before or after: nobody can tell
        assert not await house.is_refused("alice 51")
        assert not await house.is_refused("bob 0")


async def test_a_session_of_the_host_counts_when_the_host_says_so() -> None:
    """Without a time of issue it is `authenticate` that decides who comes back."""
    async with serving() as house:
        house.clock.advance(1)
        session = await house.enter("alice")
        house.hub.revoke("alice")
        await session.until(lambda: ended(session))
        house.clock.advance(1)

        assert not await house.is_refused("alice")


async def test_it_is_remembered_as_long_as_is_wanted() -> None:
    async with serving(tuning=replace(FAST, revocation_memory=60.0)) as house:
        house.hub.revoke("alice")
        house.hub.revoke(token_id="t1")
        house.clock.advance(59)
        assert await house.is_refused("alice 0")
        assert await house.is_refused("bob 0 t1")
        house.clock.advance(2)
        assert not await house.is_refused("alice 0")
        assert not await house.is_refused("bob 0 t1")


async def test_a_clock_that_is_set_back_lets_nobody_in() -> None:
    """C06: of two revocations the later moment counts, and every session there is ends."""
    async with serving() as house:
        house.clock.advance(100)
        house.hub.revoke("alice")
        house.clock.shift_wall(-3600)
        late = await house.enter("alice 101")

        assert house.hub.revoke("alice") == 1
        await late.until(lambda: ended(late))
        assert await house.is_refused("alice 100")


def revocations(clock: ManualClock, counters: list[str]) -> Revocations:
    return Revocations(60.0, clock, clock.wall, counters.append)


def test_the_oldest_of_too_many_is_forgotten_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    clock, counters = ManualClock(), list[str]()
    memory = revocations(clock, counters)

    for number in (1, 2, 1, 3):  # what is repeated is new
        memory.add(Revocation(token_id=f"t{number}", at=clock.wall()))

    known = [memory.knows(Revocation(token_id=f"t{number}", at=clock.wall())) for number in (1, 2, 3)]
    assert known == [True, False, True]
    assert counters == ["revocation-forgotten"]


def test_what_has_run_out_makes_room_and_counts_as_nothing() -> None:
    clock, counters = ManualClock(), list[str]()
    memory = revocations(clock, counters)

    memory.add(Revocation(identity="alice", at=clock.wall()))
    clock.advance(61)
    memory.add(Revocation(identity="bob", at=clock.wall()))

    assert len(memory._entries) == 1
    assert counters == []


# --- who is on the way in


@pytest.mark.parametrize("token", ["alice", "alice 0", "alice 0 t1"])
async def test_a_check_under_way_lets_nobody_in(token: str) -> None:
    refused: list[bool] = []
    async with serving() as house, anyio.create_task_group() as tasks:
        house.tokens.gate = anyio.Event()
        house.tokens.arrived = anyio.Event()
        transport = house.connect(None, Handshake(transport="fake"))
        house.hub.gateway.receive_data(house.hub.sessions[0], json.dumps({"action": "auth", "token": token}))

        async def knock() -> None:
            refused.append(await house.is_refused(token))

        tasks.start_soon(knock)
        await house.tokens.arrived.wait()
        house.hub.revoke("alice")
        house.tokens.gate.set()
        await transport.until(lambda: ended(transport))

        assert transport.ended == (4401, "invalid token")
        assert "$hello" not in transport.text
    assert refused == [True]


@pytest.mark.parametrize("token", ["alice", "alice 0", "alice 0 t1"])
async def test_who_was_checked_before_and_connects_after_is_sent_away(token: str) -> None:
    """Some transports wait between the two."""
    async with serving() as house:
        handshake = Handshake(token=token, transport="fake")
        identity = await house.hub.check(handshake)
        house.hub.revoke("alice")
        transport = house.connect(identity, handshake, "open")
        house.hub.publish("open", "secret")
        await transport.until(lambda: ended(transport))

        assert transport.ended == (4401, "revoked token")
        assert "secret" not in transport.text
        assert is_empty(house.hub)


async def test_a_session_of_the_host_that_was_revoked_is_no_peer_without_a_token() -> None:
    """Who has none may send one; who is known by a cookie that counts no more is told so at once."""
    known = Identity(id="alice", issued=0.0)
    expired = Identity(id="bob", expires=0.0)
    found = known
    async with running(authenticate=lambda handshake: found) as hub:
        hub.revoke("alice")
        for found, fault in ((known, "invalid"), (expired, "expired")):  # noqa: B007 - the hub reads it
            with pytest.raises(AuthenticationError, match=f"{fault} token"):
                await hub.admit(Handshake())


async def test_a_refresh_with_a_revoked_token_is_refused_and_the_session_lives_on() -> None:
    async with serving() as house:
        transport = await house.enter("alice 0 t1", "open")
        house.hub.revoke(token_id="t2")
        house.hub.gateway.receive_data(house.hub.sessions[0], '{"action":"auth","token":"alice 0 t2"}')
        await transport.until(lambda: "$error" in transport.text)
        house.hub.publish("open", "still here")
        await transport.until(lambda: "still here" in transport.text)

        assert '"message":"invalid token"' in transport.text


# --- roles


async def test_lowered_roles_lose_their_subscriptions_at_once_and_for_good() -> None:
    """A08. The token still says more, and neither a refresh nor a reconnect brings it back; a new token does."""
    async with serving() as house:
        transport, bob = await house.enter("alice 0", "open", "desk"), await house.enter("bob 0", "desk")
        (session, _) = house.hub.sessions
        house.hub.publish("desk", "one")
        await transport.until(lambda: "one" in transport.text)

        assert house.hub.set_roles("alice", []) == 1
        house.hub.publish("desk", "two")
        await transport.until(lambda: "$unsubscribed" in transport.text)
        house.clock.advance(1)
        await bob.until(lambda: "two" in bob.text)
        house.hub.gateway.receive_data(session, '{"action":"auth","token":"alice 0"}')
        house.hub.gateway.receive_data(session, '{"action":"subscribe","channels":["desk"]}')
        await transport.until(lambda: "not open to the roles" in transport.text)
        again = await house.enter("alice 0", "desk")
        await again.until(lambda: "not open to the roles" in again.text)
        renewed = await house.enter("alice 1", "desk")
        await renewed.until(lambda: '"ok":true' in renewed.text)

        assert '"channels":[{"channel":"desk","seq":1,"abandoned":0}],"reason":"forbidden"' in transport.text
        assert "two" not in transport.text
        assert session.final["desk"].is_balanced
        assert list(session.subscriptions) == ["open"]


async def test_roles_may_be_raised() -> None:
    async with serving() as house:
        house.hub.set_roles("alice", [])
        transport = await house.enter("alice 0", "desk")
        await transport.until(lambda: "not open" in transport.text)
        house.hub.set_roles("alice", {"trader"})
        house.hub.gateway.receive_data(house.hub.sessions[0], '{"action":"subscribe","channels":["desk"]}')
        await transport.until(lambda: '"ok":true' in transport.text)


async def test_a_check_under_way_gets_the_new_roles() -> None:
    async with serving() as house:
        handshake = Handshake(token="alice", transport="fake")
        identity = await house.hub.check(handshake)
        house.hub.set_roles("alice", [])
        transport = house.connect(identity, handshake, "desk")
        await transport.until(lambda: "not open" in transport.text)


async def test_the_hook_is_asked_again_about_who_is_another_now() -> None:
    """Also in the middle of a question, and after a refresh; a token that says the same asks nobody."""
    asked: list[tuple[frozenset[str], str]] = []
    gate = anyio.Event()
    gate.set()
    arrived = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        asked.append((identity.roles, channel))
        arrived.set()
        await gate.wait()
        return bool(identity.roles)

    async with serving(authorize=authorize) as house:
        transport = await house.enter("alice 0 t1", "open")
        (session,) = house.hub.sessions
        await transport.until(lambda: '"ok":true' in transport.text)
        house.hub.gateway.receive_data(session, '{"action":"auth","token":"alice 1 t2"}')
        await transport.until(lambda: "$authenticated" in transport.text)
        assert asked == [(TRADER, "open")]

        gate, arrived = anyio.Event(), anyio.Event()
        house.hub.gateway.receive_data(session, '{"action":"subscribe","channels":["desk"]}')
        await arrived.wait()
        house.hub.set_roles("alice", ["trader", "more"])
        house.hub.set_roles("alice", [])
        gate.set()
        await transport.until(lambda: "$unsubscribed" in transport.text and "not open" in transport.text)

        assert session.subscriptions == {}


# --- other hubs, other threads, nonsense


async def test_other_hubs_are_told_and_do_the_same() -> None:
    told: list[Revocation] = []
    async with serving() as there, serving(on_revoke=told.append) as house:
        for door in (house, there):
            for token in ("alice 0 t1", "bob 0 t2", "carol 0 t3"):
                await door.enter(token, "desk")
            door.clock.advance(10)
        house.hub.revoke("alice")
        house.hub.revoke(token_id="t2")
        house.hub.set_roles("carol", [])
        there.clock.advance(1)
        counts = [there.hub.apply_revocation(revocation) for revocation in told]
        again = [there.hub.apply_revocation(revocation) for revocation in told]

        assert counts == [1, 1, 1]
        assert again == [0, 0, 0]
        assert [s.identity and s.identity.roles for s in there.hub.sessions] == [frozenset()]
        assert await there.is_refused("alice 0")
        assert await there.is_refused("bob 0 t2")
        assert told[0] == Revocation(identity="alice", at=house.clock.wall())


async def test_who_came_after_it_stays_when_it_arrives_late() -> None:
    async with serving() as house:
        for token in ("alice 0", "alice"):
            await house.enter(token)
        house.clock.advance(10)
        decided = Revocation(identity="alice", at=house.clock.wall())
        lowered = Revocation(identity="alice", at=house.clock.wall(), roles=frozenset())
        house.clock.advance(10)
        for token in ("alice 15", "alice"):
            await house.enter(token)

        assert house.hub.apply_revocation(lowered) == 2
        assert house.hub.apply_revocation(decided) == 2
        assert [s.identity and s.identity.roles for s in house.hub.sessions] == [TRADER, TRADER]


async def test_what_was_decided_while_it_was_down_holds_from_the_start() -> None:
    clock = ManualClock()
    hub = new_hub(authenticate=Tokens(clock), clock=clock, wall_clock=clock.wall)
    hub.apply_revocation(Revocation(identity="alice", at=clock.wall()))
    with anyio.fail_after(30):
        async with hub:
            with pytest.raises(AuthenticationError):
                await hub.check(Handshake(token="alice 0"))


async def test_what_on_revoke_raises_is_the_callers_after_it_was_done() -> None:
    def fail(revocation: Revocation) -> None:
        raise ConnectionError("no broker")

    async with serving(on_revoke=fail) as house:
        transport = await house.enter("alice 0")
        with pytest.raises(ConnectionError):
            house.hub.revoke("alice")
        await transport.until(lambda: ended(transport))


async def test_it_may_be_called_from_anywhere_in_the_loop() -> None:
    """C02: within a write, it takes effect after the running step."""
    async with serving() as house:
        witness = await house.enter("bob 0", "open")
        trap = FakeTransport(lambda frame: house.hub.revoke("alice") >= 0)
        handshake = Handshake(token="alice 0", transport="fake")
        house.hub.gateway.connect(trap, WIRE, await house.hub.check(handshake), handshake)
        await trap.until(lambda: ended(trap))
        house.hub.publish("open", "undisturbed")
        await witness.until(lambda: "undisturbed" in witness.text)


async def test_other_threads_hear_where_it_belongs() -> None:
    async with running() as hub:
        errors: list[Exception] = []

        def elsewhere() -> None:
            for call in (
                lambda: hub.revoke("alice"),
                lambda: hub.set_roles("alice", []),
                lambda: hub.reauthorize("alice"),
                lambda: hub.apply_revocation(Revocation(identity="alice", at=0.0)),
                lambda: hub.issue_ticket(Identity(id="alice")),
            ):
                try:
                    call()
                except HubError as error:
                    errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

        assert len(errors) == 5
        assert all("belongs to the hub's event loop" in str(error) for error in errors)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({}, "about an identity or about a token id"),
        ({"identity": "a", "token_id": "b"}, "not about both"),
        ({"identity": ""}, "1 to 255 characters"),
        ({"identity": 7}, "identity is 7"),
        ({"token_id": "x" * 256}, "1 to 255 characters"),
        ({"token_id": "t", "roles": []}, "roles are those of an identity"),
        ({"identity": "a", "roles": "admin"}, "it must be a set of texts"),
        ({"identity": "a", "roles": [7]}, "it must be a set of texts"),
    ],
)
def test_nonsense_is_refused_at_once(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Revocation(at=0.0, **wrong)


async def test_roles_are_checked_where_they_are_set() -> None:
    async with running(authenticate=anonymous) as hub, subscribe(hub, "events"):
        with pytest.raises(ValueError, match="must be a set of texts"):
            hub.set_roles("alice", "admin")
        with pytest.raises(ValueError, match="everybody"):
            hub.set_roles("anonymous", ["admin"])
        assert hub.revoke("anonymous") == 1


def test_the_memory_is_a_setting() -> None:
    with pytest.raises(ValueError, match="revocation_memory"):
        Tuning(revocation_memory=0.0)
