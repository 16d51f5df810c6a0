"""Revoked tokens and identities, and changed roles: they hold at once, and for clients that come back."""

from __future__ import annotations

import json
import threading
from collections import Counter
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
from analytics_hub.clock import Clock
from analytics_hub.contracts import Peer
from analytics_hub.telemetry import Telemetry
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import WIRE, subscribe

from ..hub.rig import FAST, FakeTransport, is_empty, new_hub, running

pytestmark = pytest.mark.anyio

OPEN, DESK = Channel("open"), Channel("desk", roles=frozenset({"trader"}))
TRADER = frozenset({"trader"})


class Tokens:
    """An `authenticate` for tokens such as `alice 100 t1`: subject, issue time, id. `alice` is a host session.

    While the gate is closed a check is in progress.
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


class Rig:
    """A hub with a manual clock, and fake clients."""

    def __init__(self, hub: Hub, clock: ManualClock, tokens: Tokens) -> None:
        self.hub, self.clock, self.tokens = hub, clock, tokens

    async def enter(self, token: str, *channels: str) -> FakeTransport:
        """Connect with the token in the handshake."""
        return self.connect(await self.authenticate(token), *channels)

    async def authenticate(self, token: str) -> Peer:
        return await self.hub.gateway.authenticate(Handshake(token=token, transport="fake"))

    def connect(self, peer: Peer, *channels: str) -> FakeTransport:
        transport = FakeTransport()
        session = self.hub.gateway.connect(transport, WIRE, peer)
        if channels:
            self.hub.gateway.receive_data(session, json.dumps({"action": "subscribe", "channels": channels}))
        return transport

    async def is_refused(self, token: str) -> bool:
        try:
            await self.hub.gateway.authenticate(Handshake(token=token))
        except AuthenticationError as error:
            return (error.fault, error.detail) == ("invalid", "revoked")
        return False


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Rig]:
    clock = ManualClock()
    tokens = Tokens(clock)
    settings: dict[str, Any] = {"authenticate": tokens, "clock": clock, "wall_clock": clock.wall}
    async with running((OPEN, DESK), **settings | options) as hub:
        yield Rig(clock.attach(hub), clock, tokens)


def ended(transport: FakeTransport) -> bool:
    return transport.ended is not None


# --- ending sessions


async def test_all_sessions_of_an_identity_end_at_once() -> None:
    """A08. Nothing that is published after the call reaches them, whatever was in flight."""
    async with serving() as rig:
        alices = [await rig.enter(token, "open", "desk") for token in ("alice 0 t1", "alice 0 t2", "alice")]
        bob = await rig.enter("bob 0 t3", "open")
        sessions = rig.hub.sessions
        rig.hub.publish("open", "before")

        count = rig.hub.revoke("alice")
        rig.hub.publish("open", "after")
        states = [session.is_closed for session in sessions]
        for alice in alices:
            await alice.until(partial(ended, alice))
        rig.clock.advance(1)
        await bob.until(lambda: "after" in bob.text)

        assert count == 3
        assert states == [True, True, True, False]
        assert [alice.ended for alice in alices] == [(4401, "revoked token")] * 3
        assert not any("after" in alice.text for alice in alices)
        assert all(ledger.is_balanced and not ledger.pending for s in sessions[:3] for ledger in s.final.values())
        assert rig.hub.revoke("alice") == 0


async def test_a_token_is_revoked_by_its_id() -> None:
    async with serving() as rig:
        first, second = await rig.enter("alice 0 t1"), await rig.enter("alice 0 t2")

        assert rig.hub.revoke(token_id="t1") == 1
        await first.until(lambda: ended(first))
        assert first.ended == (4401, "revoked token")
        assert second.ended is None
        assert await rig.is_refused("alice 0 t1")
        assert not await rig.is_refused("alice 0 t2")


async def test_tokens_issued_up_to_the_revocation_are_refused() -> None:
    async with serving() as rig:
        rig.clock.advance(50.5)
        rig.hub.revoke("alice")

        assert await rig.is_refused("alice 0")
        assert await rig.is_refused("alice 50")  # in the same second: before or after cannot be told
        assert not await rig.is_refused("alice 51")
        assert not await rig.is_refused("bob 0")


async def test_a_session_of_the_host_may_come_back() -> None:
    """Without a time of issue `authenticate` decides."""
    async with serving() as rig:
        rig.clock.advance(1)
        session = await rig.enter("alice")
        rig.hub.revoke("alice")
        await session.until(lambda: ended(session))
        rig.clock.advance(1)

        assert not await rig.is_refused("alice")


async def test_a_revocation_is_remembered_for_revocation_memory() -> None:
    async with serving(tuning=replace(FAST, revocation_memory=60.0)) as rig:
        rig.hub.revoke("alice")
        rig.hub.revoke(token_id="t1")
        rig.clock.advance(59)
        assert await rig.is_refused("alice 0")
        assert await rig.is_refused("bob 0 t1")
        rig.clock.advance(2)
        assert not await rig.is_refused("alice 0")
        assert not await rig.is_refused("bob 0 t1")


async def test_a_wall_clock_set_back_does_not_weaken_a_revocation() -> None:
    """C06: of two revocations the later moment counts, and every open session ends."""
    async with serving() as rig:
        rig.clock.advance(100)
        rig.hub.revoke("alice")
        rig.clock.shift_wall(-3600)
        late = await rig.enter("alice 101")

        assert rig.hub.revoke("alice") == 1
        await late.until(lambda: ended(late))
        assert await rig.is_refused("alice 100")


def revocations(clock: ManualClock, counters: Counter[str]) -> Revocations:
    return Revocations(60.0, Clock(clock, clock.wall), Telemetry(counters, clock))


def test_the_oldest_of_too_many_revocations_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    clock, counters = ManualClock(), Counter[str]()
    memory = revocations(clock, counters)

    for number in (1, 2, 1, 3):  # a repeated one is the newest
        memory.add(Revocation(token_id=f"t{number}", at=clock.wall()))

    known = [memory.knows(Revocation(token_id=f"t{number}", at=clock.wall())) for number in (1, 2, 3)]
    assert known == [True, False, True]
    assert counters == {"revocation-forgotten": 1}


def test_an_expired_revocation_is_dropped_without_being_counted() -> None:
    clock, counters = ManualClock(), Counter[str]()
    memory = revocations(clock, counters)

    memory.add(Revocation(identity="alice", at=clock.wall()))
    clock.advance(61)
    memory.add(Revocation(identity="bob", at=clock.wall()))

    assert len(memory._entries) == 1
    assert not counters


# --- checks in progress


@pytest.mark.parametrize("token", ["alice", "alice 0", "alice 0 t1"])
async def test_a_check_in_progress_is_refused(token: str) -> None:
    refused: list[bool] = []
    async with serving() as rig, anyio.create_task_group() as tasks:
        rig.tokens.gate = anyio.Event()
        rig.tokens.arrived = anyio.Event()
        transport = rig.connect(Peer(Handshake(transport="fake")))
        rig.hub.gateway.receive_data(rig.hub.sessions[0], json.dumps({"action": "auth", "token": token}))

        async def authenticate() -> None:
            refused.append(await rig.is_refused(token))

        tasks.start_soon(authenticate)
        await rig.tokens.arrived.wait()
        rig.hub.revoke("alice")
        rig.tokens.gate.set()
        await transport.until(lambda: ended(transport))

        assert transport.ended == (4401, "invalid token")
        assert "$hello" not in transport.text
    assert refused == [True]


@pytest.mark.parametrize("token", ["alice", "alice 0", "alice 0 t1"])
async def test_a_peer_revoked_between_check_and_connect_is_closed(token: str) -> None:
    """Some transports wait in between."""
    async with serving() as rig:
        peer = await rig.authenticate(token)
        rig.hub.revoke("alice")
        transport = rig.connect(peer, "open")
        rig.hub.publish("open", "secret")
        await transport.until(lambda: ended(transport))

        assert transport.ended == (4401, "revoked token")
        assert "secret" not in transport.text
        assert is_empty(rig.hub)


async def test_a_revoked_session_of_the_host_is_not_a_peer_without_a_token() -> None:
    """Such a peer could send a token later; one with a revoked or expired cookie is refused at once."""
    known = Identity(id="alice", issued=0.0)
    expired = Identity(id="bob", expires=0.0)
    found = known
    async with running(authenticate=lambda handshake: found) as hub:
        hub.revoke("alice")
        for found, fault in ((known, "invalid"), (expired, "expired")):  # noqa: B007 - the hub reads it
            with pytest.raises(AuthenticationError, match=f"{fault} token"):
                await hub.gateway.admit(Handshake())


async def test_a_refresh_with_a_revoked_token_is_refused_and_the_session_goes_on() -> None:
    async with serving() as rig:
        transport = await rig.enter("alice 0 t1", "open")
        rig.hub.revoke(token_id="t2")
        rig.hub.gateway.receive_data(rig.hub.sessions[0], '{"action":"auth","token":"alice 0 t2"}')
        await transport.until(lambda: "$error" in transport.text)
        rig.hub.publish("open", "still here")
        await transport.until(lambda: "still here" in transport.text)

        assert '"message":"invalid token"' in transport.text


# --- roles


async def test_removed_roles_end_subscriptions_at_once_and_for_good() -> None:
    """A08. Neither a refresh nor a reconnect with the old token brings them back; a new token does."""
    async with serving() as rig:
        transport, bob = await rig.enter("alice 0", "open", "desk"), await rig.enter("bob 0", "desk")
        (session, _) = rig.hub.sessions
        rig.hub.publish("desk", "one")
        await transport.until(lambda: "one" in transport.text)

        assert rig.hub.set_roles("alice", []) == 1
        rig.hub.publish("desk", "two")
        await transport.until(lambda: "$unsubscribed" in transport.text)
        rig.clock.advance(1)
        await bob.until(lambda: "two" in bob.text)
        rig.hub.gateway.receive_data(session, '{"action":"auth","token":"alice 0"}')
        rig.hub.gateway.receive_data(session, '{"action":"subscribe","channels":["desk"]}')
        await transport.until(lambda: "not open to the roles" in transport.text)
        again = await rig.enter("alice 0", "desk")
        await again.until(lambda: "not open to the roles" in again.text)
        renewed = await rig.enter("alice 1", "desk")
        await renewed.until(lambda: '"ok":true' in renewed.text)

        assert '"channels":[{"channel":"desk","seq":1,"abandoned":0}],"reason":"forbidden"' in transport.text
        assert "two" not in transport.text
        assert session.final["desk"].is_balanced
        assert list(session.subscriptions) == ["open"]


async def test_roles_may_be_added() -> None:
    async with serving() as rig:
        rig.hub.set_roles("alice", [])
        transport = await rig.enter("alice 0", "desk")
        await transport.until(lambda: "not open" in transport.text)
        rig.hub.set_roles("alice", {"trader"})
        rig.hub.gateway.receive_data(rig.hub.sessions[0], '{"action":"subscribe","channels":["desk"]}')
        await transport.until(lambda: '"ok":true' in transport.text)


async def test_a_peer_gets_roles_changed_between_check_and_connect() -> None:
    async with serving() as rig:
        peer = await rig.authenticate("alice")
        rig.hub.set_roles("alice", [])
        transport = rig.connect(peer, "desk")
        await transport.until(lambda: "not open" in transport.text)


async def test_authorize_is_called_again_when_the_identity_has_changed() -> None:
    """Also during a call, and after a refresh; not if the new token has the same roles."""
    asked: list[tuple[frozenset[str], str]] = []
    gate = anyio.Event()
    gate.set()
    arrived = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        asked.append((identity.roles, channel))
        arrived.set()
        await gate.wait()
        return bool(identity.roles)

    async with serving(authorize=authorize) as rig:
        transport = await rig.enter("alice 0 t1", "open")
        (session,) = rig.hub.sessions
        await transport.until(lambda: '"ok":true' in transport.text)
        rig.hub.gateway.receive_data(session, '{"action":"auth","token":"alice 1 t2"}')
        await transport.until(lambda: "$authenticated" in transport.text)
        assert asked == [(TRADER, "open")]

        gate, arrived = anyio.Event(), anyio.Event()
        rig.hub.gateway.receive_data(session, '{"action":"subscribe","channels":["desk"]}')
        await arrived.wait()
        rig.hub.set_roles("alice", ["trader", "more"])
        rig.hub.set_roles("alice", [])
        gate.set()
        await transport.until(lambda: "$unsubscribed" in transport.text and "not open" in transport.text)

        assert session.subscriptions == {}


# --- other hubs, other threads, invalid arguments


async def test_revocations_of_one_hub_are_applied_by_another() -> None:
    revocations: list[Revocation] = []
    async with serving() as there, serving(on_revoke=revocations.append) as rig:
        for each in (rig, there):
            for token in ("alice 0 t1", "bob 0 t2", "carol 0 t3"):
                await each.enter(token, "desk")
            each.clock.advance(10)
        rig.hub.revoke("alice")
        rig.hub.revoke(token_id="t2")
        rig.hub.set_roles("carol", [])
        there.clock.advance(1)
        counts = [there.hub.apply_revocation(revocation) for revocation in revocations]
        again = [there.hub.apply_revocation(revocation) for revocation in revocations]

        assert counts == [1, 1, 1]
        assert again == [0, 0, 0]
        assert [s.identity and s.identity.roles for s in there.hub.sessions] == [frozenset()]
        assert await there.is_refused("alice 0")
        assert await there.is_refused("bob 0 t2")
        assert revocations[0] == Revocation(identity="alice", at=rig.clock.wall())


async def test_a_late_revocation_spares_newer_sessions() -> None:
    async with serving() as rig:
        for token in ("alice 0", "alice"):
            await rig.enter(token)
        rig.clock.advance(10)
        decided = Revocation(identity="alice", at=rig.clock.wall())
        lowered = Revocation(identity="alice", at=rig.clock.wall(), roles=frozenset())
        rig.clock.advance(10)
        for token in ("alice 15", "alice"):
            await rig.enter(token)

        assert rig.hub.apply_revocation(lowered) == 2
        assert rig.hub.apply_revocation(decided) == 2
        assert [s.identity and s.identity.roles for s in rig.hub.sessions] == [TRADER, TRADER]


async def test_revocations_may_be_applied_before_the_hub_is_entered() -> None:
    clock = ManualClock()
    hub = new_hub(authenticate=Tokens(clock), clock=clock, wall_clock=clock.wall)
    hub.apply_revocation(Revocation(identity="alice", at=clock.wall()))
    with anyio.fail_after(30):
        async with hub:
            with pytest.raises(AuthenticationError):
                await hub.gateway.authenticate(Handshake(token="alice 0"))


async def test_an_exception_of_on_revoke_is_raised_after_the_revocation() -> None:
    def fail(revocation: Revocation) -> None:
        raise ConnectionError("no broker")

    async with serving(on_revoke=fail) as rig:
        transport = await rig.enter("alice 0")
        with pytest.raises(ConnectionError):
            rig.hub.revoke("alice")
        await transport.until(lambda: ended(transport))


async def test_revoke_may_be_called_within_a_write() -> None:
    """C02: it takes effect after the running step."""
    async with serving() as rig:
        witness = await rig.enter("bob 0", "open")
        trap = FakeTransport(lambda frame: rig.hub.revoke("alice") >= 0)
        rig.hub.gateway.connect(trap, WIRE, await rig.authenticate("alice 0"))
        await trap.until(lambda: ended(trap))
        rig.hub.publish("open", "undisturbed")
        await witness.until(lambda: "undisturbed" in witness.text)


async def test_calls_from_another_thread_raise() -> None:
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
        assert all("was called from another thread" in str(error) for error in errors)


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({}, "either identity or token_id"),
        ({"identity": "a", "token_id": "b"}, "and not both"),
        ({"identity": ""}, "1 to 255 characters"),
        ({"identity": 7}, "identity is 7"),
        ({"token_id": "x" * 256}, "1 to 255 characters"),
        ({"token_id": "t", "roles": []}, "token_id must be None"),
        ({"identity": "a", "roles": "admin"}, "it must be a set of texts"),
        ({"identity": "a", "roles": [7]}, "it must be a set of texts"),
    ],
)
def test_an_invalid_revocation_is_refused(invalid: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Revocation(at=0.0, **invalid)


async def test_set_roles_checks_its_arguments() -> None:
    async with running(authenticate=anonymous) as hub, subscribe(hub, "events"):
        with pytest.raises(ValueError, match="must be a set of texts"):
            hub.set_roles("alice", "admin")
        with pytest.raises(ValueError, match="all anonymous clients share"):
            hub.set_roles("anonymous", ["admin"])
        assert hub.revoke("anonymous") == 1


def test_revocation_memory_must_be_positive() -> None:
    with pytest.raises(ValueError, match="revocation_memory"):
        Tuning(revocation_memory=0.0)
