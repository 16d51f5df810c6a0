"""`authorize` is the application's; what it does stays with the client that it was asked about, and is remembered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from analytics_hub import Action, Hub, Identity, PermissionDenied, Tuning
from analytics_hub.access import authorization as module
from analytics_hub.access.authorization import Authorization
from analytics_hub.telemetry import ThrottledLogger
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import connect, subscribe

from ..hub.rig import FAST, FakeTransport, cancellation, is_empty, plug_in, read, read_data, running

pytestmark = pytest.mark.anyio

HASTY = Tuning(interval=0.001, auth_timeout=0.1)
ALICE = Identity(id="alice")
BOB = Identity(id="bob")


async def test_authorize_may_be_sync_or_async_and_has_the_last_word() -> None:
    for authorize in (lambda identity, action, channel: channel == "events", _only_events):
        async with running(authorize=authorize) as hub, connect(hub, identity=ALICE) as client:
            client.send({"action": "subscribe", "id": 1, "channels": ["events", "latest", "nosuch"]})
            items = await read(client, lambda item: item["type"] == "$subscribed")

            answers = items[-1]["channels"]
            assert [answer.get("code") for answer in answers] == [None, "forbidden", "unknown-channel"]


async def _only_events(identity: Identity, action: Action, channel: str) -> bool:
    await anyio.lowlevel.checkpoint()
    return channel == "events"


@pytest.mark.parametrize("verdict", [False, None, 1, "yes", RuntimeError("down"), "cancelled", "hang"], ids=str)
async def test_only_true_is_yes(verdict: object) -> None:
    """C04: what a hook does harms the client that it was asked about, and is counted."""
    is_answer = verdict is False

    async def authorize(identity: Identity, action: Action, channel: str) -> Any:
        if identity != ALICE:
            return True
        if isinstance(verdict, Exception):
            raise verdict
        if verdict == "cancelled":
            raise await cancellation()
        if verdict == "hang":
            await anyio.sleep_forever()
        return verdict

    async with running(authorize=authorize, tuning=HASTY if verdict == "hang" else FAST) as hub:
        async with subscribe(hub, "events", identity=BOB) as neighbour:
            with pytest.raises(PermissionDenied):
                async with subscribe(hub, "events", identity=ALICE):
                    pass
            hub.publish("events", 1)

            assert await read_data(neighbour, "events", 1) == [1]
        assert hub.statistics().counters.get("authorize-failed", 0) == (not is_answer)
        assert is_empty(hub)


async def test_a_hook_that_hangs_is_waited_for_once_and_not_for_each_channel() -> None:
    """128 channels in one command must not mean 128 times the limit."""
    asked: list[str] = []

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        asked.append(channel)
        if channel != "user:0":
            await anyio.sleep_forever()
        return True

    async with running(authorize=authorize, tuning=HASTY) as hub, connect(hub, identity=ALICE) as client:
        client.send({"action": "subscribe", "channels": [f"user:{number}" for number in range(128)]})
        items = await read(client, lambda item: item["type"] == "$subscribed")

        assert [answer["ok"] for answer in items[-1]["channels"]] == [True] + [False] * 127
        assert asked == ["user:0", "user:1"]


async def test_commands_wait_for_the_hook_in_their_order() -> None:
    gate = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        await gate.wait()
        return True

    async with running(authorize=authorize) as hub, connect(hub, identity=ALICE) as client:
        client.send({"action": "subscribe", "channels": ["events"]})
        client.send({"action": "ping", "id": 1})
        client.send({"action": "unsubscribe", "channels": ["events"]})
        client.send({"action": "ping", "id": 2})
        gate.set()
        items = await read(client, lambda item: item.get("id") == 2)

        assert [item["type"] for item in items] == ["$hello", "$subscribed", "$pong", "$unsubscribed", "$pong"]


async def test_too_many_waiting_commands_stop_the_reading() -> None:
    gate = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        await gate.wait()
        return True

    async with running(authorize=authorize) as hub:
        transport = FakeTransport()
        session = plug_in(hub, transport, "events", identity=ALICE)
        for number in range(10):
            hub.gateway.receive_data(session, json.dumps({"action": "ping", "id": number}) + " " * 10_000)
        await transport.until(lambda: transport.is_paused)
        gate.set()
        await transport.until(lambda: not transport.is_paused)
        await transport.until(lambda: transport.text.count("$pong") == 10)

        assert not transport.is_paused


async def test_who_leaves_while_a_hook_is_asked_is_forgotten() -> None:
    gates = [anyio.Event(), anyio.Event()]

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        gates[0].set()
        await gates[1].wait()
        return True

    async with running(authorize=authorize) as hub:
        session = plug_in(hub, FakeTransport(), "events", identity=ALICE)
        await gates[0].wait()
        hub.gateway.disconnect(session)
        gates[1].set()
        await hub.publish_confirmed("durable", 1)

        assert is_empty(hub)
        assert session.subscriptions == {}


# --- what is remembered


class Judge:
    """An `authorize` that says yes, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Action, str]] = []
        self.verdict: Any = True
        self.gate = anyio.Event()
        self.gate.set()
        self.arrived = anyio.Event()

    async def __call__(self, identity: Identity, action: Action, channel: str) -> Any:
        self.asked.append((identity.id, action, channel))
        self.arrived.set()
        await self.gate.wait()
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


