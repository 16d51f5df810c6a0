"""`authenticate` and `authorize` are the application's; what they do stays with the client they were asked about."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from analytics_hub import (
    AuthenticationError,
    Channel,
    Handshake,
    Hub,
    HubError,
    Identity,
    PermissionDenied,
    Tuning,
    UnknownChannel,
)
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import WIRE, connect, subscribe

from .rig import FAST, FakeTransport, is_empty, plug_in, read, read_data, running

pytestmark = pytest.mark.anyio

HASTY = Tuning(interval=0.001, auth_timeout=0.1)
ALICE = Identity(id="alice")
SECRET = "secret-token-4711"


def sync_authenticate(handshake: Handshake) -> Identity:
    return Identity(id=f"sync {handshake.token}")


async def async_authenticate(handshake: Handshake) -> Identity:
    await anyio.lowlevel.checkpoint()
    return Identity(id=f"async {handshake.token}")


class Promise:
    """Something to await that is no coroutine."""

    def __await__(self) -> Any:
        yield from anyio.lowlevel.checkpoint().__await__()
        return Identity(id="promised")


def promise(handshake: Handshake) -> Awaitable[Identity]:
    return Promise()


@pytest.mark.parametrize(
    ("authenticate", "id_"),
    [(sync_authenticate, "sync t"), (async_authenticate, "async t"), (promise, "promised")],
    ids=["sync", "async", "awaitable"],
)
async def test_it_may_be_sync_or_async(authenticate: Any, id_: str) -> None:
    async with running(authenticate=authenticate) as hub:
        identity = await hub.check(Handshake(token="t"))
        async with connect(hub, token="t"):
            (session,) = hub.sessions

            assert identity.id == id_
            assert session.identity is not None
            assert session.identity.id == id_


async def test_it_sees_the_handshake() -> None:
    seen: list[Handshake] = []

    def authenticate(handshake: Handshake) -> Identity:
        seen.append(handshake)
        return ALICE

    async with running(authenticate=authenticate) as hub:
        handshake = Handshake(token="a", transport="fake", path="/p", headers={"x": "y"}, origin="o", client="1.2.3.4")
        session = hub.connect(FakeTransport(), WIRE, await hub.check(handshake), handshake)
        transport = FakeTransport()
        later = hub.connect(transport, WIRE, None, Handshake(transport="fake", headers={"x": "z"}))
        hub.receive_data(later, '{"action":"auth","token":"b"}')
        await transport.until(lambda: "$hello" in transport.text)
        hub.receive_data(later, '{"action":"auth","token":"c"}')
        await transport.until(lambda: transport.text.count("$authenticated") == 2)

        assert [(h.token, h.transport, dict(h.headers)) for h in seen] == [
            ("a", "fake", {"x": "y"}),
            ("b", "fake", {"x": "z"}),  # everything is known of it but the token
            ("c", "fake", {}),  # headers are not kept for a refresh
        ]
        assert seen[0] is handshake
        assert session.identity == later.identity == ALICE


# --- what it raises


@pytest.mark.parametrize("fault", ["missing", "invalid", "expired"])
async def test_a_refusal_tells_its_class_and_counts(fault: Any) -> None:
    async def authenticate(handshake: Handshake) -> Identity:
        raise AuthenticationError(fault, "only for the log")

    async with running(authenticate=authenticate) as hub:
        with pytest.raises(AuthenticationError, match=rf"^{fault} token$"):
            await hub.check(Handshake(token=SECRET))

        assert hub.statistics().counters[f"token-{fault}"] == 1


async def test_a_refused_first_message_counts_once() -> None:
    def authenticate(handshake: Handshake) -> Identity:
        raise AuthenticationError("invalid")

    async with running(authenticate=authenticate) as hub:
        transport = FakeTransport()
        session = hub.connect(transport, WIRE, None, Handshake())
        hub.receive_data(session, '{"action":"auth","token":"x"}')
        await transport.until(lambda: transport.ended is not None)

        assert transport.ended == (4401, "invalid token")
        assert hub.statistics().counters["token-invalid"] == 1
        assert is_empty(hub)


def raising(error: Exception) -> Callable[[Handshake], Identity]:
    def authenticate(handshake: Handshake) -> Identity:
        raise error

    return authenticate


async def hanging(handshake: Handshake) -> Identity:
    await anyio.sleep_forever()
    raise AssertionError


FAILING: dict[str, Any] = {
    "raises": raising(RuntimeError(f"cannot look up {SECRET}")),
    "raises a group": raising(ExceptionGroup("several", [KeyError(SECRET)])),
    "hangs": hanging,
    "returns None": lambda handshake: None,
    "returns True": lambda handshake: True,
    "returns a dict": lambda handshake: {"sub": "alice"},
    "returns a class": lambda handshake: Identity,
    "an id that is no text": lambda handshake: Identity(id=7),  # type: ignore[arg-type]
    "no id": lambda handshake: Identity(id=""),
    "a huge id": lambda handshake: Identity(id="x" * 1_000_000),
    "roles that are a text": lambda handshake: Identity(id="a", roles="admin"),  # type: ignore[arg-type]
    "roles that are a list": lambda handshake: Identity(id="a", roles=["admin"]),  # type: ignore[arg-type]
    "expires that is a text": lambda handshake: Identity(id="a", expires="tomorrow"),  # type: ignore[arg-type]
    "expires that is not a number": lambda handshake: Identity(id="a", expires=float("nan")),
    "channels that are a text": lambda handshake: Identity(id="a", channels="user:*"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("authenticate", FAILING.values(), ids=FAILING.keys())
async def test_what_fails_to_answer_lets_nobody_in(authenticate: Any) -> None:
    """503 or 1011 for that client, without the reason; counted; and the hub serves the others."""
    async with running(authenticate=authenticate, tuning=HASTY, clock=ManualClock()) as hub:
        witness = FakeTransport()
        plug_in(hub, witness, "events", identity=ALICE)
        with pytest.raises(HubError) as refused:
            async with connect(hub, token=SECRET):
                pass
        transport = FakeTransport()
        session = hub.connect(transport, WIRE, None, Handshake())
        hub.receive_data(session, json.dumps({"action": "auth", "token": SECRET}))
        await transport.until(lambda: transport.ended is not None)
        hub.publish("events", "undisturbed")
        await witness.until(lambda: "undisturbed" in witness.text)

        assert type(refused.value) is HubError
        assert str(refused.value) == "tokens cannot be checked now"
        assert transport.ended == (1011, "tokens cannot be checked now")
        assert SECRET not in transport.text
        assert hub.statistics().counters["authenticate-failed"] == 2
        assert hub.statistics().sessions == 1


@pytest.mark.parametrize(
    "authenticate", [FAILING["raises"], hanging, raising(PermissionDenied("no"))], ids=["raises", "hangs", "refuses"]
)
async def test_it_is_asked_once_for_a_peer_without_a_token(authenticate: Any) -> None:
    asked = 0

    async def count(handshake: Handshake) -> Any:
        nonlocal asked
        asked += 1
        result = authenticate(handshake)
        return await result if hasattr(result, "__await__") else result

    async with running(authenticate=count, tuning=HASTY) as hub:
        with pytest.raises(HubError):
            await hub.admit(Handshake())

        assert asked == 1


async def test_a_peer_without_a_token_may_bring_one_later() -> None:
    def authenticate(handshake: Handshake) -> Identity:
        if handshake.token is None:
            raise AuthenticationError("missing")
        return ALICE

    async with running(authenticate=authenticate) as hub:
        assert await hub.admit(Handshake()) is None
        assert await hub.admit(Handshake(token="t")) == ALICE
        assert hub.statistics().counters.get("token-missing", 0) == 0
        with pytest.raises(AuthenticationError):
            await hub.check(Handshake())
        assert hub.statistics().counters["token-missing"] == 1


async def test_an_identity_that_has_expired_already_is_expired() -> None:
    async with running(authenticate=lambda handshake: Identity(id="a", expires=100.0), wall_clock=lambda: 100.0) as hub:
        with pytest.raises(AuthenticationError, match="expired token"):
            await hub.check(Handshake(token="t"))


# --- authorize


async def test_authorize_may_be_sync_or_async_and_has_the_last_word() -> None:
    for authorize in (lambda identity, channel: channel == "events", _only_events):
        async with running(authorize=authorize) as hub, connect(hub, identity=ALICE) as client:
            client.send({"action": "subscribe", "id": 1, "channels": ["events", "latest", "nosuch"]})
            items = await read(client, lambda item: item["type"] == "$subscribed")

            answers = items[-1]["channels"]
            assert [answer.get("code") for answer in answers] == [None, "forbidden", "unknown-channel"]


async def _only_events(identity: Identity, channel: str) -> bool:
    await anyio.lowlevel.checkpoint()
    return channel == "events"


@pytest.mark.parametrize("verdict", [None, 1, "yes", RuntimeError("down"), "hang"], ids=str)
async def test_only_true_is_yes(verdict: object) -> None:
    async def authorize(identity: Identity, channel: str) -> Any:
        if isinstance(verdict, Exception):
            raise verdict
        if verdict == "hang":
            await anyio.sleep_forever()
        return verdict

    async with running(authorize=authorize, tuning=HASTY if verdict == "hang" else FAST) as hub:
        with pytest.raises(PermissionDenied):
            async with subscribe(hub, "events", identity=ALICE):
                pass

        assert hub.statistics().counters.get("authorize-failed", 0) == (
            verdict == "hang" or isinstance(verdict, Exception)
        )
        assert is_empty(hub)


async def test_a_hook_that_hangs_is_waited_for_once_and_not_for_each_channel() -> None:
    """128 channels in one command must not mean 128 times the limit."""
    asked: list[str] = []

    async def authorize(identity: Identity, channel: str) -> bool:
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

    async def authorize(identity: Identity, channel: str) -> bool:
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

    async def authorize(identity: Identity, channel: str) -> bool:
        await gate.wait()
        return True

    async with running(authorize=authorize) as hub:
        transport = FakeTransport()
        session = plug_in(hub, transport, "events", identity=ALICE)
        for number in range(10):
            hub.receive_data(session, json.dumps({"action": "ping", "id": number}) + " " * 10_000)
        await transport.until(lambda: transport.is_paused)
        gate.set()
        await transport.until(lambda: not transport.is_paused)
        await transport.until(lambda: transport.text.count("$pong") == 10)

        assert not transport.is_paused


async def test_who_leaves_while_a_hook_is_asked_is_forgotten() -> None:
    gates = [anyio.Event(), anyio.Event()]

    async def authorize(identity: Identity, channel: str) -> bool:
        gates[0].set()
        await gates[1].wait()
        return True

    async with running(authorize=authorize) as hub:
        session = plug_in(hub, FakeTransport(), "events", identity=ALICE)
        await gates[0].wait()
        hub.disconnect(session)
        gates[1].set()
        await hub.publish_confirmed("durable", 1)

        assert is_empty(hub)
        assert session.subscriptions == {}


# --- roles and refresh


async def test_a_refresh_may_take_and_give_roles() -> None:
    channels = [
        Channel("open"),
        Channel("desk", roles=frozenset({"trader"})),
        Channel("risk", roles=frozenset({"risk"})),
    ]

    def authenticate(handshake: Handshake) -> Identity:
        return Identity(id="alice", roles=frozenset({handshake.token or ""}))

    async with running(channels, authenticate=authenticate) as hub, connect(hub, token="trader") as client:
        client.send({"action": "subscribe", "id": 1, "channels": ["open", "desk", "risk"]})
        first = await read(client, lambda item: item["type"] == "$subscribed")
        client.send({"action": "auth", "id": 2, "token": "risk"})
        ended = await read(client, lambda item: item["type"] == "$unsubscribed")
        client.send({"action": "subscribe", "id": 3, "channels": ["desk", "risk"]})
        second = await read(client, lambda item: item["type"] == "$subscribed")
        hub.publish("desk", "not any more")
        hub.publish("risk", "from now on")

        assert [answer["ok"] for answer in first[-1]["channels"]] == [True, True, False]
        assert [account["channel"] for account in ended[-1]["channels"]] == ["desk"]
        assert [answer["ok"] for answer in second[-1]["channels"]] == [False, True]
        assert await read_data(client, "risk", 1) == ["from now on"]


# --- subscribing in this process


@pytest.mark.parametrize(
    ("channels", "error"),
    [
        (["nosuch"], UnknownChannel),
        (["desk"], PermissionDenied),
        (["not a name"], HubError),
        (["open", "nosuch"], UnknownChannel),
        ([], HubError),
        ([{"channel": "open", "colour": "red"}], HubError),
    ],
)
async def test_a_subscriber_in_this_process_gets_exceptions(channels: list[Any], error: type[Exception]) -> None:
    declared = [Channel("open"), Channel("desk", roles=frozenset({"trader"}))]
    async with running(declared) as hub:
        with pytest.raises(error):
            async with subscribe(hub, *channels, identity=ALICE):
                pass

        assert is_empty(hub)


async def test_a_subscriber_in_this_process_needs_a_token_too() -> None:
    def authenticate(handshake: Handshake) -> Identity:
        if handshake.token != "right":
            raise AuthenticationError("invalid" if handshake.token else "missing")
        return ALICE

    async with running(authenticate=authenticate) as hub:
        for token, fault in ((None, "missing"), ("wrong", "invalid")):
            with pytest.raises(AuthenticationError, match=f"{fault} token"):
                async with subscribe(hub, "events", token=token):
                    pass
        async with subscribe(hub, "events", token="right"):
            assert _who(hub) == ["alice"]
        assert is_empty(hub)


def _who(hub: Hub) -> list[str]:
    return [session.identity.id for session in hub.sessions if session.identity is not None]
