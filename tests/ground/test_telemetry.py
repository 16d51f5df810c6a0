"""What an operator gets to see: enough, not too often, and never a token."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from typing import Any

import anyio
import jwt
import pytest

from analytics_hub import AuthenticationError, Handshake, HubError
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.core.events import CheckToken
from analytics_hub.protocol import Auth
from analytics_hub.telemetry import ThrottledLogger
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import WIRE, connect
from analytics_hub.transports.websocket import serve

from ..conformance.client import Closed, Reader, Refused
from ..conformance.websocket import PATH, dial
from ..hub.rig import FakeTransport, running

KEY = "0123456789abcdef0123456789abcdef"


def minted(key: str = KEY, **claims: object) -> str:
    return jwt.encode({"sub": "alice", "exp": 4_000_000_000, "role": "trader"} | claims, key, algorithm="HS256")


# --- logging


def test_a_flood_of_one_kind_is_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    muffler = ThrottledLogger(clock)
    with caplog.at_level(logging.DEBUG):
        for number in range(1000):
            muffler.log(logging.WARNING, "flood", "refused %d", number)
        muffler.log(logging.ERROR, "another kind", "said at once")
        clock.advance(0.99)
        muffler.log(logging.WARNING, "flood", "refused %d", 1000)
        clock.advance(0.01)
        muffler.log(logging.WARNING, "flood", "refused %d", 1001)
        clock.advance(5.0)
        muffler.log(logging.WARNING, "flood", "refused %d", 1002)

    assert caplog.messages == [
        "refused 0",
        "said at once",
        "refused 1001 (and 1000 more like it)",
        "refused 1002",
    ]


@pytest.mark.anyio
async def test_refusals_are_counted_one_by_one_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def authenticate(handshake: Handshake) -> None:
        raise AuthenticationError("invalid", "signature")

    clock = ManualClock()
    async with running(authenticate=authenticate, clock=clock, wall_clock=clock.wall) as hub:
        for _ in range(200):
            with pytest.raises(AuthenticationError):
                await hub.check(Handshake(token="guess"))
        clock.advance(1.0)
        with pytest.raises(AuthenticationError):
            await hub.check(Handshake(token="guess"))

        assert hub.statistics().counters["token-invalid"] == 201
        assert caplog.messages == [
            "a token was refused: invalid (signature)",
            "a token was refused: invalid (signature) (and 199 more like it)",
        ]


@pytest.mark.anyio
async def test_payloads_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with running() as hub, connect(hub) as client:
            client.send({"action": "subscribe", "channels": ["events", "durable", "no-such-channel-of-a-peer"]})
            client.send('{"action":"made-up-by-a-peer"}')
            client.send(b"binary-of-a-peer")
            await anext(client)
            hub.publish("events", "payload-of-the-application")
            await hub.publish_confirmed("durable", "payload-of-the-application")

    assert "of-the-application" not in caplog.text
    assert "of-a-peer" not in caplog.text


# --- tokens


def pieces(token: str) -> list[str]:
    """A token, and what of it would give it away: its payload and its signature, encoded or not."""
    _, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return [token, payload, signature, str(claims["jti"])]


TOKENS = {
    "good": minted(jti="give-away-1"),
    "invalid": minted(KEY[::-1], jti="give-away-2"),
    "expired": minted(exp=1, jti="give-away-3"),
    "wrong type": minted(role=["a"], jti="give-away-4"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["header", "query", "subprotocol", "first message"])
@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS.keys())
async def test_no_token_reaches_a_log(place: str, token: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever becomes of it, wherever it was, at whatever level, in whosever logger."""
    with caplog.at_level(logging.DEBUG):
        async with running(authenticate=JWTAuthenticator(KEY, algorithms=["HS256"])) as hub:
            async with anyio.create_task_group() as tasks:
                port = await tasks.start(lambda task_status: serve(hub, port=0, task_status=task_status))
                await knock(port, place, token)
                tasks.cancel_scope.cancel()
            statistics = str(hub.statistics())

    logged = "\n".join([caplog.text, *[str(vars(record)) for record in caplog.records]])
    for piece in pieces(token):
        assert piece not in logged
        assert piece not in statistics


async def knock(port: int, place: str, token: str) -> None:
    """Try to come in with `token`, and if that works send something wrong."""
    places: dict[str, dict[str, Any]] = {
        "header": {"token": token},
        "query": {"token": None, "target": f"{PATH}?token={token}"},
        "subprotocol": {"token": None, "subprotocols": ["analytics-hub.v1.json", f"bearer.{token}"]},
        "first message": {"token": None},
    }
    try:
        async with dial("127.0.0.1", port, **places[place]) as client:
            reader = Reader(client)
            await client.send({"action": "auth", "id": 1, "token": token})
            await client.send({"action": "auth", "id": 2, "token": [token]})
            await client.send({"action": "auth", "id": 3, "token": token, "extra": token})
            await reader.until(lambda item: item.get("id") == 3)
    except (Refused, Closed):
        pass


@pytest.mark.anyio
async def test_no_token_is_in_what_an_application_may_print() -> None:
    secret = "give-away-token"

    def authenticate(handshake: Handshake) -> None:
        raise KeyError(handshake.token)

    async with running(authenticate=authenticate) as hub:
        session = hub.gateway.connect(FakeTransport(), WIRE, None, Handshake(token=secret))
        printed = [
            repr(Handshake(token=secret, headers={"authorization": f"Bearer {secret}"})),
            repr(CheckToken(session, secret)),
            repr(Auth(token=secret)),
            repr(session),
        ]
        with pytest.raises(HubError) as refused:
            await hub.check(Handshake(token=secret))
        printed.append("".join(traceback.format_exception(refused.value)))
        printed.append(repr(refused.value.__context__))
        with pytest.raises(HubError) as refused:
            await hub.admit(Handshake(token=secret))
        printed.append(repr(refused.value.__context__))

    assert [text for text in printed if secret in text] == []


def test_a_fault_is_all_that_an_authentication_error_tells() -> None:
    assert str(AuthenticationError("invalid", "the kid is unknown")) == "invalid token"
