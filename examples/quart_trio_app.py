"""Quart on Trio: the hub under /hub beside the application, and a view that publishes.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); hypercorn -k trio quart_trio_app:asgi_app
"""

import os

from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware
from quart import request
from quart_trio import QuartTrio

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.asgi import HubApp

authenticate = JWTAuthenticator(os.environ["ANALYTICS_HUB_SECRET"], algorithms=["HS256"])
hub = Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate)
app = QuartTrio(__name__)


@app.post("/trades")
def book() -> tuple[dict[str, object], int]:
    trade: dict[str, object] = {"symbol": request.args["symbol"], "amount": 1_000_000}
    hub.publish("trades", trade)
    return trade, 201


# The dispatcher passes the lifespan of the server to both; `HubApp` runs the hub in it.
asgi_app = TrioDispatcherMiddleware({"/hub": HubApp(hub), "": app})
