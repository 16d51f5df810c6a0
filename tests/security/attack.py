"""The attacker's side: one connection that sends exactly the bytes it is told to, TLS included.

Blocking sockets of the test's own process; the server has one of its own. Whatever blocks is cut off after `GUARD`.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

from ..transports.peer import CLOSE, TEXT, Answer, Received, frame, upgrade

GUARD: Final = 20.0
"""Seconds after which something is taken to hang; nothing is measured with it."""


class Peer:
    """One connection to a server. A reset of the server's counts as its end."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None, room: int | None = None) -> None:
        """`room` bounds what the kernel takes for us while we do not read."""
        self.buffer = bytearray()
        self.was_reset = False
        self.sock = socket.socket()
        self.sock.settimeout(GUARD)
        try:
            if room is not None:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            self.sock.connect(("127.0.0.1", port))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        except OSError:
            self.sock.close()
            raise

    # --- saying

    def send(self, data: bytes) -> bool:
        """Send all of it; False if the server hung up before it had everything."""
        try:
            self.sock.sendall(data)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return False
        return True

    def send_frame(self, opcode: int, payload: bytes = b"", **options: Any) -> bool:
        return self.send(frame(opcode, payload, **options))

    def say(self, *commands: object) -> bool:
        """Commands, each as a text message, all in one packet."""
        return self.say_text(*(json.dumps(command).encode() for command in commands))

    def say_text(self, *texts: bytes) -> bool:
        """Text messages of any content, all in one packet."""
        return self.send(b"".join(frame(TEXT, text) for text in texts))

    def send_close(self, code: int = 1000) -> bool:
        return self.send_frame(CLOSE, struct.pack("!H", code))

    # --- hearing

    def fill(self) -> bool:
        """Wait for bytes; False at the server's end."""
        try:
            data = self.sock.recv(65_536)
        except ConnectionResetError:
            self.was_reset, data = True, b""
        except ssl.SSLError as error:
            if isinstance(error, TimeoutError):
                raise
            data = b""  # an end without TLS's own
        self.buffer += data
        return bool(data)

    def read(self, count: int) -> bytes:
        """So many bytes; raises `EOFError` with those there were."""
        while len(self.buffer) < count:
            if not self.fill():
                raise EOFError(bytes(self.buffer))
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def read_end(self) -> bytes:
        """Everything up to the server's end."""
        while self.fill():
            pass
        data, self.buffer = bytes(self.buffer), bytearray()
        return data

    def read_head(self) -> Answer:
        while b"\r\n\r\n" not in self.buffer:
            if not self.fill():
                raise EOFError(bytes(self.buffer))
        head = self.read(self.buffer.index(b"\r\n\r\n") + 4).decode()
        status, *lines = head.split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        return Answer(int(status.split(" ")[1]), {name.lower(): value for name, value in headers.items()}, b"")

    def read_answer(self) -> Answer:
        """A whole response, after which the server must end."""
        answer = self.read_head()
        answer.body = self.read_end()
        return answer

    def read_frame(self) -> Received:
        first, second = self.read(2)
        assert first & 0x70 == 0, "reserved bits"
        assert first & 0x80, "a server fragments nothing"
        assert second & 0x80 == 0, "a server masks nothing"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.read(8))
        return Received(first & 0x0F, self.read(length))

    def read_close(self) -> Received:
        """The server's close frame, skipping what comes before it."""
        while (received := self.read_frame()).opcode != CLOSE:
            pass
        return received

    def items(self) -> Iterator[dict[str, Any]]:
        """The items of text frames, for ever; other frames are skipped, and a close raises `EOFError`."""
        while True:
            received = self.read_frame()
            if received.opcode == TEXT:
                yield from json.loads(received.payload)
            elif received.opcode == CLOSE:
                raise EOFError(f"closed: {received.code} {received.reason}")

    def next_item(self, type: str) -> dict[str, Any]:
        """The next item of that type, skipping others; later items of the same frame are lost."""
        return next(item for item in self.items() if item["type"] == type)

    def has_answer(self, seconds: float) -> bool:
        """Whether the server says something, or ends, within so much time."""
        self.sock.settimeout(seconds)
        try:
            self.fill()
        except TimeoutError:
            return False
        finally:
            self.sock.settimeout(GUARD)
        return True

    # --- ending

    def reset(self) -> None:
        """Vanish, as a machine does whose power is cut and comes back."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """End the connection without a word, TLS's included."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LinePeer(Peer):
    """One of the TCP transport: a line is what a text frame is elsewhere, and a last `$close` the close frame."""

    def say_text(self, *texts: bytes) -> bool:
        return self.send(b"".join(text + b"\n" for text in texts))

    def read_frame(self) -> Received:
        while b"\n" not in self.buffer:
            if not self.fill():
                raise EOFError(bytes(self.buffer))
        line = self.read(self.buffer.index(b"\n") + 1)
        items = json.loads(line)
        if items and items[-1]["type"] == "$close":
            return Received(CLOSE, struct.pack("!H", items[-1]["code"]) + items[-1]["reason"].encode())
        return Received(TEXT, line)


def trickle(streams: Mapping[Peer, Iterable[bytes]], pause: float = 0.02) -> bool:
    """Send a portion on each connection in turn, as slowly as that, until all were answered or ended.

    False if the server has taken everything from one: it waits for ever.
    """
    waiting = {peer: iter(portions) for peer, portions in streams.items()}
    while waiting:
        for peer, portions in [*waiting.items()]:
            portion = next(portions, None)
            if portion is None:
                return False
            peer.send(portion)
            if peer.has_answer(pause):
                del waiting[peer]
    return True


@contextmanager
def crowd(peers: Iterable[Peer]) -> Iterator[list[Peer]]:
    """Many connections at once, closed in the end."""
    opened: list[Peer] = []
    try:
        for peer in peers:
            opened.append(peer)  # noqa: PERF402 - those that were opened are closed if the next cannot be
        yield opened
    finally:
        for peer in opened:
            peer.close()


__all__ = ["GUARD", "LinePeer", "Peer", "crowd", "frame", "trickle", "upgrade"]
