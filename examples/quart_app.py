"""Quart: the hub under /hub beside the application, and a sync view that publishes from a thread.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); hypercorn quart_app:asgi_app
"""

import os

from hypercorn.middleware import DispatcherMiddleware
from quart import Quart, request

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.asgi import HubApp

authenticate = JWTAuthenticator(os.environ["ANALYTICS_HUB_SECRET"], algorithms=["HS256"])
hub = Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate)
app = Quart(__name__)


@app.post("/trades")
def book() -> tuple[dict[str, object], int]:
    trade: dict[str, object] = {"symbol": request.args["symbol"], "amount": 1_000_000}
    hub.publish("trades", trade)
    return trade, 201


# The dispatcher passes the lifespan of the server to both; `HubApp` runs the hub in it.
asgi_app = DispatcherMiddleware({"/hub": HubApp(hub), "": app})
