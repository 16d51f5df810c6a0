"""Enters the hub where the application is the root, and gives a lifespan to servers that have none."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from contextvars import Context
from typing import Any

from ...hub import Hub
from ...telemetry import logger
from .scope import Message, Receive, Send


async def serve_lifespan(hub: Hub, receive: Receive, send: Send) -> None:
    """Enter the hub between startup and shutdown, unless it is open already. Raises what the hub raises."""
    await receive()
    phase = "startup"
    try:
        async with AsyncExitStack() as stack:
            if not hub.is_open:
                await stack.enter_async_context(hub)
            await send({"type": "lifespan.startup.complete"})
            phase = "shutdown"
            await receive()
    except Exception as error:
        await send({"type": f"lifespan.{phase}.failed", "message": f"the hub failed: {error}"})
        raise
    await send({"type": "lifespan.shutdown.complete"})


class WithLifespan:
    """An ASGI application with a lifespan under servers that have none: `application = WithLifespan(application)`.

    For daphne, and thereby `manage.py runserver` with it, and for `--lifespan off`. The first request starts the
    lifespan of `app`, in a task of its own, and waits until it has started; the end of the server ends it, if that can
    be known, as it can of daphne. Under a server with a lifespan of its own this does nothing. On asyncio only.
    """

    def __init__(self, app: Any) -> None:  # every framework has its own types of these
        self._app = app
        self._has_own = False
        """Whether the server has a lifespan."""
        self._lifespan: _Lifespan | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self._has_own = True
        elif not self._has_own:
            if self._lifespan is None or not self._lifespan.is_of_this_loop:
                self._lifespan = _Lifespan(self._app)
            await self._lifespan.wait_until_started()
        await self._app(scope, receive, send)


class _Lifespan:
    """The lifespan of an application in one event loop, which begins at once."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._loop = asyncio.get_running_loop()
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_asked = False
        self._failure: str | None = None
        # Not in the context of the request that happens to be the first.
        self._task = self._loop.create_task(self._run(), name="lifespan", context=Context())
        _call_at_end(self._end)

    @property
    def is_of_this_loop(self) -> bool:
        return self._loop is asyncio.get_running_loop()

    async def wait_until_started(self) -> None:
        """Wait for the application; raises `RuntimeError` if its lifespan has failed."""
        await self._started.wait()
        if self._failure is not None:
            raise RuntimeError(f"the lifespan of the application has failed: {self._failure}")

    async def _run(self) -> None:
        try:
            await self._app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - the boundary to the application
            if not self._is_asked:
                return  # it has no lifespan, and servers serve it all the same
            if not self._started.is_set():
                self._failure = repr(error)
            logger.error("the lifespan of the application has failed", exc_info=error)
        finally:
            self._started.set()

    async def _receive(self) -> Message:
        if not self._is_asked:
            self._is_asked = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            self._failure = str(message.get("message") or "no reason was given")
        self._started.set()

    def _end(self) -> asyncio.Task[None]:
        self._stopping.set()
        return self._task


def _call_at_end(end: Any) -> None:
    """Call `end` when the server stops, and let it wait for the task that this returns; where that is possible."""
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is not None and reactor.running:
        from twisted.internet.defer import Deferred  # it runs, so it is installed

        reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromFuture(end()))
