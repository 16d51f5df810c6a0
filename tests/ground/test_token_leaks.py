"""No token reaches a log, whatever a server does with it."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import anyio
import jwt
import pytest

from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.websocket import serve

from ..conformance.client import Closed, Reader, Refused
from ..conformance.websocket import PATH, dial
from ..hub.rig import running

KEY = "0123456789abcdef0123456789abcdef"


def minted(key: str = KEY, **claims: object) -> str:
    return jwt.encode({"sub": "alice", "exp": 4_000_000_000, "role": "trader"} | claims, key, algorithm="HS256")


def pieces(token: str) -> list[str]:
    """A token, and the parts of it that are secret: its payload and its signature, encoded or not."""
    _, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return [token, payload, signature, str(claims["jti"])]


TOKENS = {
    "good": minted(jti="leak-1"),
    "invalid": minted(KEY[::-1], jti="leak-2"),
    "expired": minted(exp=1, jti="leak-3"),
    "wrong type": minted(role=["a"], jti="leak-4"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["header", "query", "subprotocol", "first message"])
@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS.keys())
async def test_no_token_reaches_a_log(place: str, token: str, caplog: pytest.LogCaptureFixture) -> None:
    """Accepted or not, wherever it was sent, at any level, in any logger."""
    with caplog.at_level(logging.DEBUG):
        async with running(authenticate=JWTAuthenticator(KEY, algorithms=["HS256"])) as hub:
            async with anyio.create_task_group() as tasks:
                port = await tasks.start(lambda task_status: serve(hub, port=0, task_status=task_status))
                await attempt(port, place, token)
                tasks.cancel_scope.cancel()
            statistics = str(hub.statistics())

    logged = "\n".join([caplog.text, *[str(vars(record)) for record in caplog.records]])
    for piece in pieces(token):
        assert piece not in logged
        assert piece not in statistics


async def attempt(port: int, place: str, token: str) -> None:
    """Try to connect with `token`, and if that works send invalid commands."""
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
