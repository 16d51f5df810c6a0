"""The connection of `HubClient` to a hostile server: the answer to its handshake, and frames."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final, cast

import anyio
from anyio.abc import ByteStream

from analytics_hub.client.backoff import RetryDecision
from analytics_hub.client.exceptions import ConnectionClosed, ConnectionLost, HandshakeRefused, NotAHub
from analytics_hub.client.protocol import ClientProtocol
from analytics_hub.client.subscription_state import Options
from analytics_hub.client.target import Address
from analytics_hub.client.websocket import MAX_MESSAGE, MAX_UNSENT, WebSocket
from analytics_hub.protocol.formats import SUBPROTOCOLS

from ..target import Target, cut, run
from .items import HELLO, check_ending, check_feed

_ADDRESS: Final = Address.parse("ws://hub:7999").sockets[0]
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(rb"Sec-WebSocket-Key: (\S+)")
PROOF: Final = b"{proof}"
"""In an answer, replaced by the proof for the key of the request."""


class Line:
    """A stream that returns `data` and then ends. Nothing suspends."""

    def __init__(self, how: int, data: bytes) -> None:
        self._how = how
        self._data = data
        self._portions = iter(cut(how, data))
        self.sent = 0

    async def send(self, data: bytes) -> None:
        if key := _KEY.search(data):
            digest = hashlib.sha1(key[1] + _GUID, usedforsecurity=False).digest()
            self._portions = iter(cut(self._how, self._data.replace(PROOF, base64.b64encode(digest))))
        self.sent += len(data)

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        try:
            return next(self._portions)
        except StopIteration:
            raise anyio.EndOfStream from None


def check_socket(data: bytes) -> None:
    """The first byte selects how the rest is cut: an answer to a handshake, and the frames behind it."""
    line = Line(data[0] if data else 0, data[1:])
    socket = WebSocket(cast("ByteStream", line))
    protocol = ClientProtocol(jitter=lambda: 0.5)
    feed = protocol.subscribe("alerts", Options(), 0.0)
    ending: RetryDecision
    try:
        run(socket.open(_ADDRESS, {}, SUBPROTOCOLS))
        protocol.connection_made(0.0, codec=socket.codec)
        while True:
            messages = run(socket.receive())
            assert sum(map(len, messages)) <= MAX_MESSAGE + len(data)
            assert sum(map(len, socket._fragments)) <= MAX_MESSAGE
            for message in messages:
                protocol.receive_message(message, 1.0)
            for command in protocol.data_to_send() if socket._closed is None else ():
                socket.send(command)
            assert len(socket._unsent) <= MAX_UNSENT
            run(socket.flush())
    except ConnectionClosed as closed:
        ending = protocol.connection_closed(closed.code, str(closed), 2.0)
    except HandshakeRefused as refused:
        ending = protocol.handshake_refused(refused.status, str(refused), refused.retry_after, 2.0)
    except (ConnectionLost, NotAHub) as error:
        ending = protocol.connection_lost(str(error), 2.0)
    check_ending(ending)
    check_feed(feed)


_ANSWER: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: {proof}\r\n%b\r\n"
)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    return bytes([first, size] if size < 126 else [first, 126, *size.to_bytes(2, "big")]) + payload


SOCKET: Final = Target(
    "socket",
    check_socket,
    samples=tuple(
        how + sample
        for how in (b"\0", b"\x01", b"\x0b")
        for sample in (
            _ANSWER % b"Sec-WebSocket-Protocol: analytics-hub.v1.json\r\n"
            + _frame(0x81, HELLO)
            + _frame(0x88, b"\x03\xe8"),
            _ANSWER % b"" + _frame(0x01, HELLO[:40]) + _frame(0x89, b"?") + _frame(0x80, HELLO[40:]),
            _ANSWER % b"Sec-WebSocket-Protocol: analytics-hub.v1.msgpack\r\n" + _frame(0x82, b"\x90"),
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 14\r\n\r\nexpired token\n",
            b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n<html>",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\n\r\nno",
        )
    ),
    words=(
        *(b"HTTP/1.1 ", b" 101 ", b" 200 ", b" 429 ", b"Retry-After: 5\r\n", b"Retry-After: 99999999999\r\n", PROOF),
        *(
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
            b"Sec-WebSocket-Protocol: x\r\n",
            b"Content-Length: 0\r\n",
        ),
        *(b"\r\n", b"\r\n\r\n", b": ", _frame(0x81, b"[]"), _frame(0x89, b""), _frame(0x88, b""), b"\x81\x7f"),
        *(b"\x88\x02\x0f\xa1", b"\xff\x00", "é".encode(), b"\x82\xff" + bytes(8), b"\x81\xfe\xff\xff"),
        b"Connection: close\r\n",
    ),
    longest=3000,
)
TARGETS: Final = (SOCKET,)
