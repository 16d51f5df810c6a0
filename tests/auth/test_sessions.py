"""Authentication by a session of the host application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from analytics_hub import AuthenticationError, Handshake, HubError, Identity, PermissionDenied
from analytics_hub.auth.sessions import SessionAuthenticator
from analytics_hub.contracts import Authenticate

from ..hub.rig import running

pytestmark = pytest.mark.anyio

SCOPE = {"type": "websocket", "session": {"user": "alice"}}


def identify(scope: Mapping[str, Any]) -> Identity | None:
    user = scope["session"].get("user")
    return Identity(id=user) if user else None


async def identify_later(scope: Mapping[str, Any]) -> Identity | None:
    await anyio.lowlevel.checkpoint()
    return identify(scope)


async def by_token(handshake: Handshake) -> Identity:
    if handshake.token is None:
        raise AuthenticationError("missing", "no-token")
    if handshake.token != "good":
        raise AuthenticationError("invalid", "signature")
    return Identity(id="service")


@pytest.mark.parametrize("function", [identify, identify_later], ids=["sync", "async"])
async def test_the_identity_is_that_of_the_session(function: Any) -> None:
    authenticate = SessionAuthenticator(function)

    assert await authenticate(Handshake(scope=SCOPE)) == Identity(id="alice")


@pytest.mark.parametrize(
    ("otherwise", "token", "scope", "outcome"),
    [
        (None, None, None, "missing"),
        (None, None, {"session": {}}, "missing"),
        (None, "good", SCOPE, "invalid"),  # a token must not be ignored because nothing can check it
        (by_token, None, SCOPE, "alice"),
        (by_token, "good", SCOPE, "service"),
        (by_token, "good", None, "service"),
        (by_token, "forged", SCOPE, "invalid"),  # a valid session does not make up for it
        (by_token, None, {"session": {}}, "missing"),
    ],
)
async def test_a_token_is_checked_by_otherwise(
    otherwise: Authenticate | None, token: str | None, scope: Mapping[str, Any] | None, outcome: str
) -> None:
    authenticate = SessionAuthenticator(identify, otherwise)
    try:
        found = (await authenticate(Handshake(token=token, scope=scope))).id
    except AuthenticationError as error:
        found = error.fault

    assert found == outcome


async def test_a_failure_of_identify_refuses_the_peer() -> None:
    def forbid(scope: Mapping[str, Any]) -> Identity:
        raise PermissionDenied("banned")

    async with running(authenticate=SessionAuthenticator(identify)) as hub:
        with pytest.raises(HubError, match="cannot be checked now"):
            await hub.gateway.authenticate(Handshake(scope={}))  # no middleware has put a session there
    async with running(authenticate=SessionAuthenticator(forbid)) as hub:
        with pytest.raises(PermissionDenied):
            await hub.gateway.authenticate(Handshake(scope=SCOPE))


async def test_the_background_task_of_otherwise_runs() -> None:
    done = anyio.Event()

    class Other:
        async def __call__(self, handshake: Handshake) -> Identity:
            return Identity(id="service")

        async def run(self) -> None:
            done.set()

    async with running(authenticate=SessionAuthenticator(identify, Other())):
        await done.wait()
    async with running(authenticate=SessionAuthenticator(identify, by_token)) as hub:
        peer = await hub.gateway.authenticate(Handshake(token="good"))
        assert peer.identity == Identity(id="service")
