"""aiohttp: the hub's own server on a port of its own, on the same event loop, and a view that publishes.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); python aiohttp_app.py
"""

import os
from collections.abc import AsyncIterator

import anyio
from aiohttp import web

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.websocket import serve

authenticate = JWTAuthenticator(os.environ["ANALYTICS_HUB_SECRET"], algorithms=["HS256"])
hub = Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate)


async def live(app: web.Application) -> AsyncIterator[None]:
    # The hub is entered last, so that it is left first: it closes its clients, and then the server ends.
    async with anyio.create_task_group() as tasks, hub:
        await tasks.start(serve, hub, "127.0.0.1", int(os.environ.get("HUB_PORT", "7999")))
        yield


async def book(request: web.Request) -> web.Response:
    trade = {"symbol": request.query["symbol"], "amount": 1_000_000}
    hub.publish("trades", trade)
    return web.json_response(trade, status=201)


app = web.Application()
app.cleanup_ctx.append(live)
app.router.add_post("/trades", book)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
