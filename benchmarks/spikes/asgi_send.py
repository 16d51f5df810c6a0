"""The spike behind the `asgi` transport: how to call a server's `send` for many clients.

    python -m benchmarks.spikes.asgi_send                # every server and variant, one line each

CPU microseconds for each frame of 3850 bytes to each of 100 clients, 62.5 a second, the kernel's `send` (about 8) and
the server's own work in them:

                      queue  event  driven
    uvicorn            22.4   24.3    15.6
    uvicorn-websockets 33.5   29.9    23.3
    uvicorn-wsproto    22.5   28.7    19.2
    hypercorn          30.5   33.3    23.0
    granian            26.5   32.2    20.5
    daphne             52.0   56.3    42.3
    hypercorn-trio     77.9   67.3    63.2   (stream, event, parked)

So on asyncio no task should wake up for a frame that the server accepts at once, and only Trio, where `send` always
yields and uses the task it is called in, gets a task for each connection. How that task waits is worth little:
"channel" (Trio's own), "event" and "parked" are between 58 and 75 in any order, nearly all of it the server's.
"ours" is "driven" and 1 microsecond: for that the current task is never that of the flush. Granian's `send` returns a
future that is under way already; the others return a coroutine that has ended when it has taken its first step, unless
the peer is slow.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import anyio

from analytics_hub.transports._asgi.borrowed_task import BorrowedTasks
from analytics_hub.transports._asgi.sender_asyncio import DirectSender
from benchmarks.servers.asgi_hosts import host

FRAME_MESSAGES: Final = 16
MESSAGE: Final = {"type": "websocket.send", "text": "m" * 3850}  # 16 messages of about 240 bytes of JSON
INTERVAL: Final = 0.016
WARM_UP: Final = 1.0
SERVERS: Final = (
    "uvicorn", "uvicorn-websockets", "uvicorn-wsproto", "hypercorn", "hypercorn-trio", "granian", "daphne",
)  # fmt: skip

Send = Callable[[Any], Any]


class Client(Protocol):
    """One connection: `write` is called from the flush, `run` (if any) in a task of its own."""

    def __init__(self, send: Send) -> None: ...
    def write(self, message: Any) -> None: ...
    async def run(self) -> None: ...


class Queue:
    """What one would write first: a queue for each client, and a task that empties it."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.queue: asyncio.Queue[Any] = asyncio.Queue(256)

    def write(self, message: Any) -> None:
        self.queue.put_nowait(message)

    async def run(self) -> None:
        while True:
            await self.send(await self.queue.get())


class Stream:
    """The same where there is no asyncio: anyio's memory object streams."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.put, self.get = anyio.create_memory_object_stream[Any](256)

    def write(self, message: Any) -> None:
        self.put.send_nowait(message)

    async def run(self) -> None:
        async for message in self.get:
            await self.send(message)


class Waiting:
    """A task for each client that awaits an event."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.messages: deque[Any] = deque()
        self.event = anyio.Event()

    def write(self, message: Any) -> None:
        self.messages.append(message)
        self.event.set()

    async def run(self) -> None:
        while True:
            await self.event.wait()
            self.event = anyio.Event()
            while self.messages:
                await self.send(self.messages.popleft())


class Channel:
    """The same with Trio's own channels."""

    def __init__(self, send: Send) -> None:
        import trio

        self.send = send
        self.put, self.get = trio.open_memory_channel[Any](256)

    def write(self, message: Any) -> None:
        self.put.send_nowait(message)

    async def run(self) -> None:
        async for message in self.get:
            await self.send(message)


