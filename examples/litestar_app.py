"""Litestar: the hub under /hub, and a sync handler that publishes from a thread.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); uvicorn litestar_app:app
"""

import os
from dataclasses import dataclass

from litestar import Litestar, asgi, post
from litestar.types import Receive, Scope, Send

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.asgi import HubApp

authenticate = JWTAuthenticator(os.environ["ANALYTICS_HUB_SECRET"], algorithms=["HS256"])
hub = Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate)
hub_app = HubApp(hub)


@dataclass
class Trade:
    symbol: str
    amount: int = 1_000_000


@asgi("/hub", is_mount=True, copy_scope=False)  # the same scope, so that the server logs no `?token=`
async def live(scope: Scope, receive: Receive, send: Send) -> None:
    await hub_app(scope, receive, send)


@post("/trades", sync_to_thread=True)
def book(data: Trade) -> Trade:
    hub.publish("trades", data)
    return data


app = Litestar([live, book], lifespan=[hub])
