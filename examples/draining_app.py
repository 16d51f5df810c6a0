"""uvicorn with a drain: SIGTERM and SIGINT reach the hub first, and then the server.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); uvicorn draining_app:app
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.asgi import HubApp

authenticate = JWTAuthenticator(os.environ["ANALYTICS_HUB_SECRET"], algorithms=["HS256"])
hub = Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    servers: dict[int, Any] = {}  # the handlers of uvicorn

    def drain_first(number: int, frame: object) -> None:
        drained = asyncio.run_coroutine_threadsafe(hub.shutdown(), loop)
        drained.add_done_callback(lambda _: servers[number](number, frame))

    async with hub:
        for number in (signal.SIGINT, signal.SIGTERM):
            servers[number] = signal.signal(number, drain_first)
        yield


app = Starlette(routes=[Mount("/hub", HubApp(hub))], lifespan=lifespan)
