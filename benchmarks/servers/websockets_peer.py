"""The peer: `websockets.broadcast`, of batches each 16 ms or of single messages.

python -m benchmarks.servers.websockets_peer (batches | singles | compressed) [LOOP]

`compressed` is `batches` with the compression that `websockets` has by default; the others have none.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Final

import anyio
import msgspec
from websockets.asyncio.server import ServerConnection, broadcast, serve

from . import control
from .item import Decision, stamped

INTERVAL_S: Final = 0.016


class Item(msgspec.Struct):
    channel: str
    seq: int
    type: str
    timestamp: str
    data: Decision


class Peer:
    """The code that an application needs around `broadcast` to send the same items as the hub."""

    def __init__(self, *, batches: bool) -> None:
        self._batches = batches
        self._encode = msgspec.json.Encoder().encode
        self._waiting: list[bytes] = []
        self._connections: set[ServerConnection] = set()

    def publish(self, number: int, stamp: int) -> None:
        timestamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        item = self._encode(Item("bench", number + 1, "order", timestamp, stamped(stamp)))
        self._waiting.append(item)
        if not self._batches:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            broadcast(self._connections, (b"[" + b",".join(self._waiting) + b"]").decode())
            self._waiting.clear()

    async def flush_forever(self) -> None:
        loop_time = anyio.current_time
        due = loop_time()
        while True:
            due = max(due + INTERVAL_S, loop_time())
            await anyio.sleep_until(due)
            self.flush()

    async def hold(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        try:
            await connection.wait_closed()
        finally:
            self._connections.discard(connection)


async def main(mode: str) -> None:
    peer = Peer(batches=mode != "singles")
    publisher = control.Publisher(peer.publish)
    compression = "deflate" if mode == "compressed" else None
    listening = serve(peer.hold, "127.0.0.1", 0, compression=compression, ping_interval=None, backlog=4096)
    async with listening as server, anyio.create_task_group() as tasks:
        tasks.start_soon(publisher.run)
        tasks.start_soon(peer.flush_forever)
        control.send({"port": next(iter(server.sockets)).getsockname()[1]})
        async for line in control.lines():
            verb, _, rest = line.partition(" ")
            if verb == "go":
                publisher.go(float(rest))
            elif verb == "stop":
                control.send({"published": publisher.stop()})
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    control.run(main, (sys.argv[2:] or ["asyncio"])[0], sys.argv[1])
