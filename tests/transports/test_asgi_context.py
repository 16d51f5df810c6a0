"""Hooks have the context variables of the request that made the connection, at whatever moment they are called."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from analytics_hub import Action, AuthenticationError, Channel, Handshake, Hub, Identity
from analytics_hub.event_loop import move_on_after
from analytics_hub.transports.asgi import HubApp

from .asgi_peer import running, scope_for

pytestmark = pytest.mark.anyio

tenant: ContextVar[Any] = ContextVar("tenant", default=None)


class Tenant:
    """What a middleware keeps for a request."""


def with_tenant(app: HubApp, value: Tenant) -> Any:
    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        tenant.set(value)
        await app(scope, receive, send)

    return middleware


def make_hooks(seen: list[Any], *, is_async: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def authenticate(handshake: Handshake) -> Identity:
        seen.append(("authenticate", tenant.get()))
        if handshake.token is None:
            raise AuthenticationError("missing")
        return Identity(id="alice")

    def authorize(identity: Identity, action: Action, channel: str) -> bool:
        seen.append(("authorize", tenant.get()))
        return True

    async def authenticate_async(handshake: Handshake) -> Identity:
        return authenticate(handshake)

    async def authorize_async(identity: Identity, action: Action, channel: str) -> bool:
        return authorize(identity, action, channel)

    return (authenticate_async, authorize_async) if is_async else (authenticate, authorize)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_hooks_have_the_context_of_the_request(is_async: bool) -> None:
    seen: list[Any] = []
    authenticate, authorize = make_hooks(seen, is_async=is_async)
    ours = Tenant()
    with anyio.fail_after(30):
        async with Hub([Channel("a")], authenticate=authenticate, authorize=authorize, grace=0.01) as hub:
            async with running(with_tenant(HubApp(hub), ours), scope_for()) as server:
                server.send_to_app({"action": "auth", "token": "x"})
                server.send_to_app({"action": "subscribe", "channels": ["a"]})
                while not any(item["type"] == "$subscribed" for item in await server.read_frame()):
                    pass
                hub.reauthorize("alice")
                while len(seen) < 4:  # noqa: ASYNC110 - a thread adds to it
                    await anyio.sleep(0.001)
            assert seen == [("authenticate", ours)] * 2 + [("authorize", ours)] * 2

            while hub.sessions:
                await anyio.lowlevel.checkpoint()
            assert not hub._gateway._contexts


async def test_a_timeout_keeps_no_context_alive() -> None:
    """asyncio keeps cancelled timers until their time has come."""

    async def request() -> weakref.ref[Tenant]:
        ours = Tenant()
        tenant.set(ours)
        with move_on_after(1000) as scope:
            assert scope.deadline > anyio.current_time() + 900
            await anyio.lowlevel.checkpoint()
        assert not scope.cancelled_caught
        return weakref.ref(ours)

    kept: list[weakref.ref[Tenant]] = []

    async def run() -> None:
        kept.append(await request())

    with anyio.fail_after(30):  # its own timer is the next one, so the event loop looks at no later one
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
        gc.collect()
        assert kept[0]() is None
        with move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