def desk(judge: Judge, clock: ManualClock, **tuning: Any) -> Authorization:
    counters: list[str] = []
    return Authorization(judge, Tuning(**tuning), clock, counters.append, ThrottledLogger(clock))


async def test_an_answer_holds_for_a_while_and_for_equal_identities() -> None:
    judge, clock = Judge(), ManualClock()
    authorization = desk(judge, clock)

    assert await authorization.ask(ALICE, "subscribe", ["a", "b"]) == {"a": True, "b": True}
    clock.advance(29.9)
    judge.verdict = False
    assert await authorization.ask(Identity(id="alice"), "subscribe", ["a"]) == {"a": True}
    assert await authorization.ask(ALICE, "publish", ["a"]) == {"a": False}
    assert await authorization.ask(replace(ALICE, account="other"), "subscribe", ["a"]) == {"a": False}
    clock.advance(0.2)
    assert await authorization.ask(ALICE, "subscribe", ["a"]) == {"a": False}

    assert judge.asked == [
        ("alice", "subscribe", "a"),
        ("alice", "subscribe", "b"),
        ("alice", "publish", "a"),
        ("alice", "subscribe", "a"),
        ("alice", "subscribe", "a"),
    ]


@pytest.mark.parametrize("verdict", [RuntimeError("down"), None, "yes"], ids=str)
async def test_a_failure_is_not_remembered(verdict: object) -> None:
    judge = Judge()
    authorization = desk(judge, ManualClock())

    judge.verdict = verdict
    assert await authorization.ask(ALICE, "subscribe", ["a"]) == {"a": None}
    judge.verdict = True
    assert await authorization.ask(ALICE, "subscribe", ["a"]) == {"a": True}


@pytest.mark.parametrize("ttl", [0.0, 1e-15])
async def test_nothing_is_remembered_if_that_is_wanted(ttl: float) -> None:
    judge = Judge()
    authorization = desk(judge, ManualClock(), authorize_ttl=ttl)

    for _ in range(3):
        await authorization.ask(ALICE, "subscribe", ["a"])

    assert len(judge.asked) == 3


async def test_an_identity_without_a_hash_is_asked_about_each_time() -> None:
    judge = Judge()
    authorization = desk(judge, ManualClock())
    odd = Identity(id="odd", roles={"a"})  # type: ignore[arg-type]

    for _ in range(2):
        assert await authorization.ask(odd, "subscribe", ["a"]) == {"a": True}

    assert len(judge.asked) == 2


async def test_the_oldest_of_too_many_answers_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWERS", 2)
    judge = Judge()
    authorization = desk(judge, ManualClock())

    await authorization.ask(ALICE, "subscribe", ["a", "b", "c"])
    judge.asked.clear()
    await authorization.ask(ALICE, "subscribe", ["c", "b", "a"])

    assert [channel for _, _, channel in judge.asked] == ["a"]


async def test_many_channels_leave_the_event_loop_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr(module, "checkpoint", turn)
    await desk(Judge(), ManualClock()).ask(ALICE, "publish", [f"user:{number}" for number in range(640)])

    assert turns == 10


# --- what counts no more


