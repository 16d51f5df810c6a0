"""What one identity, one address and all clients together may cost, whatever the transport."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from analytics_hub import Handshake, Identity
from analytics_hub.access.limits import LOOK_AGAIN

from .client import Door, Refused
from .doors import FAST, House, serving

pytestmark = pytest.mark.anyio

HERE: dict[str, Any] = {"proxies": []}
"""So that the address of this machine is one like any other."""


async def status_of(house: House, token: str) -> int:
    """Of the answer to one more client."""
    try:
        async with house.reader(token=token):
            return 200
    except Refused as refused:
        return refused.status


def has_address(door: Door) -> bool:
    return door.name != "memory"


async def test_an_identity_has_so_many_connections(door: Door) -> None:
    async with serving(door, tuning=replace(FAST, max_per_identity=2)) as house:
        async with house.reader(token="alice"), house.reader("routing", token="alice") as second:
            house.tokens.add("alice too", issued=1.0)

            assert await status_of(house, "alice") == 429
            assert await status_of(house, "alice too") == 429
            assert await status_of(house, "root") == 200

            assert house.hub.statistics().counters["limited-identity"] == 2
            house.hub.publish("routing", 1)
            await second.until(lambda item: item.get("seq") == 1)
        await house.gone()
        assert await status_of(house, "alice") == 200


async def test_an_address_has_so_many_connections(door: Door) -> None:
    if not has_address(door):
        pytest.skip("clients of this transport have no address")
    async with serving(door, tuning=replace(FAST, max_per_address=2), **HERE) as house:
        async with house.reader(token="alice"), house.reader(token="root"):
            assert await status_of(house, "alice") == 429
            assert await status_of(house, "root") == 429

            assert house.hub.statistics().counters["limited-address"] == 2
            assert house.hub.statistics().sessions == 2
        await house.gone()
        assert await status_of(house, "alice") == 200


async def test_an_address_has_so_many_tokens_refused(door: Door) -> None:
    if not has_address(door):
        pytest.skip("clients of this transport have no address")
    tuning = replace(FAST, token_failures=2)
    async with serving(door, tuning=tuning, manual=True, **HERE) as house, house.reader("routing") as witness:
        assert [await status_of(house, token) for token in ("guess", "old")] == [401, 401]
        asked = count_questions(house)

        assert [await status_of(house, token) for token in ("guess", "alice", "root")] == [429, 429, 429]

        assert set(asked) <= {None}  # as where a token comes only in the first message
        assert house.hub.statistics().counters["limited-failures"] == 3
        house.hub.publish("routing", 1)
        await witness.until(lambda item: item.get("seq") == 1)
        house.clock.advance(60)
        assert await status_of(house, "alice") == 200


def count_questions(house: House) -> list[str | None]:
    """The tokens that `authenticate` is asked about from now on."""
    asked: list[str | None] = []
    admission = house.hub._admission
    inner = admission._authenticate

    def authenticate(handshake: Handshake) -> Any:
        asked.append(handshake.token)
        return inner(handshake)

    admission._authenticate = authenticate
    return asked


async def test_an_overloaded_hub_takes_nobody_new_and_recovers(door: Door) -> None:
    async with serving(door, manual=True) as house, house.reader("routing") as witness:
        buffered = 1 << 40
        house.hub.doorkeeper.gauges.append(lambda: buffered)
        house.clock.advance(LOOK_AGAIN)

        assert await status_of(house, "alice") == 503
        assert await status_of(house, "root") == 503

        assert house.hub.statistics().counters["overloaded"] >= 2
        house.hub.publish("routing", 1)
        await witness.until(lambda item: item.get("seq") == 1)
        await witness.client.send({"action": "subscribe", "id": 9, "channels": ["exposure"]})
        await witness.until(lambda item: item["type"] == "$subscribed" and item.get("id") == 9)
        buffered = 0
        house.clock.advance(LOOK_AGAIN)
        assert await status_of(house, "root") == 200


async def test_a_client_is_told_what_it_may_use(door: Door) -> None:
    async with serving(door) as house, house.reader() as reader:
        limits = reader.control("$hello")[0]["limits"]

        assert limits["connections"] == 100
        assert limits["message"] == (64 * 1024 if has_address(door) else None)


async def test_nothing_is_kept_of_who_has_gone(door: Door) -> None:
    async with serving(door, **HERE) as house:
        async with AsyncExitStack() as stack:
            for token in ("alice", "alice", "root"):
                await stack.enter_async_context(house.reader(token=token))
            for token in ("guess", "banned"):
                await status_of(house, token)
        await house.gone()

        keeper = house.hub.doorkeeper
        assert not keeper._identities
        assert not keeper._addresses


async def test_the_first_message_is_held_to_the_same(door: Door) -> None:
    """A client that sends its token late comes in when there is room, or is told that there is none."""
    async with serving(door, tuning=replace(FAST, max_per_identity=1)) as house, house.reader(token=None) as late:
        house.tokens.known["carol"] = Identity(id="carol")
        async with house.reader(token="carol"):
            await late.client.send({"action": "auth", "id": 1, "token": "carol"})
            error = await late.until(lambda item: item["type"] == "$error")

            assert (error["code"], error["retry"]) == ("rate-limited", "later")
            assert error["message"] == "more than 1 connections of one identity"
            assert error["after"] > 0
            assert await late.closed() == 4429