class Parked:
    """The same with Trio's own way to wait."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.messages: deque[Any] = deque()
        self.task: Any = None

    def write(self, message: Any) -> None:
        import trio

        self.messages.append(message)
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def run(self) -> None:
        import trio

        def abort(_: Any) -> Any:
            self.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            while self.messages:
                await self.send(self.messages.popleft())
            self.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)


class Driven:
    """No task: the flush drives what `send` returns; if that has to wait, its future goes on with it."""

    has_task = False

    def __init__(self, send: Send) -> None:
        self.send = send
        self.messages: deque[Any] = deque()
        self.under_way: Coroutine[Any, Any, None] | None = None

    def write(self, message: Any) -> None:
        if self.under_way is not None:
            self.messages.append(message)
            return
        sending = self.send(message)
        if hasattr(sending, "add_done_callback"):  # granian's, which is under way already
            self.under_way = sending
            sending.add_done_callback(self.done)
            return
        try:
            future = sending.send(None)
        except StopIteration:
            return
        self.under_way = sending
        self.wait_for(future)

    def wait_for(self, future: Any) -> None:
        if future is None:
            asyncio.get_running_loop().call_soon(self.step)
        else:
            future._asyncio_future_blocking = False
            future.add_done_callback(self.step)

    def step(self, _: Any = None) -> None:
        try:
            self.wait_for(self.under_way.send(None))  # type: ignore[union-attr]
        except StopIteration:
            self.done()

    def done(self, _: Any = None) -> None:
        self.under_way = None
        while self.messages and self.under_way is None:
            self.write(self.messages.popleft())

    async def run(self) -> None:
        await anyio.sleep_forever()


class Ours(Driven):
    """What became of it: as before, but the current task is never that of the flush, and a task goes on."""

    def __init__(self, send: Send) -> None:
        super().__init__(send)
        self.sender = DirectSender(send, self, COURIERS)

    def write(self, message: Any) -> None:
        self.sender.put((message, 1))

    def messages_sent(self) -> None:
        pass

    def connection_lost(self, error: BaseException) -> None:
        raise error


COURIERS: Final = BorrowedTasks()
VARIANTS: Final[dict[str, type[Any]]] = {
    "queue": Queue, "stream": Stream, "channel": Channel, "event": Waiting, "parked": Parked, "driven": Driven,
    "ours": Ours,
}  # fmt: skip


class App:
    """Accepts everyone and, once all are there, sends for a while."""

    def __init__(self, variant: str, clients: int, seconds: float) -> None:
        self.make = VARIANTS[variant]
        self.expected = clients
        self.seconds = seconds
        self.clients: set[Any] = set()
        self.started = False
        self.line = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        await receive()
        await send({"type": "websocket.accept"})
        client = self.make(send)
        self.clients.add(client)
        async with anyio.create_task_group() as tasks:
            if getattr(client, "has_task", True):
                tasks.start_soon(client.run)
            if len(self.clients) == self.expected:
                tasks.start_soon(self.measure)
            while (await receive())["type"] == "websocket.receive":
                pass

    async def measure(self) -> None:
        await anyio.sleep(0.5)
        await self.broadcast(WARM_UP)
        cpu, began = time.process_time(), time.perf_counter()
        sent = await self.broadcast(self.seconds)
        spent, wall = time.process_time() - cpu, time.perf_counter() - began
        delivered = sent * FRAME_MESSAGES / 1e6
        each = f"{spent / delivered:6.2f} CPU s for each million messages, {spent / sent * 1e6:6.1f} us for each frame"
        print(f"{each} ({spent / wall:.0%} of a core)", flush=True)
        os._exit(0)

    async def broadcast(self, seconds: float) -> int:
        sent, due = 0, time.perf_counter()
        ends = due + seconds
        while due < ends:
            for client in self.clients:
                client.write(MESSAGE)
            sent += len(self.clients)
            due += INTERVAL
            await anyio.sleep(max(0.0, due - time.perf_counter()))
        return sent


def serve(server: str, variant: str, clients: int, seconds: float) -> None:
    pin(0)

    def ready(port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.spikes.asgi_send", "--reader", str(port)]
        command += ["--clients", str(clients)]
        threading.Timer(1.0, lambda: subprocess.Popen(command)).start()

    host(App(variant, clients, seconds), server, ready)


def read_forever(port: int, clients: int) -> None:
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        selector.register(sock, selectors.EVENT_READ)
    room = bytearray(1 << 18)
    while selector.get_map():
        for key, _ in selector.select():
            if not key.fileobj.recv_into(room):  # type: ignore[union-attr]
                selector.unregister(key.fileobj)


def pin(core: int) -> None:
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", choices=SERVERS)
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--reader", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        pin(1)
        read_forever(args.reader, args.clients)
    elif args.server and args.variant:
        serve(args.server, args.variant, args.clients, args.seconds)
    else:
        run_all(args)


def run_all(args: argparse.Namespace) -> None:
    """A process for each measurement, so that none inherits anything of another."""
    for server in [args.server] if args.server else SERVERS:
        is_trio = server == "hypercorn-trio"
        for variant in [args.variant] if args.variant else VARIANTS:
            if variant in (("queue", "driven", "ours") if is_trio else ("stream", "channel", "parked")):
                continue
            command = [sys.executable, "-m", "benchmarks.spikes.asgi_send", "--server", server, "--variant", variant]
            command += ["--clients", str(args.clients), "--seconds", str(args.seconds)]
            print(f"{server:19}{variant:8}", end="", flush=True)
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
