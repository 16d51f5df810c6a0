"""The attacker's connection, which sends exactly the bytes it is given, TLS included.

Blocking sockets of the test's own process; the server has one of its own. Calls that block are cut off after `TIMEOUT`.
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

TIMEOUT: Final = 20.0
"""Seconds after which a call counts as hanging; nothing is measured with it."""


class Peer:
    """One connection to a server. A reset by the server counts as its end."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None) -> None:
        """`receive_buffer` bounds what the kernel accepts for a peer that does not read."""
        self.buffer = bytearray()
        self.was_reset = False
        self.sock = socket.socket()
        self.sock.settimeout(TIMEOUT)
        try:
            if receive_buffer is not None:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.sock.connect(("127.0.0.1", port))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        except OSError:
            self.sock.close()
            raise

    # --- sending

    def send(self, data: bytes) -> bool:
        """Send all of it; False if the server closed the connection before."""
        try:
            self.sock.sendall(data)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return False
        return True

    def send_frame(self, opcode: int, payload: bytes = b"", **options: Any) -> bool:
        return self.send(frame(opcode, payload, **options))

    def send_commands(self, *commands: object) -> bool:
        """Commands, each as a text message, all in one packet."""
        return self.send_texts(*(json.dumps(command).encode() for command in commands))

    def send_texts(self, *texts: bytes) -> bool:
        """Text messages of any content, all in one packet."""
        return self.send(b"".join(frame(TEXT, text) for text in texts))

    def send_close(self, code: int = 1000) -> bool:
        return self.send_frame(CLOSE, struct.pack("!H", code))

    # --- receiving

    def fill(self) -> bool:
        """Wait for bytes; False at the server's end."""
        try:
            data = self.sock.recv(65_536)
        except ConnectionResetError:
            self.was_reset, data = True, b""
        except ssl.SSLError as error:
            if isinstance(error, TimeoutError):
                raise
            data = b""  # an end without close_notify
        self.buffer += data
        return bool(data)

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes; raises `EOFError` with those that arrived."""
        while len(self.buffer) < count:
            if not self.fill():
                raise EOFError(bytes(self.buffer))
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def read_until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            if not self.fill():
                raise EOFError(bytes(self.buffer))
        return self.read(self.buffer.index(end) + len(end))

    def read_end(self) -> bytes:
        """Everything up to the server's end."""
        while self.fill():
            pass
        data, self.buffer = bytes(self.buffer), bytearray()
        return data

    def read_head(self) -> Answer:
        status, *lines = self.read_until(b"\r\n\r\n").decode().split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        return Answer(int(status.split(" ")[1]), {name.lower(): value for name, value in headers.items()}, b"")

    def read_response(self) -> Answer:
        """A response with its body. It does not wait for the end, which hypercorn leaves to the peer for a while."""
        answer = self.read_head()
        answer.body = self.read(int(answer.headers.get("content-length", 0)))
        return answer

    def read_last_response(self) -> Answer:
        """A response, after which the server must end the connection."""
        answer = self.read_head()
        answer.body = self.read_end()
        return answer

    def read_frame(self) -> Received:
        first, second = self.read(2)
        assert first & 0x70 == 0, "reserved bits"
        assert first & 0x80, "a server sends no fragments"
        assert second & 0x80 == 0, "a server does not mask"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.read(8))
        return Received(first & 0x0F, self.read(length))

    def read_close(self) -> Received:
        """The server's close frame, skipping the frames before it."""
        while (received := self.read_frame()).opcode != CLOSE:
            pass
        return received

    def items(self) -> Iterator[dict[str, Any]]:
        """The items of text frames, without end; other frames are skipped, and a close raises `EOFError`."""
        while True:
            received = self.read_frame()
            if received.opcode == TEXT:
                yield from json.loads(received.payload)
            elif received.opcode == CLOSE:
                raise EOFError(f"closed: {received.code} {received.reason}")

    def next_item(self, type: str) -> dict[str, Any]:
        """The next item of that type, skipping others; later items of the same frame are lost."""
        return next(item for item in self.items() if item["type"] == type)

    def receives_within(self, seconds: float) -> bool:
        """Whether bytes or the end of the server arrive within this time."""
        self.sock.settimeout(seconds)
        try:
            self.fill()
        except TimeoutError:
            return False
        finally:
            self.sock.settimeout(TIMEOUT)
        return True

    # --- ending

    def reset(self) -> None:
        """End with RST, as a machine does that lost its power and came back."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """End the connection without a close frame or close_notify."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LinePeer(Peer):
    """A peer of the TCP transport: a line is a text frame, and a last `$close` the close frame."""

    def send_texts(self, *texts: bytes) -> bool:
        return self.send(b"".join(text + b"\n" for text in texts))

    def read_frame(self) -> Received:
        line = self.read_until(b"\n")
        items = json.loads(line)
        if items and items[-1]["type"] == "$close":
            return Received(CLOSE, struct.pack("!H", items[-1]["code"]) + items[-1]["reason"].encode())
        return Received(TEXT, line)


def trickle(streams: Mapping[Peer, Iterable[bytes]], pause: float = 0.02) -> bool:
    """Send one portion on each connection in turn, slowly, until all were answered or ended.

    False if the server accepted every portion of one and did not answer.
    """
    waiting = {peer: iter(portions) for peer, portions in streams.items()}
    while waiting:
        for peer, portions in [*waiting.items()]:
            portion = next(portions, None)
            if portion is None:
                return False
            peer.send(portion)
            if peer.receives_within(pause):
                del waiting[peer]
    return True


@contextmanager
def connections(peers: Iterable[Peer]) -> Iterator[list[Peer]]:
    """Many connections at once, closed in the end."""
    opened: list[Peer] = []
    try:
        for peer in peers:
            opened.append(peer)  # noqa: PERF402 - the opened ones are closed if the next cannot be opened
        yield opened
    finally:
        for peer in opened:
            peer.close()


__all__ = ["TIMEOUT", "LinePeer", "Peer", "connections", "frame", "trickle", "upgrade"]
