"""A bare Trio program: a thread publishes, the hub's own server serves, Ctrl-C and SIGTERM end it in order.

python trio_program.py, then for instance: wscat -c ws://127.0.0.1:7999/ws/analytics
"""

import os
import signal
import threading
import time

import trio

from analytics_hub import Channel, Hub, HubClosed, anonymous
from analytics_hub.transports.websocket import serve

hub = Hub([Channel("prices", mode="latest")], authenticate=anonymous)


def watch_market() -> None:
    """Runs in a thread of its own, like code with a blocking feed."""
    try:
        for tick in range(1_000_000):
            hub.publish("prices", {"EURUSD": 1.0842 + tick / 10_000})
            time.sleep(0.25)
    except HubClosed:
        pass


async def main() -> None:
    # The hub is entered last, so that it is left first: it closes its clients, and then the server ends.
    async with trio.open_nursery() as nursery, hub:
        port = await nursery.start(serve, hub, "127.0.0.1", int(os.environ.get("PORT", "7999")))
        print(f"ws://127.0.0.1:{port}/ws/analytics", flush=True)
        threading.Thread(target=watch_market, daemon=True).start()
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await anext(signals)


trio.run(main)
