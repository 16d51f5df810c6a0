"""Starlette and its sessions: SESSION_SECRET=$(openssl rand -hex 32) uvicorn starlette_sessions:app"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from analytics_hub import Channel, Hub, Identity
from analytics_hub.auth import SessionAuthenticator
from analytics_hub.transports.asgi import HubApp

USERS = {"ann": Identity(id="ann", roles=frozenset({"trader"}))}
hub = Hub([Channel("trades")], authenticate=SessionAuthenticator(lambda scope: USERS.get(scope["session"].get("user"))))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with hub:
        yield


async def login(request: Request) -> JSONResponse:
    request.session["user"] = request.query_params["user"]  # after you have checked the password
    return JSONResponse(None)


async def logout(request: Request) -> JSONResponse:
    return JSONResponse(hub.revoke(request.session.pop("user")))  # open connections end at once


routes = [Route("/login", login, methods=["POST"]), Route("/logout", logout, methods=["POST"])]
app = Starlette(routes=[*routes, Mount("/hub", HubApp(hub))], lifespan=lifespan)
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET"])
