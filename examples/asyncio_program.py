"""A bare asyncio program: a task publishes, the hub's own server serves, Ctrl-C and SIGTERM end it in order.

python asyncio_program.py, then for instance: wscat -c ws://127.0.0.1:7999/ws/analytics
"""

import asyncio
import os
import signal

from analytics_hub import Channel, Hub, HubClosed, anonymous
from analytics_hub.transports.websocket import serve

hub = Hub([Channel("prices", mode="latest")], authenticate=anonymous)


async def watch_market() -> None:
    try:
        for tick in range(1_000_000):
            hub.publish("prices", {"EURUSD": 1.0842 + tick / 10_000})
            await asyncio.sleep(0.25)
    except HubClosed:
        pass


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # The hub is entered last, so that it is left first: it closes its clients, and then the server ends.
    async with asyncio.TaskGroup() as tasks, hub:
        tasks.create_task(serve(hub, port=int(os.environ.get("PORT", "7999"))))
        tasks.create_task(watch_market())
        await stop.wait()


asyncio.run(main())