@asynccontextmanager
async def asked(judge: Judge, **options: Any) -> AsyncIterator[tuple[Hub, FakeTransport]]:
    """A hub, and a client about whose two subscriptions `judge` was asked."""
    async with running(authorize=judge, **options) as hub:
        transport = FakeTransport()
        plug_in(hub, transport, "events", "latest", identity=ALICE)
        await transport.until(lambda: "$subscribed" in transport.text)
        judge.asked.clear()
        yield hub, transport


async def test_a_changed_mind_ends_subscriptions_at_once() -> None:
    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        return channel not in closed

    closed: set[str] = set()
    async with running(authorize=authorize) as hub:
        transport, neighbour = FakeTransport(), FakeTransport()
        session = plug_in(hub, transport, "events", "latest", identity=ALICE)
        plug_in(hub, neighbour, "latest", identity=BOB)
        await transport.until(lambda: "$subscribed" in transport.text)
        await neighbour.until(lambda: "$subscribed" in neighbour.text)
        hub.publish("latest", "before")
        await transport.until(lambda: "before" in transport.text)
        closed.add("latest")
        hub.reauthorize("alice")
        await transport.until(lambda: "$unsubscribed" in transport.text)
        hub.publish("latest", "after")
        hub.publish("events", "open")
        await transport.until(lambda: "open" in transport.text)
        await neighbour.until(lambda: "after" in neighbour.text)

        assert '"reason":"forbidden"' in transport.text
        assert "after" not in transport.text
        assert list(session.subscriptions) == ["events"]
        assert session.final["latest"].is_balanced
        assert session.final["latest"].delivered == 1


@pytest.mark.parametrize("verdict", [RuntimeError("down"), "hang"], ids=str)
async def test_no_answer_is_no_permission(verdict: object) -> None:
    judge = Judge()
    async with asked(judge, tuning=HASTY) as (hub, transport):
        judge.verdict = verdict
        if verdict == "hang":
            judge.gate = anyio.Event()
        hub.reauthorize("alice")
        await transport.until(lambda: "$unsubscribed" in transport.text)

        assert hub.sessions[0].subscriptions == {}
        assert hub.statistics().counters["authorize-failed"] == (1 if verdict == "hang" else 2)


async def test_an_answer_under_way_counts_no_more_either() -> None:
    """Asked before the application changed its mind, and answered after."""
    judge = Judge()
    judge.gate = anyio.Event()
    async with running(authorize=judge) as hub, connect(hub, identity=ALICE) as client:
        client.send({"action": "subscribe", "channels": ["events"]})
        await judge.arrived.wait()
        hub.reauthorize("alice")
        hub.reauthorize("bob")
        judge.gate.set()
        await read(client, lambda item: item["type"] == "$subscribed")

        assert [channel for _, _, channel in judge.asked] == ["events", "events"]


async def test_a_question_that_grows_stale_again_and_again_ends_in_time() -> None:
    """The hook itself has the hub forget."""
    hub: Hub

    def authorize(identity: Identity, action: Action, channel: str) -> bool:
        hub.reauthorize("alice")
        return True

    async with running(authorize=authorize, tuning=HASTY) as hub:
        with pytest.raises(PermissionDenied):
            async with subscribe(hub, "events", identity=ALICE):
                pass


async def test_who_left_is_asked_about_in_vain() -> None:
    judge = Judge()
    async with asked(judge) as (hub, _):
        judge.gate = anyio.Event()
        judge.arrived = anyio.Event()
        hub.reauthorize("alice")
        await judge.arrived.wait()
        hub.gateway.disconnect(hub.sessions[0])
        judge.gate.set()
        await hub.publish_confirmed("durable", 1)

        assert is_empty(hub)


async def test_who_is_thought_of_anew_again_and_again_is_asked_about_once_at_a_time() -> None:
    asked = 0
    answer = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        nonlocal asked
        asked += 1
        if asked > 1:
            await answer.wait()
        return True

    async with running(authorize=authorize) as hub, connect(hub, identity=ALICE) as client:
        client.send({"action": "subscribe", "channels": ["events"]})
        await read(client, lambda item: item["type"] == "$subscribed")

        for _ in range(50):
            hub.reauthorize("alice")
            await anyio.lowlevel.checkpoint()

        assert asked == 2
        answer.set()
        hub.publish("events", 1)
        assert len(await read_data(client, "events", 1)) == 1
