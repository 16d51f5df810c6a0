"""Flask: one hub beside all processes of the application, on a port of its own, and a view that publishes to it.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); flask --app flask_app run --debug, or: gunicorn -w 4 flask_app:app

The process that gets the port first runs the hub, and each process publishes to it over HTTP. When that process ends,
another one takes its place.
"""

import atexit
import errno
import os
import threading
import time
from contextlib import ExitStack

from anyio.from_thread import start_blocking_portal
from flask import Flask, request

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator, mint
from analytics_hub.client import HubPublisher
from analytics_hub.transports.websocket import serve

SECRET, PORT = os.environ["ANALYTICS_HUB_SECRET"], int(os.environ.get("HUB_PORT", "7999"))
CHANNELS = (Channel("trades", publishers=frozenset({"worker"})),)
app = Flask(__name__)
hub = HubPublisher(f"http://127.0.0.1:{PORT}", lambda: mint(SECRET, subject="flask", roles=["worker"]), attempts=5)


@app.post("/trades")
def book() -> tuple[dict[str, object], int]:
    trade: dict[str, object] = {"symbol": request.args["symbol"], "amount": 1_000_000}
    hub.publish("trades", trade)
    return trade, 201


def start_hub() -> bool:
    """Start an event loop in a thread, with the hub and its server; False if another process has the port."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        running = Hub(CHANNELS, authenticate=JWTAuthenticator(SECRET, algorithms=["HS256"]))
        stack.enter_context(portal.wrap_async_context_manager(running))
        try:
            portal.start_task(serve, running, "127.0.0.1", PORT)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        leave, owner = stack.pop_all().close, os.getpid()
        atexit.register(lambda: leave() if os.getpid() == owner else None)  # a fork has this, too, but not the thread
    return True


def wait_for_turn() -> None:
    while not start_hub():
        time.sleep(1)


if not start_hub():
    threading.Thread(target=wait_for_turn, daemon=True).start()
