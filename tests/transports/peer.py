"""A client that sends exactly the given bytes, and a server for it."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import anyio
import anyio.abc
import anyio.to_thread

from analytics_hub.hub import Hub
from analytics_hub.transports import websocket

from .fake_gateway import FakeGateway, FakeHub

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3 has both
PATH = "/ws/analytics"
HANG_GUARD = 60.0


class Clock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(
    hub: FakeGateway | Hub,
    *,
    cancels: bool = True,
    serve: Callable[..., Awaitable[None]] = websocket.serve,
    **options: Any,
) -> AsyncIterator[int]:
    """The port of a server for `hub`, which is cancelled at the end, or awaited.

    Unless a test has a clock or limits of its own, the timeouts are long, so that a pause of the machine ends nothing.
    """
    entered = FakeHub(hub) if isinstance(hub, FakeGateway) else hub
    if serve is websocket.serve and not options.keys() & {"clock", "limits"}:
        options["limits"] = websocket.Limits(handshake_timeout=60.0, close_timeout=60.0)
    with anyio.fail_after(HANG_GUARD):
        async with anyio.create_task_group() as group:

            async def run(*, task_status: anyio.abc.TaskStatus[int]) -> None:
                await serve(entered, port=0, task_status=task_status, **options)

            yield await group.start(run)
            if cancels:
                group.cancel_scope.cancel()


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, length: int | None = None
) -> bytes:
    """A client's frame; `length` declares another length, in the shortest form."""
    length = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if length < 126:
        head += bytes([mask_bit | length])
    elif length < 65_536:
        head += bytes([mask_bit | 126]) + struct.pack("!H", length)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    size = len(payload)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def upgrade(*headers: str, path: str = PATH, drop: tuple[str, ...] = (), version: str = "HTTP/1.1") -> bytes:
    """The head of a valid handshake, with `headers` added and those named in `drop` removed."""
    usual = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    lines = [f"{name}: {value}" for name, value in usual.items() if name not in drop]
    return "\r\n".join([f"GET {path} {version}", *lines, *headers, "", ""]).encode("latin-1")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Received:
    opcode: int
    payload: bytes

    @property
    def code(self) -> int | None:
        """Of a close frame."""
        assert self.opcode == CLOSE
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None

    @property
    def reason(self) -> str:
        return self.payload[2:].decode()


@dataclass
class Peer:
    """One connection. Reads until the server's end; a reset counts as one."""

    sock: socket.socket
    buffer: bytearray = field(default_factory=bytearray)
    was_reset: bool = False

    @classmethod
    async def connect(cls, port: int, *, room: int | None = None, tls: ssl.SSLContext | None = None) -> Self:
        """`room` bounds what the kernel receives while the client does not read."""
        sock = socket.socket()
        if room is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        try:
            sock.connect(("127.0.0.1", port))  # at once: the kernel accepts before the server does
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        if tls is not None:
            sock = tls.wrap_socket(sock, do_handshake_on_connect=False, server_hostname="localhost")
            peer = cls(sock)
            try:
                await peer.retry(sock.do_handshake)
            except OSError:
                peer.close()
                raise
            return peer
        return cls(sock)

    @classmethod
    async def open(cls, port: int, *headers: str, then: bytes = b"", path: str = PATH, **options: Any) -> Self:
        """A WebSocket, after a handshake that must succeed; `then` is sent in the same packet."""
        peer = await cls.connect(port, **options)
        await peer.send(upgrade(*headers, path=path) + then)
        answer = await peer.read_head()
        assert answer.status == 101, answer
        assert answer.headers["sec-websocket-accept"] == ACCEPT
        return peer

    async def retry(self, operation: Callable[[], Any]) -> Any:
        while True:
            try:
                return operation()
            except (BlockingIOError, ssl.SSLWantReadError):
                await anyio.wait_readable(self.sock)
            except ssl.SSLWantWriteError:
                await anyio.wait_writable(self.sock)

    async def send(self, data: bytes) -> None:
        """Send all of it, or as much as the server takes before it closes the connection."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await anyio.wait_writable(self.sock)
            except (ConnectionResetError, BrokenPipeError):
                return

    async def send_frame(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        await self.send(frame(opcode, payload, **options))

    async def _fill(self) -> bool:
        try:
            data = cast("bytes", await self.retry(lambda: self.sock.recv(65_536)))
        except ConnectionResetError:
            self.was_reset, data = True, b""
        self.buffer += data
        return bool(data)

    async def read(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not await self._fill():
                raise EOFError(bytes(self.buffer))
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    async def read_end(self) -> bytes:
        """Everything up to the server's end."""
        while await self._fill():
            pass
        data, self.buffer = bytes(self.buffer), bytearray()
        return data

    async def read_head(self) -> Answer:
        while b"\r\n\r\n" not in self.buffer:
            if not await self._fill():
                raise EOFError(bytes(self.buffer))
        head = (await self.read(self.buffer.index(b"\r\n\r\n") + 4)).decode()
        status, *lines = head.split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        return Answer(int(status.split(" ")[1]), {name.lower(): value for name, value in headers.items()}, b"")

    async def read_answer(self) -> Answer:
        """A whole response, after which the server must end."""
        answer = await self.read_head()
        answer.body = await self.read_end()
        return answer

    async def read_frame(self) -> Received:
        first, second = await self.read(2)
        assert first & 0x70 == 0, "reserved bits"
        assert second & 0x80 == 0, "a server masks nothing"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", await self.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.read(8))
        assert first & 0x80, "a server fragments nothing"
        return Received(first & 0x0F, await self.read(length))

    async def read_close(self) -> Received:
        """The server's close frame, skipping what comes before it."""
        while (received := await self.read_frame()).opcode != CLOSE:
            pass
        return received

    async def wait_closed(self) -> None:
        """Wait until the server has closed its socket, and not only its sending side."""
        poll = select.poll()
        poll.register(self.sock, 0)
        assert await anyio.to_thread.run_sync(poll.poll, HANG_GUARD * 1000)

    def reset(self) -> None:
        """Vanish, as a machine that loses its power and restarts."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def feed(peer: Peer, data: bytes) -> None:
    """Send all of it, or raise `BlockingIOError`."""
    while data:
        data = data[peer.sock.send(data) :]


async def is_served(port: int) -> bool:
    """Whether another, well-behaved client is served."""
    async with await Peer.open(port) as peer:
        await peer.send_frame(PING, b"another")
        return await peer.read_frame() == Received(PONG, b"another")
