"""Public pages together with tokens for clients that have one: `JWTAuthenticator(..., anonymous=True)`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Action, AuthenticationError, Channel, Handshake, Hub, Identity, Tuning
from analytics_hub.auth import JWTAuthenticator, SessionAuthenticator, mint
from analytics_hub.client import HubClient
from analytics_hub.contracts import ANONYMOUS
from analytics_hub.transports.memory import MemoryClient, connect

from ..hub.rig import is_empty, read, running
from ..transports.peer import serving

pytestmark = pytest.mark.anyio

KEY = "k" * 32
CHANNELS = [Channel("public"), Channel("desk", roles=frozenset({"trader"})), Channel("user:*")]
PUBLIC = JWTAuthenticator(KEY, algorithms=["HS256"], anonymous=True)


@asynccontextmanager
async def page(**options: Any) -> AsyncIterator[tuple[Hub, MemoryClient]]:
    """A hub with public pages, and one that was opened without a token."""
    async with running(CHANNELS, authenticate=PUBLIC, **options) as hub, connect(hub) as client:
        await read(client, lambda item: item["type"] == "$hello")
        yield hub, client


async def ask(client: MemoryClient, command: dict[str, Any], answer: str) -> dict[str, Any]:
    client.send(command | {"id": 1})
    items = await read(client, lambda item: item["type"] == answer and item.get("id") == 1)
    return next(item for item in items if item["type"] == answer)


async def subscribe(client: MemoryClient, *channels: str) -> list[bool]:
    answer = await ask(client, {"action": "subscribe", "channels": list(channels)}, "$subscribed")
    return [channel["ok"] for channel in answer["channels"]]


def token(subject: str = "alice", **claims: Any) -> str:
    return mint(KEY, subject=subject, roles=["trader"], **claims)


async def test_a_peer_without_a_token_is_anonymous() -> None:
    async with page() as (hub, client):
        assert [session.identity for session in hub.sessions] == [ANONYMOUS]
        assert await subscribe(client, "public", "desk") == [True, False]


@pytest.mark.parametrize("bad", ["", "x", mint("x" * 32, subject="eve"), mint(KEY, subject="alice", ttl=1, now=0)])
async def test_a_bad_token_is_refused_and_not_anonymous(bad: str) -> None:
    async with running(CHANNELS, authenticate=PUBLIC) as hub:
        with pytest.raises(AuthenticationError):
            await hub.gateway.admit(Handshake(token=bad))


async def test_without_the_setting_a_peer_without_a_token_is_to_send_one() -> None:
    async with running(CHANNELS, authenticate=JWTAuthenticator(KEY, algorithms=["HS256"])) as hub:
        assert (await hub.gateway.admit(Handshake())).identity is None
        with pytest.raises(AuthenticationError, match="missing token"):
            await hub.gateway.authenticate(Handshake())


async def test_an_anonymous_client_may_log_in_later() -> None:
    """It keeps its subscriptions, and from then on it is a session of its identity."""
    async with page() as (hub, client):
        assert await subscribe(client, "public") == [True]
        await ask(client, {"action": "auth", "token": token()}, "$authenticated")

        (session,) = hub.sessions
        assert session.identity is not None
        assert session.identity.id == "alice"
        assert await subscribe(client, "desk") == [True]
        assert list(session.subscriptions) == ["public", "desk"]
        error = await ask(client, {"action": "auth", "token": token("bob")}, "$error")
        assert error["code"] == "forbidden"
        assert hub.revoke("alice") == 1


async def test_an_anonymous_client_with_a_bad_token_stays_anonymous() -> None:
    async with page() as (hub, client):
        error = await ask(client, {"action": "auth", "token": "guess"}, "$error")

        assert error["code"] == "unauthenticated"
        assert [session.identity for session in hub.sessions] == [ANONYMOUS]
        assert await subscribe(client, "public") == [True]


async def test_a_client_that_logs_in_later_counts_as_its_identity() -> None:
    async with page(tuning=Tuning(interval=0.001, max_per_identity=1)) as (hub, client):
        async with connect(hub, token=token()):
            error = await ask(client, {"action": "auth", "token": token()}, "$error")
            assert error["message"] == "more than 1 connections of one identity"
        while len(hub.sessions) > 1:
            await checkpoint()
        await ask(client, {"action": "auth", "token": token()}, "$authenticated")
        assert hub._access.limits._identities == {"alice": 1}

        client.leave()
        while not is_empty(hub):
            await checkpoint()
        assert not hub._access.limits._identities


async def test_authorize_is_asked_again_after_a_login() -> None:
    asked: list[tuple[str, str]] = []

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        asked.append((identity.id, channel))
        return identity is ANONYMOUS or channel == "user:alice"

    async with page(authorize=authorize) as (_, client):
        assert await subscribe(client, "public", "user:alice") == [True, True]
        client.send({"action": "auth", "token": token()})
        items = await read(client, lambda item: item["type"] == "$unsubscribed")

        assert [channel["channel"] for channel in items[-1]["channels"]] == ["public"]
        assert items[-1]["reason"] == "forbidden"
        assert asked[2:] == [("alice", "public"), ("alice", "user:alice")]


async def test_sessions_of_the_host_tokens_and_public_pages_together() -> None:
    def identify(scope: Any) -> Identity | None:
        return Identity(id=scope["session"]) if "session" in scope else None

    authenticate = SessionAuthenticator(identify, otherwise=PUBLIC)
    async with running(CHANNELS, authenticate=authenticate) as hub:
        shakes = [Handshake(scope={"session": "bob"}), Handshake(scope={}), Handshake(), Handshake(token=token())]
        found = [(await hub.gateway.admit(handshake)).identity for handshake in shakes]

        assert [identity and identity.id for identity in found] == ["bob", "anonymous", "anonymous", "alice"]


async def test_a_client_with_its_token_in_a_message_is_its_identity() -> None:
    async with (
        running(CHANNELS, authenticate=PUBLIC) as hub,
        serving(hub) as port,
        HubClient(f"ws://127.0.0.1:{port}", token(), token_in="message") as client,
        client.subscribe("desk") as items,
    ):
        while not hub.statistics().subscriptions:
            await checkpoint()
        hub.publish("desk", "a trade")

        assert getattr(await anext(items), "data", None) == "a trade"
        assert [session.identity and session.identity.id for session in hub.sessions] == ["alice"]
