"""Starlette: the hub under /hub, and a sync view that publishes.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); uvicorn starlette_app:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.asgi import HubApp

authenticate = JWTAuthenticator(os.environ["ANALYTICS_HUB_SECRET"], algorithms=["HS256"])
hub = Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with hub:
        yield


def book(request: Request) -> JSONResponse:
    trade = {"symbol": request.query_params["symbol"], "amount": 1_000_000}
    hub.publish("trades", trade)  # this view runs in a thread, and any thread may publish
    return JSONResponse(trade, status_code=201)


app = Starlette(routes=[Route("/trades", book, methods=["POST"]), Mount("/hub", HubApp(hub))], lifespan=lifespan)
