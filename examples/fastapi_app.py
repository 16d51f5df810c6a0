"""FastAPI: the hub under /hub, and a sync path operation that publishes.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); uvicorn fastapi_app:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.asgi import HubApp

authenticate = JWTAuthenticator(os.environ["ANALYTICS_HUB_SECRET"], algorithms=["HS256"])
hub = Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate)


class Trade(BaseModel):
    symbol: str
    amount: int = 1_000_000


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with hub:
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/hub", HubApp(hub))


@app.post("/trades", status_code=201)
def book(trade: Trade) -> Trade:
    hub.publish("trades", trade.model_dump())  # this runs in a thread, and any thread may publish
    return trade
