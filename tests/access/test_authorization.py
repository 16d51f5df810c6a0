"""`authorize` of the application: its answers concern one client alone, and are cached."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
import pytest

from analytics_hub import Action, Hub, Identity, PermissionDenied, Tuning, cheap
from analytics_hub.access import authorization as module
from analytics_hub.access.authorization import TURN, Authorization
from analytics_hub.clock import Clock
from analytics_hub.hooks import HookThreads
from analytics_hub.telemetry import Telemetry
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import connect, subscribe

from ..hub.rig import FAST, FakeTransport, cancellation, is_empty, plug_in, read, read_data, running

pytestmark = pytest.mark.anyio

HASTY = Tuning(interval=0.001, auth_timeout=0.1)
ALICE = Identity(id="alice")
BOB = Identity(id="bob")


@pytest.mark.parametrize("verdict", [False, None, 1, "yes", RuntimeError("down"), "cancelled", "hang"], ids=str)
async def test_only_true_allows(verdict: object) -> None:
    """C04: a failing hook refuses the client concerned and no other, and is counted."""
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


async def test_the_timeout_of_authorize_is_for_the_whole_command() -> None:
    """128 channels in one command must not take 128 times the limit."""
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


async def test_a_session_that_ends_during_authorize_is_forgotten() -> None:
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


# --- the cache


class Rule:
    """An `authorize` that returns `verdict`, True at first, and records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Action, str]] = []
        self.verdict: Any = True
        self.gate = anyio.Event()
        self.gate.set()
        self.arrived = anyio.Event()

    async def __call__(self, identity: Identity, action: Action, channel: str) -> Any:
        self.calls.append((identity.id, action, channel))
        self.arrived.set()
        await self.gate.wait()
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


def new_authorization(rule: Any, clock: ManualClock, **tuning: Any) -> Authorization:
    return Authorization(rule, HookThreads(), Tuning(**tuning), Clock(clock, clock.wall), Telemetry(Counter(), clock))


async def test_an_answer_is_cached_for_equal_identities_until_it_expires() -> None:
    rule, clock = Rule(), ManualClock()
    authorization = new_authorization(rule, clock)

    assert await authorization.decide(ALICE, "subscribe", ["a", "b"]) == {"a": True, "b": True}
    clock.advance(29.9)
    rule.verdict = False
    assert await authorization.decide(Identity(id="alice"), "subscribe", ["a"]) == {"a": True}
    assert await authorization.decide(ALICE, "publish", ["a"]) == {"a": False}
    assert await authorization.decide(replace(ALICE, account="other"), "subscribe", ["a"]) == {"a": False}
    clock.advance(0.2)
    assert await authorization.decide(ALICE, "subscribe", ["a"]) == {"a": False}

    assert rule.calls == [
        ("alice", "subscribe", "a"),
        ("alice", "subscribe", "b"),
        ("alice", "publish", "a"),
        ("alice", "subscribe", "a"),
        ("alice", "subscribe", "a"),
    ]


@pytest.mark.parametrize("verdict", [RuntimeError("down"), None, "yes"], ids=str)
async def test_a_failure_is_not_cached(verdict: object) -> None:
    rule = Rule()
    authorization = new_authorization(rule, ManualClock())

    rule.verdict = verdict
    assert await authorization.decide(ALICE, "subscribe", ["a"]) == {"a": None}
    rule.verdict = True
    assert await authorization.decide(ALICE, "subscribe", ["a"]) == {"a": True}


@pytest.mark.parametrize("ttl", [0.0, 1e-15])
async def test_caching_can_be_turned_off(ttl: float) -> None:
    rule = Rule()
    authorization = new_authorization(rule, ManualClock(), authorize_ttl=ttl)

    for _ in range(3):
        await authorization.decide(ALICE, "subscribe", ["a"])

    assert len(rule.calls) == 3


async def test_answers_about_an_identity_without_a_hash_are_not_cached() -> None:
    rule = Rule()
    authorization = new_authorization(rule, ManualClock())
    odd = Identity(id="odd", roles={"a"})  # type: ignore[arg-type]

    for _ in range(2):
        assert await authorization.decide(odd, "subscribe", ["a"]) == {"a": True}

    assert len(rule.calls) == 2


async def test_the_oldest_of_too_many_answers_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWERS", 2)
    rule = Rule()
    authorization = new_authorization(rule, ManualClock())

    await authorization.decide(ALICE, "subscribe", ["a", "b", "c"])
    rule.calls.clear()
    await authorization.decide(ALICE, "subscribe", ["c", "b", "a"])

    assert [channel for _, _, channel in rule.calls] == ["a"]


async def test_a_synchronous_rule_answers_in_one_thread_for_all_channels_of_a_command() -> None:
    names = [f"user:{number}" for number in range(TURN + 1)]
    threads: list[int] = []

    def rule(identity: Identity, action: Action, channel: str) -> Any:
        threads.append(threading.get_ident())
        if channel == "user:1":
            raise KeyError(channel)
        return None if channel == "user:2" else channel == "user:3"

    authorization, counting = new_authorization(rule, ManualClock()), CountingThreads()
    authorization._threads = counting

    verdicts = await authorization.decide(ALICE, "subscribe", names)

    assert verdicts == dict.fromkeys(names, False) | {"user:1": None, "user:2": None, "user:3": True}
    assert len(threads) == len(names)
    assert threading.get_ident() not in threads
    assert counting.calls == 2
    assert await authorization.decide(ALICE, "subscribe", ["user:3", "user:4"]) == {"user:3": True, "user:4": False}
    assert len(threads) == len(names), "answers are cached, failures are not"
    await authorization.decide(ALICE, "subscribe", ["user:1"])
    assert len(threads) == len(names) + 1


