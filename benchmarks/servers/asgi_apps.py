"""The hub in a Starlette application, and the usual code without it, under the same server.

python -m benchmarks.servers.asgi_apps (ours | manager) SERVER

SERVER: a name of `asgi_hosts`. `manager` is the usual ConnectionManager: a queue for each client, a task that empties
it, and here a batch each 16 ms, encoded once for all.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from analytics_hub.channels import Channel
from analytics_hub.contracts import anonymous
from analytics_hub.hub import Hub
from analytics_hub.transports.asgi import HubApp

from . import control
from .asgi_hosts import host
from .item import Decision, stamped

INTERVAL_S: Final = 0.016
QUEUE: Final = 256
PATH: Final = "/ws/analytics"


async def execute_commands(work: control.Publisher) -> None:
    async for line in control.lines():
        verb, _, rest = line.partition(" ")
        if verb == "go":
            work.go(float(rest))
        elif verb == "stop":
            control.send({"published": work.stop()})
    os._exit(0)  # some servers have no other fast exit


# --- ours ---------------------------------------------------------------------------------------------------------


def ours() -> Starlette:
    hub = Hub([Channel("bench", type="order")], authenticate=anonymous)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        work = control.Publisher(lambda number, stamp: hub.publish("bench", stamped(stamp)))
        async with hub, anyio.create_task_group() as tasks:
            tasks.start_soon(work.run)
            tasks.start_soon(execute_commands, work)
            yield

    return Starlette(routes=[Mount("/ws", HubApp(hub))], lifespan=lifespan)


# --- by hand ------------------------------------------------------------------------------------------------------


class Item(msgspec.Struct):
    channel: str
    seq: int
    type: str
    timestamp: str
    data: Decision


class Queue:
    """The queue of one client, of asyncio or Trio; it drops its oldest batch when it is full."""

    def __init__(self, is_trio: bool) -> None:
        if is_trio:
            import trio

            sending, receiving = trio.open_memory_channel[str](QUEUE)
            self.put: Callable[[str], None] = sending.send_nowait
            self.drop: Callable[[], Any] = receiving.receive_nowait
            self.get: Callable[[], Any] = receiving.receive
            self.full: type[Exception] = trio.WouldBlock
        else:
            queue: asyncio.Queue[str] = asyncio.Queue(QUEUE)
            self.put, self.drop, self.get, self.full = queue.put_nowait, queue.get_nowait, queue.get, asyncio.QueueFull


class ConnectionManager:
    def __init__(self, is_trio: bool) -> None:
        self._is_trio = is_trio
        self._encode = msgspec.json.Encoder().encode
        self._waiting: list[bytes] = []
        self._queues: set[Queue] = set()

    def publish(self, number: int, stamp: int) -> None:
        timestamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._waiting.append(self._encode(Item("bench", number + 1, "order", timestamp, stamped(stamp))))

    async def flush_forever(self) -> None:
        due = anyio.current_time()
        while True:
            due = max(due + INTERVAL_S, anyio.current_time())
            await anyio.sleep_until(due)
            if self._waiting:
                self.broadcast((b"[" + b",".join(self._waiting) + b"]").decode())
                self._waiting.clear()

    def broadcast(self, text: str) -> None:
        for queue in self._queues:
            try:
                queue.put(text)
            except queue.full:
                queue.drop()
                queue.put(text)

    async def serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        queue = Queue(self._is_trio)
        self._queues.add(queue)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, websocket, queue)
                try:
                    while True:
                        await websocket.receive_text()
                except WebSocketDisconnect:
                    tasks.cancel_scope.cancel()
        finally:
            self._queues.discard(queue)

    async def _write(self, websocket: WebSocket, queue: Queue) -> None:
        while True:
            await websocket.send_text(await queue.get())


def by_hand(is_trio: bool) -> Starlette:
    manager = ConnectionManager(is_trio)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        work = control.Publisher(manager.publish)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work.run)
            tasks.start_soon(manager.flush_forever)
            tasks.start_soon(execute_commands, work)
            yield

    return Starlette(routes=[WebSocketRoute(PATH, manager.serve)], lifespan=lifespan)


def main(which: str, server: str) -> None:
    app = ours() if which == "ours" else by_hand(server == "hypercorn-trio")
    host(app, server, lambda port: control.send({"port": port}))


if __name__ == "__main__":
    main(*sys.argv[1:])
