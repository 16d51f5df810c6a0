"""The spike behind the `websocket` transport: one task on one selector, against a task for each connection.

    python benchmarks/spikes/selector.py                 # every variant, one line each
    python benchmarks/spikes/selector.py --idle 10000    # resident memory for each idle connection instead

Both variants push the same frames of 16 messages to every client each 16 ms, with nothing of the hub around them, so
that only the cost of the two shapes is compared. A second process, on another core, reads what they send.
"""

from __future__ import annotations

import argparse
import gc
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import anyio
import anyio.abc

FRAME_MESSAGES: Final = 16
FRAME: Final = b"\x81\x7e\x0f\x0a" + b"m" * 3850  # 16 messages of about 240 bytes of JSON in one text frame
INTERVAL: Final = 0.016
WARM_UP: Final = 1.0


class Server(Protocol):
    """One way to hold connections: `broadcast` hands a frame to each of them and never waits."""

    def count(self) -> int: ...
    def broadcast(self, frame: bytes) -> int: ...
    async def serve(self, listener: socket.socket) -> None: ...


class SelectorServer:
    """One task, one selector; frames leave with a direct `send`. A client that would block is dropped (spike only)."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.clients: set[socket.socket] = set()

    def count(self) -> int:
        return len(self.clients)

    def broadcast(self, frame: bytes) -> int:
        sent = 0
        for client in self.clients:
            try:
                sent += client.send(frame) == len(frame)
            except BlockingIOError:
                pass
        return sent

    async def serve(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ)
        while True:
            await anyio.wait_readable(self.selector.fileno())
            for key, _ in self.selector.select(0):
                if key.fileobj is listener:
                    self._accept(listener)
                else:
                    self._read(key.fileobj)  # type: ignore[arg-type]

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(client, selectors.EVENT_READ)
        self.clients.add(client)

    def _read(self, client: socket.socket) -> None:
        if not client.recv(4096):
            self.selector.unregister(client)
            self.clients.discard(client)
            client.close()


class TaskServer:
    """What one would write first: anyio streams, and for each connection a task that reads and one that writes."""

    def __init__(self) -> None:
        self.mailboxes: set[Mailbox] = set()

    def count(self) -> int:
        return len(self.mailboxes)

    def broadcast(self, frame: bytes) -> int:
        for mailbox in self.mailboxes:
            mailbox.put(frame)
        return len(self.mailboxes)

    async def serve(self, listener: socket.socket) -> None:
        multi = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.getsockname()[1]
        await multi.aclose()
        listener.close()
        server = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port, backlog=4096)
        await server.serve(self._handle)

    async def _handle(self, stream: anyio.abc.SocketStream) -> None:
        mailbox = Mailbox()
        self.mailboxes.add(mailbox)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(mailbox.write_to, stream)
                async for _ in stream:
                    pass
                group.cancel_scope.cancel()
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self.mailboxes.discard(mailbox)


class Mailbox:
    """The frames a writer task still owes, and its alarm clock."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.alarm = anyio.Event()

    def put(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.alarm.set()

    async def write_to(self, stream: anyio.abc.SocketStream) -> None:
        while True:
            await self.alarm.wait()
            self.alarm = anyio.Event()
            frames, self.frames = self.frames, []
            await stream.send(b"".join(frames) if len(frames) > 1 else frames[0])


VARIANTS: Final[dict[str, Callable[[], Server]]] = {"selector": SelectorServer, "tasks": TaskServer}
BACKENDS: Final = ("asyncio", "uvloop", "trio")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure(variant: str, clients: int, seconds: float, idle: bool) -> str:
    server = VARIANTS[variant]()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = listener.getsockname()[1]
    gc.collect()
    before = resident()
    line = ""
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, listener)
        await anyio.sleep(0.1)
        reader = subprocess.Popen([sys.executable, __file__, "--reader", str(port), "--clients", str(clients)])
        try:
            while server.count() < clients:
                await anyio.sleep(0.05)
            gc.collect()
            size = (resident() - before) / clients / 1000
            line = f"{size:6.2f} KB for each idle connection" if idle else await flood(server, seconds)
        finally:
            reader.kill()
            reader.wait()
        group.cancel_scope.cancel()
    return line


async def flood(server: Server, seconds: float) -> str:
    """Broadcast each interval, first for a second that does not count."""
    await broadcast_for(server, WARM_UP)
    cpu, began = time.process_time(), time.perf_counter()
    sent = await broadcast_for(server, seconds)
    spent, wall = time.process_time() - cpu, time.perf_counter() - began
    delivered = sent * FRAME_MESSAGES / 1e6
    each = f"{spent / delivered:6.3f} CPU s for each million messages"
    return f"{each} ({delivered / wall:.2f} M/s, {spent / wall:.0%} of a core)"


async def broadcast_for(server: Server, seconds: float) -> int:
    sent, due = 0, time.perf_counter()
    ends = due + seconds
    while due < ends:
        sent += server.broadcast(FRAME)
        due += INTERVAL
        await anyio.sleep(max(0.0, due - time.perf_counter()))
    return sent


def read_forever(port: int, clients: int) -> None:
    """The other side: reads and throws away, with as little work as Python allows."""
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        selector.register(socket.create_connection(("127.0.0.1", port)), selectors.EVENT_READ)
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
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--idle", type=int, help="measure memory with that many idle connections instead")
    parser.add_argument("--reader", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        pin(1)
        return read_forever(args.reader, args.clients)
    if not (args.variant and args.backend):
        return run_all(sys.argv[1:])
    clients = args.idle or args.clients
    pin(0)
    line = anyio.run(
        measure, args.variant, clients, args.seconds, bool(args.idle),
        backend="trio" if args.backend == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if args.backend == "uvloop" else {},
    )  # fmt: skip
    print(f"{args.variant:9}{args.backend:8}{line}", flush=True)


def run_all(arguments: list[str]) -> None:
    """A process for each measurement, so that none inherits the memory of another."""
    for backend in BACKENDS:
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--variant", variant, "--backend", backend, *arguments]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
