"""FastAPI: users that are logged in to the application may subscribe.

export SESSION_SECRET=$(openssl rand -hex 32); uvicorn fastapi_sessions:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from starlette.middleware.sessions import SessionMiddleware

from analytics_hub import Channel, Hub, Identity
from analytics_hub.auth import SessionAuthenticator
from analytics_hub.transports.asgi import HubApp

USERS = {"ann": Identity(id="ann", roles=frozenset({"trader"}))}
hub = Hub([Channel("trades")], authenticate=SessionAuthenticator(lambda scope: USERS.get(scope["session"].get("user"))))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with hub:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET"])
app.mount("/hub", HubApp(hub))


@app.post("/login")
async def login(request: Request, user: str) -> None:
    request.session["user"] = user  # after you have checked the password


@app.post("/logout")
async def logout(request: Request) -> int:
    return hub.revoke(request.session.pop("user"))  # open connections end at once
