"""One WebSocket connection as a client has it: wsproto over a stream of anyio's."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
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

from ..exceptions import HubError
from ..protocol import MAX_FRAME_BYTES, CloseCode
from .decoding import CODECS, JSON_CODEC, Codec
from .exceptions import Closed, Lost
from .target import Target

MAX_MESSAGE: Final = 4 * MAX_FRAME_BYTES
MAX_UNSENT: Final = 1024 * 1024
"""Bytes that may wait for a server that does not read; it gets commands and pongs only."""
LONGEST_WAIT: Final = 86_400.0
"""What a server may ask for with `Retry-After`, in seconds."""
CLOSING: Final = 0.5
"""How long saying goodbye may take, in seconds; nobody waits for an answer."""


class Refused(HubError):
    """The server answered the handshake with another status than 101."""

    def __init__(self, status: int, sentence: str, retry_after: float | None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.sentence = sentence
        self.retry_after = retry_after


class Socket:
    """One connection. One task may `receive` and another `flush`; `receive` queues pongs and joins fragments."""

    def __init__(self, stream: ByteStream) -> None:
        self.codec: Codec = JSON_CODEC
        self._stream = stream
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._unsent = bytearray()
        self._message: list[str | bytes | bytearray] = []
        self._size = 0
        self._ending: Closed | None = None
        """Raised once the messages that came before it have been returned."""
        self._answer: CloseConnection | None = None

    async def open(self, target: Target, headers: Mapping[str, str], subprotocols: Sequence[str]) -> None:
        """Upgrade; raises `Refused`, `Closed` where the answer is no HTTP, `Lost` where there is none."""
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        request = Request(target.authority, target.resource, subprotocols=list(subprotocols), extra_headers=extra)
        await self._stream.send(self._ws.send(request))
        refusal: RejectConnection | None = None
        body = b""
        while True:
            await self._feed()
            for event in self._events():
                if isinstance(event, AcceptConnection):
                    self.codec = next((c for c in CODECS if c.format.subprotocol == event.subprotocol), JSON_CODEC)
                    return
                if isinstance(event, RejectConnection):
                    refusal = event
                if isinstance(event, RejectData):
                    body = (body + event.data)[:1024]
                if refusal and (not refusal.has_body or (isinstance(event, RejectData) and event.body_finished)):
                    raise _refused(refusal, body)
            if self._ending is not None:
                raise self._ending

    async def receive(self) -> list[str | bytes]:
        """The messages that have come, after waiting for bytes where there are none; raises `Closed` or `Lost`.

        Returns nothing where something has come that is no message, such as a ping.
        """
        messages = self._take_messages()  # some may have come with the answer to the handshake
        if not messages and self._ending is None:
            await self._feed()
            messages = self._take_messages()
        if not messages and self._ending is not None:
            raise self._ending
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
            except anyio.EndOfStream:  # TLS, once it has met an end without a goodbye
                raise Closed(1006, "") from None

    async def close(self, code: int) -> None:
        """Say why, or answer the server that has said so; its own answer is not waited for."""
        with anyio.move_on_after(CLOSING, shield=True):
            with suppress(ProtocolError):  # it has been said, or nothing has begun
                self._queue(self._answer or CloseConnection(code))
            with suppress(Closed, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                await self.flush()

    def _queue(self, event: Event) -> None:
        self._unsent += self._ws.send(event)
        if len(self._unsent) > MAX_UNSENT:
            raise Lost("the server does not read")

    async def _feed(self) -> None:
        try:
            data = await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            raise Closed(1006, "") from None
        except ssl.SSLError as error:
            raise Lost(f"the connection is broken: {explain(error)}") from None
        try:
            self._ws.receive_data(data)
        except (ProtocolError, ValueError) as error:  # ValueError: wsproto decodes headers without looking
            raise Closed(CloseCode.PROTOCOL_ERROR, str(error)) from None

    def _events(self) -> Iterator[Event]:
        try:
            yield from self._ws.events()
        except (ProtocolError, ValueError) as error:
            self._ending = Closed(CloseCode.PROTOCOL_ERROR, str(error))

    def _take_messages(self) -> list[str | bytes]:
        messages: list[str | bytes] = []
        for event in self._events():
            if isinstance(event, (TextMessage, BytesMessage)):
                self._size += len(event.data)
                if self._size > MAX_MESSAGE:
                    self._ending = Closed(CloseCode.TOO_BIG, f"the server sent a message over {MAX_MESSAGE} bytes")
                    break
                self._message.append(event.data)
                if event.message_finished:
                    messages.append(_join(self._message))
                    self._message, self._size = [], 0
            elif isinstance(event, Ping):
                self._queue(event.response())
            elif isinstance(event, CloseConnection):  # `close` answers it
                self._answer = event.response()
                self._ending = Closed(event.code, event.reason or "")
                break
        return messages


def _join(parts: list[str | bytes | bytearray]) -> str | bytes:
    if isinstance(parts[0], str):
        return "".join(part for part in parts if isinstance(part, str))
    return b"".join(part for part in parts if not isinstance(part, str))


def _refused(refusal: RejectConnection, body: bytes) -> Refused:
    headers = {bytes(name).lower(): bytes(value) for name, value in refusal.headers}
    after = headers.get(b"retry-after", b"")
    sentence = body.decode("utf-8", "replace").strip() if b"html" not in headers.get(b"content-type", b"") else ""
    return Refused(refusal.status_code, sentence, min(float(after), LONGEST_WAIT) if after.isdigit() else None)


@asynccontextmanager
async def dial(
    target: Target,
    *,
    headers: Mapping[str, str],
    subprotocols: Sequence[str],
    timeout: float,
    ssl_context: ssl.SSLContext | None,
) -> AsyncIterator[Socket]:
    """An open `Socket`; `timeout` seconds bound the connecting, and again the handshake.

    Without `ssl_context` certificates are checked against the system's; `SSL_CERT_FILE` names others.
    """
    with anyio.fail_after(timeout):
        stream = await _connect(target, ssl_context)
    async with stream:
        socket = Socket(stream)
        try:
            with anyio.fail_after(timeout):
                await socket.open(target, headers, subprotocols)
            yield socket
        finally:
            await socket.close(CloseCode.NORMAL)


async def _connect(target: Target, ssl_context: ssl.SSLContext | None) -> ByteStream:
    if not target.is_secure:
        return await anyio.connect_tcp(target.host, target.port)
    context = ssl_context if ssl_context is not None else ssl.create_default_context()
    try:
        return await anyio.connect_tcp(target.host, target.port, ssl_context=context, tls_standard_compatible=False)
    except anyio.EndOfStream:  # a proxy that restarts, say
        raise Lost(f"{target.url} hung up during the TLS handshake") from None


def explain(error: BaseException) -> str:
    """The first reason of the system's: anyio tries several addresses and wraps what each of them said."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    reason = cause if isinstance(cause, OSError) else error
    if isinstance(reason, OSError) and reason.errno is not None and not isinstance(reason, (gaierror, ssl.SSLError)):
        return os.strerror(reason.errno)  # asyncio's own text repeats the address
    return str(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)
