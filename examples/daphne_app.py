"""daphne has no lifespan, so the first request starts the lifespan of the application.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); daphne daphne_app:application
"""

import asyncio
from typing import Any

import channels_app


class WithLifespan:
    """An ASGI application that starts its lifespan with the first request, and never ends it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.messages = [{"type": "lifespan.startup"}]
        self.running: asyncio.Task[None] | None = None
        self.started = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.running is None:
            self.running = asyncio.create_task(self.app({"type": "lifespan"}, self.receive, self.send))
        await self.started.wait()
        await self.app(scope, receive, send)

    async def receive(self) -> dict[str, str]:
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop()

    async def send(self, message: dict[str, str]) -> None:
        self.started.set()


application = WithLifespan(channels_app.application)
