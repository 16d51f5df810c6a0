"""Flask: the hub's own server on a port of its own, in a thread of the same process, and a view that publishes.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); flask --app flask_app run
"""

import atexit
import os
from contextlib import ExitStack

from anyio.from_thread import start_blocking_portal
from flask import Flask, request

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.websocket import serve

authenticate = JWTAuthenticator(os.environ["ANALYTICS_HUB_SECRET"], algorithms=["HS256"])
hub = Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate)
app = Flask(__name__)


@app.post("/trades")
def book() -> tuple[dict[str, object], int]:
    trade: dict[str, object] = {"symbol": request.args["symbol"], "amount": 1_000_000}
    hub.publish("trades", trade)
    return trade, 201


# An event loop in a thread, with the hub and its server; at the end clients are told to reconnect.
stack = ExitStack()
atexit.register(stack.close)
portal = stack.enter_context(start_blocking_portal())
stack.enter_context(portal.wrap_async_context_manager(hub))
portal.start_task(serve, hub, "127.0.0.1", int(os.environ.get("HUB_PORT", "7999")))