class CountingThreads(HookThreads):
    calls = 0

    async def call(self, function: Callable[..., Any], *args: object) -> Any:
        self.calls += 1
        return await super().call(function, *args)


async def test_what_a_synchronous_rule_has_answered_in_time_counts() -> None:
    gate, ended = threading.Event(), threading.Event()
    asked: list[str] = []

    def rule(identity: Identity, action: Action, channel: str) -> bool:
        asked.append(channel)
        if channel == "b":
            gate.wait(20)
            ended.set()
        return True

    verdicts = await new_authorization(rule, ManualClock(), auth_timeout=0.1).decide(
        ALICE, "subscribe", ["a", "b", "c"]
    )
    gate.set()
    await anyio.to_thread.run_sync(ended.wait)

    assert verdicts == {"a": True, "b": None, "c": None}
    assert asked == ["a", "b"], "nothing more is asked for a client that was answered"


async def test_a_function_that_returns_awaitables_is_asked_once_for_each_channel() -> None:
    awaited: list[str] = []

    async def answer(channel: str) -> bool:
        awaited.append(channel)
        return channel != "b"

    authorization = new_authorization(lambda identity, action, channel: answer(channel), ManualClock())

    assert await authorization.decide(ALICE, "subscribe", ["a", "b"]) == {"a": True, "b": False}
    assert await authorization.decide(ALICE, "publish", ["a", "b"]) == {"a": True, "b": False}
    assert awaited == ["a", "b"] * 2


async def test_a_rule_that_raises_a_cancellation_refuses_one_channel() -> None:
    def rule(identity: Identity, action: Action, channel: str) -> bool:
        if channel == "a":
            raise asyncio.CancelledError
        return True

    assert await new_authorization(rule, ManualClock()).decide(ALICE, "subscribe", ["a", "b"]) == {"a": None, "b": True}


async def test_many_channels_yield_to_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr(module, "checkpoint", turn)
    await new_authorization(Rule(), ManualClock()).decide(ALICE, "publish", [f"user:{number}" for number in range(640)])

    assert turns == 10


# --- asking again


@asynccontextmanager
async def subscribed(rule: Rule, **options: Any) -> AsyncIterator[tuple[Hub, FakeTransport]]:
    """A hub, and a client with two subscriptions that `rule` has allowed."""
    async with running(authorize=rule, **options) as hub:
        transport = FakeTransport()
        plug_in(hub, transport, "events", "latest", identity=ALICE)
        await transport.until(lambda: "$subscribed" in transport.text)
        rule.calls.clear()
        yield hub, transport


async def test_reauthorize_ends_refused_subscriptions_at_once() -> None:
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
async def test_reauthorize_ends_subscriptions_without_an_answer(verdict: object) -> None:
    rule = Rule()
    async with subscribed(rule, tuning=HASTY) as (hub, transport):
        rule.verdict = verdict
        if verdict == "hang":
            rule.gate = anyio.Event()
        hub.reauthorize("alice")
        await transport.until(lambda: "$unsubscribed" in transport.text)

        assert hub.sessions[0].subscriptions == {}
        assert hub.statistics().counters["authorize-failed"] == (1 if verdict == "hang" else 2)


async def test_reauthorize_repeats_a_request_in_progress() -> None:
    """The request began before `reauthorize`, and its answer comes after."""
    rule = Rule()
    rule.gate = anyio.Event()
    async with running(authorize=rule) as hub, connect(hub, identity=ALICE) as client:
        client.send({"action": "subscribe", "channels": ["events"]})
        await rule.arrived.wait()
        hub.reauthorize("alice")
        hub.reauthorize("bob")
        rule.gate.set()
        await read(client, lambda item: item["type"] == "$subscribed")

        assert [channel for _, _, channel in rule.calls] == ["events", "events"]


async def test_a_request_that_is_repeated_for_ever_times_out() -> None:
    """The hook itself calls `reauthorize`."""
    hub: Hub

    @cheap
    def authorize(identity: Identity, action: Action, channel: str) -> bool:
        hub.reauthorize("alice")
        return True

    async with running(authorize=authorize, tuning=HASTY) as hub:
        with pytest.raises(PermissionDenied):
            async with subscribe(hub, "events", identity=ALICE):
                pass
        assert hub.statistics().counters["authorize-failed"] == 1


async def test_a_session_that_ends_during_reauthorize_is_forgotten() -> None:
    rule = Rule()
    async with subscribed(rule) as (hub, _):
        rule.gate = anyio.Event()
        rule.arrived = anyio.Event()
        hub.reauthorize("alice")
        await rule.arrived.wait()
        hub.gateway.disconnect(hub.sessions[0])
        rule.gate.set()
        await hub.publish_confirmed("durable", 1)

        assert is_empty(hub)


async def test_reauthorizations_of_one_session_do_not_overlap() -> None:
    calls = 0
    answer = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        nonlocal calls
        calls += 1
        if calls > 1:
            await answer.wait()
        return True

    async with running(authorize=authorize) as hub, connect(hub, identity=ALICE) as client:
        client.send({"action": "subscribe", "channels": ["events"]})
        await read(client, lambda item: item["type"] == "$subscribed")

        for _ in range(50):
            hub.reauthorize("alice")
            await anyio.lowlevel.checkpoint()

        assert calls == 2
        answer.set()
        hub.publish("events", 1)
        assert len(await read_data(client, "events", 1)) == 1
