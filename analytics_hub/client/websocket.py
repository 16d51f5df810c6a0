"""One WebSocket connection from the client's side: wsproto over an anyio stream."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from socket import gaierror
from typing import Final

import anyio
from anyio.abc import ByteStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from ..protocol import MAX_FRAME_BYTES, CloseCode
from .decoding import CODECS, JSON_CODEC, Codec
from .exceptions import ConnectionClosed, ConnectionLost, HandshakeRefused
from .target import Target

MAX_MESSAGE: Final = 4 * MAX_FRAME_BYTES
MAX_UNSENT: Final = 1024 * 1024
"""Bytes queued for a server that does not read; there are only commands and pongs to send."""
MAX_RETRY_AFTER: Final = 86_400.0
"""Seconds. A longer `Retry-After` is cut to this."""
CLOSE_TIMEOUT: Final = 0.5
"""Seconds for sending the close frame; the answer of the server is not awaited."""


class WebSocket:
    """One connection. One task may `receive` and another `flush`; `receive` queues pongs and joins fragments."""

    def __init__(self, stream: ByteStream) -> None:
        self.codec: Codec = JSON_CODEC
        self._stream = stream
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._unsent = bytearray()
        self._fragments: list[str | bytes | bytearray] = []
        self._size = 0
        self._closed: ConnectionClosed | None = None
        """Raised once the messages that came before it have been returned."""
        self._close_answer: CloseConnection | None = None

    async def open(self, target: Target, headers: Mapping[str, str], subprotocols: Sequence[str]) -> None:
        """Upgrade the connection.

        Raises `HandshakeRefused`, `ConnectionClosed` if the answer is not HTTP, and `ConnectionLost` if there is none.
        """
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        request = Request(target.authority, target.resource, subprotocols=list(subprotocols), extra_headers=extra)
        await self._stream.send(self._ws.send(request))
        refusal: RejectConnection | None = None
        body = b""
        while True:
            await self._receive_data()
            for event in self._events():
                if isinstance(event, AcceptConnection):
                    self.codec = next((c for c in CODECS if c.format.subprotocol == event.subprotocol), JSON_CODEC)
                    return
                if isinstance(event, RejectConnection):
                    refusal = event
                if isinstance(event, RejectData):
                    body = (body + event.data)[:1024]
                if refusal and (not refusal.has_body or (isinstance(event, RejectData) and event.body_finished)):
                    raise _refusal(refusal, body)
            if self._closed is not None:
                raise self._closed

    async def receive(self) -> list[str | bytes]:
        """The messages that have come, after waiting for data if there are none.

        Returns an empty list if the data held no whole message, such as a ping. Raises `ConnectionClosed` or
        `ConnectionLost`.
        """
        messages = self._decode_messages()  # some may have come with the answer to the handshake
        if not messages and self._closed is None:
            await self._receive_data()
            messages = self._decode_messages()
        if not messages and self._closed is not None:
            raise self._closed
        return messages

    def send(self, message: str | bytes) -> None:
        """Queue a message; `flush` writes it."""
        self._queue(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    @property
    def has_output(self) -> bool:
        """Whether `flush` has something to write, such as a pong."""
        return bool(self._unsent)

    async def flush(self) -> None:
        """Write what is queued."""
        while self._unsent:
            data = bytes(self._unsent)
            self._unsent.clear()
            try:
                await self._stream.send(data)
            except anyio.EndOfStream:  # TLS, after the peer has ended without close_notify
                raise ConnectionClosed(1006, "") from None

    async def close(self, code: int) -> None:
        """Send a close frame, or answer that of the server. Its own answer is not awaited."""
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            with suppress(ProtocolError):  # it was sent already, or the handshake has not begun
                self._queue(self._close_answer or CloseConnection(code))
            with suppress(ConnectionClosed, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                await self.flush()

    def _queue(self, event: Event) -> None:
        self._unsent += self._ws.send(event)
        if len(self._unsent) > MAX_UNSENT:
            raise ConnectionLost("the server does not read")

    async def _receive_data(self) -> None:
        try:
            data = await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            raise ConnectionClosed(1006, "") from None
        except ssl.SSLError as error:
            raise ConnectionLost(f"the connection is broken: {describe_error(error)}") from None
        try:
            self._ws.receive_data(data)
        except (ProtocolError, ValueError) as error:  # ValueError: wsproto decodes headers without checking them
            raise ConnectionClosed(CloseCode.PROTOCOL_ERROR, str(error)) from None

    def _events(self) -> Iterator[Event]:
        try:
            yield from self._ws.events()
        except (ProtocolError, ValueError) as error:
            self._closed = ConnectionClosed(CloseCode.PROTOCOL_ERROR, str(error))

    def _decode_messages(self) -> list[str | bytes]:
        messages: list[str | bytes] = []
        for event in self._events():
            if isinstance(event, (TextMessage, BytesMessage)):
                self._size += len(event.data)
                if self._size > MAX_MESSAGE:
                    reason = f"the server sent a message over {MAX_MESSAGE} bytes"
                    self._closed = ConnectionClosed(CloseCode.TOO_BIG, reason)
                    break
                self._fragments.append(event.data)
                if event.message_finished:
                    messages.append(_join(self._fragments))
                    self._fragments, self._size = [], 0
            elif isinstance(event, Ping):
                self._queue(event.response())
            elif isinstance(event, CloseConnection):  # `close` answers it
                self._close_answer = event.response()
                self._closed = ConnectionClosed(event.code, event.reason or "")
                break
        return messages


def _join(parts: list[str | bytes | bytearray]) -> str | bytes:
    if isinstance(parts[0], str):
        return "".join(part for part in parts if isinstance(part, str))
    return b"".join(part for part in parts if not isinstance(part, str))


def _refusal(refusal: RejectConnection, body: bytes) -> HandshakeRefused:
    headers = {bytes(name).lower(): bytes(value) for name, value in refusal.headers}
    after = headers.get(b"retry-after", b"")
    message = body.decode("utf-8", "replace").strip() if b"html" not in headers.get(b"content-type", b"") else ""
    retry_after = min(float(after), MAX_RETRY_AFTER) if after.isdigit() else None
    return HandshakeRefused(refusal.status_code, message, retry_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """How to connect. `timeout` bounds the connecting in seconds, and again the handshake.

    Without `ssl_context` certificates are verified against those of the system; `SSL_CERT_FILE` names others.
    """

    headers: Mapping[str, str]
    subprotocols: Sequence[str]
    ssl_context: ssl.SSLContext | None
    timeout: float


@asynccontextmanager
async def connect(
    target: Target, options: ConnectOptions, authorization: Mapping[str, str]
) -> AsyncIterator[WebSocket]:
    """An open `WebSocket` at `target`. `authorization` are headers in addition to those of the options."""
    with anyio.fail_after(options.timeout):
        stream = await _open_stream(target, options.ssl_context)
    async with stream:
        websocket = WebSocket(stream)
        try:
            with anyio.fail_after(options.timeout):
                await websocket.open(target, {**options.headers, **authorization}, options.subprotocols)
            yield websocket
        finally:
            await websocket.close(CloseCode.NORMAL)


async def _open_stream(target: Target, ssl_context: ssl.SSLContext | None) -> ByteStream:
    if not target.is_secure:
        return await anyio.connect_tcp(target.host, target.port)
    context = ssl_context if ssl_context is not None else ssl.create_default_context()
    try:
        return await anyio.connect_tcp(target.host, target.port, ssl_context=context, tls_standard_compatible=False)
    except anyio.EndOfStream:  # for example a proxy that restarts
        raise ConnectionLost(f"{target.url} closed the connection during the TLS handshake") from None


def describe_error(error: BaseException) -> str:
    """The first reason that the system gave: anyio tries several addresses and wraps the error of each."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    reason = cause if isinstance(cause, OSError) else error
    if isinstance(reason, OSError) and reason.errno is not None and not isinstance(reason, (gaierror, ssl.SSLError)):
        return os.strerror(reason.errno)  # the text of asyncio repeats the address
    return str(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)
