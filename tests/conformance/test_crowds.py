"""The limits of one identity, one address and all clients together, whatever the transport."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from analytics_hub import Handshake, Identity
from analytics_hub.access.limits import LOAD_TTL

from .client import Refused, TransportUnderTest
from .harness import FAST, ServedHub, serving

pytestmark = pytest.mark.anyio

NO_PROXIES: dict[str, Any] = {"proxies": []}
"""So that the address of this machine is counted as any other."""


async def status_of(served: ServedHub, token: str) -> int:
    """The status of the answer to one more client."""
    try:
        async with served.reader(token=token):
            return 200
    except Refused as refused:
        return refused.status


def has_address(transport: TransportUnderTest) -> bool:
    return transport.name != "memory"


async def test_the_connections_of_an_identity_are_limited(transport: TransportUnderTest) -> None:
    async with serving(transport, tuning=replace(FAST, max_per_identity=2)) as served:
        async with served.reader(token="alice"), served.reader("routing", token="alice") as second:
            served.tokens.add("alice too", issued=1.0)

            assert await status_of(served, "alice") == 429
            assert await status_of(served, "alice too") == 429
            assert await status_of(served, "root") == 200

            assert served.hub.statistics().counters["limited-identity"] == 2
            served.hub.publish("routing", 1)
            await second.until(lambda item: item.get("seq") == 1)
        await served.all_disconnected()
        assert await status_of(served, "alice") == 200


async def test_the_connections_of_an_address_are_limited(transport: TransportUnderTest) -> None:
    if not has_address(transport):
        pytest.skip("clients of this transport have no address")
    async with serving(transport, tuning=replace(FAST, max_per_address=2), **NO_PROXIES) as served:
        async with served.reader(token="alice"), served.reader(token="root"):
            assert await status_of(served, "alice") == 429
            assert await status_of(served, "root") == 429

            assert served.hub.statistics().counters["limited-address"] == 2
            assert served.hub.statistics().sessions == 2
        await served.all_disconnected()
        assert await status_of(served, "alice") == 200


async def test_the_invalid_tokens_of_an_address_are_limited(transport: TransportUnderTest) -> None:
    """Tokens that were issued once do not count, and those that were accepted before are always checked."""
    if not has_address(transport):
        pytest.skip("clients of this transport have no address")
    tuning = replace(FAST, token_failures=2)
    async with (
        serving(transport, tuning=tuning, manual=True, **NO_PROXIES) as served,
        served.reader("routing", token="alice") as witness,
    ):
        assert [await status_of(served, token) for token in ("old", "old", "banned", "guess", "guess 2")] == [
            401, 401, 403, 401, 401,
        ]  # fmt: skip
        tokens = record_tokens(served)

        assert [await status_of(served, token) for token in ("guess 3", "root", "guess")] == [429, 429, 429]
        assert [await status_of(served, token) for token in ("old", "banned")] == [401, 403]

        assert set(tokens) <= {None}  # None where the token is the first message
        assert await status_of(served, "alice") == 200
        assert served.hub.statistics().counters["limited-failures"] == 3
        assert served.hub.statistics().counters["token-expired"] == 3
        served.hub.publish("routing", 1)
        await witness.until(lambda item: item.get("seq") == 1)
        served.clock.advance(60)
        assert await status_of(served, "root") == 200


def record_tokens(served: ServedHub) -> list[str | None]:
    """The tokens that `authenticate` is called with from now on."""
    tokens: list[str | None] = []
    authentication = served.hub._access._authentication
    inner = authentication._authenticate

    def authenticate(handshake: Handshake) -> Any:
        tokens.append(handshake.token)
        return inner(handshake)

    authentication._authenticate = authenticate
    return tokens


class Load:
    """A gauge."""

    def __init__(self) -> None:
        self.bytes = 1 << 40

    def measure(self) -> int:
        return self.bytes


async def test_an_overloaded_hub_refuses_new_clients_and_recovers(transport: TransportUnderTest) -> None:
    async with serving(transport, manual=True) as served, served.reader("routing") as witness:
        load = Load()
        served.hub.gateway.add_gauge(load.measure)
        served.clock.advance(LOAD_TTL)

        assert await status_of(served, "alice") == 503
        assert await status_of(served, "root") == 503

        assert served.hub.statistics().counters["overloaded"] >= 2
        served.hub.publish("routing", 1)
        await witness.until(lambda item: item.get("seq") == 1)
        await witness.client.send({"action": "subscribe", "id": 9, "channels": ["exposure"]})
        await witness.until(lambda item: item["type"] == "$subscribed" and item.get("id") == 9)
        load.bytes = 0
        served.clock.advance(LOAD_TTL)
        assert await status_of(served, "root") == 200


async def test_hello_has_the_limits_of_the_client(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as reader:
        limits = reader.control("$hello")[0]["limits"]

        assert limits["connections"] == 100
        assert limits["message"] == (64 * 1024 if has_address(transport) else None)


async def test_nothing_is_kept_of_clients_that_have_left(transport: TransportUnderTest) -> None:
    async with serving(transport, **NO_PROXIES) as served:
        async with AsyncExitStack() as stack:
            for token in ("alice", "alice", "root"):
                await stack.enter_async_context(served.reader(token=token))
            for token in ("guess", "banned"):
                await status_of(served, token)
        await served.all_disconnected()

        limits = served.hub._access.limits
        assert not limits._identities
        assert not limits._addresses


async def test_a_token_in_the_first_message_has_the_same_limits(transport: TransportUnderTest) -> None:
    """A client that sends its token late is admitted only if there is room."""
    async with (
        serving(transport, tuning=replace(FAST, max_per_identity=1)) as served,
        served.reader(token=None) as late,
    ):
        served.tokens.known["carol"] = Identity(id="carol")
        async with served.reader(token="carol"):
            await late.client.send({"action": "auth", "id": 1, "token": "carol"})
            error = await late.until(lambda item: item["type"] == "$error")

            assert (error["code"], error["retry"]) == ("rate-limited", "later")
            assert error["message"] == "more than 1 connections of one identity"
            assert error["after"] > 0
            assert await late.closed() == 4429
