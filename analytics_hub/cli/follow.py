"""The connection under `tail`: a WebSocket client of wsproto over anyio, and the loop that reconnects."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from socket import gaierror
from typing import Final
from urllib.parse import urlsplit

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

from ..auth import find_token, strip_query
from ..exceptions import HubError
from ..http import is_loopback
from ..protocol import MAX_FRAME_BYTES, SUBPROTOCOL_JSON, CloseCode
from .tail import Ending, Line, NotAHub, Tail

DEFAULT_PATH: Final = "/ws/analytics"
TIMEOUT: Final = 10.0
"""For connecting, and for the answer to the handshake."""
MAX_MESSAGE: Final = 4 * MAX_FRAME_BYTES
CLOSING: Final = 0.5
"""How long saying goodbye may take; nobody waits for an answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect. The token of a URL that had one is kept apart, so that no message shows it."""

    url: str
    host: str
    port: int
    resource: str
    is_secure: bool
    token: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises `ValueError` with a sentence that does not repeat the URL, which may hold a token."""
        try:
            parts = urlsplit(url)
            port, host = parts.port, (parts.hostname or "").encode("idna").decode()
        except ValueError:
            parts, port, host = urlsplit(""), None, ""
        if parts.scheme not in ("ws", "wss") or not host:
            raise ValueError("the URL must begin with ws:// or wss:// and name a host, as ws://localhost:7999 does")
        is_secure = parts.scheme == "wss"
        found, query = find_token({}, parts.query, ()), strip_query(parts.query)
        resource = (parts.path if parts.path.strip("/") else DEFAULT_PATH) + (f"?{query}" if query else "")
        if not resource.isascii() or not resource.isprintable() or " " in resource:
            raise ValueError("the path of the URL has characters that must be percent-encoded")
        port = port or (443 if is_secure else 80)
        netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        shown = f"{parts.scheme}://{netloc}{resource}"
        return cls(shown, host, port, resource, is_secure, found.token if found else None)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        return is_loopback(self.host)


class Refused(HubError):
    """The server answered the handshake with another status than 101."""

    def __init__(self, status: int, sentence: str, retry_after: float | None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.sentence = sentence
        self.retry_after = retry_after


class Closed(HubError):
    """The connection has ended; 1006 where no code came."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Socket:
    """One WebSocket connection, from this side a client's. `receive` answers pings and joins fragments."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._message: list[str] = []
        self._size = 0
        self._ending: Closed | None = None
        """Raised once the messages that came before it have been returned."""

    async def open(self, target: Target, token: str | None) -> None:
        """Upgrade; raises `Refused`, or `Closed` where the answer is no HTTP."""
        headers = [(b"Authorization", b"Bearer " + token.encode())] if token else []
        request = Request(target.authority, target.resource, subprotocols=[SUBPROTOCOL_JSON], extra_headers=headers)
        await self._stream.send(self._ws.send(request))
        refusal: RejectConnection | None = None
        body = b""
        while True:
            await self._feed()
            for event in self._events():
                if isinstance(event, AcceptConnection):
                    return
                if isinstance(event, RejectConnection):
                    refusal = event
                if isinstance(event, RejectData):
                    body = (body + event.data)[:1024]
                if refusal and (not refusal.has_body or (isinstance(event, RejectData) and event.body_finished)):
                    raise _refused(refusal, body)

    async def receive(self) -> list[str]:
        """The text messages that have come, after waiting for bytes where there are none; raises `Closed`."""
        while not (messages := await self._take_messages()):  # some may have come with the answer to the handshake
            if self._ending is not None:
                raise self._ending
            await self._feed()
        return messages

    async def send(self, text: str) -> None:
        await self._stream.send(self._ws.send(TextMessage(text)))

    async def close(self, code: int) -> None:
        """Say why; the answer is not waited for."""
        with anyio.move_on_after(CLOSING, shield=True):
            try:
                await self._stream.send(self._ws.send(CloseConnection(code)))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, ProtocolError):
                pass

    async def _feed(self) -> None:
        try:
            data = await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            raise Closed(1006, "") from None
        try:
            self._ws.receive_data(data)
        except (ProtocolError, ValueError) as error:  # ValueError: wsproto decodes headers without looking
            raise Closed(CloseCode.PROTOCOL_ERROR, str(error)) from None

    def _events(self) -> Iterator[Event]:
        try:
            yield from self._ws.events()
        except (ProtocolError, ValueError) as error:
            self._ending = Closed(CloseCode.PROTOCOL_ERROR, str(error))

    async def _take_messages(self) -> list[str]:
        messages: list[str] = []
        for event in self._events():
            if isinstance(event, TextMessage):
                self._size += len(event.data)
                if self._size > MAX_MESSAGE:
                    self._ending = Closed(CloseCode.TOO_BIG, f"the server sent a message over {MAX_MESSAGE} bytes")
                    break
                self._message.append(event.data)
                if event.message_finished:
                    messages.append("".join(self._message))
                    self._message, self._size = [], 0
            elif isinstance(event, Ping):
                await self._stream.send(self._ws.send(event.response()))
            elif isinstance(event, BytesMessage):
                raise NotAHub("the server sent binary data; is this an analytics hub?")
            elif isinstance(event, CloseConnection):
                await self.close(event.code)
                self._ending = Closed(event.code, event.reason or "")
                break
        return messages


def _refused(refusal: RejectConnection, body: bytes) -> Refused:
    headers = {bytes(name).lower(): bytes(value) for name, value in refusal.headers}
    after = headers.get(b"retry-after", b"")
    sentence = body.decode("utf-8", "replace").strip() if b"html" not in headers.get(b"content-type", b"") else ""
    return Refused(refusal.status_code, sentence, float(after) if after.isdigit() else None)


@asynccontextmanager
async def connect(target: Target, token: str | None) -> AsyncIterator[Socket]:
    """An open `Socket`. Certificates are checked against the system's; `SSL_CERT_FILE` names others."""
    with anyio.fail_after(TIMEOUT):
        context = ssl.create_default_context() if target.is_secure else None
        stream: ByteStream
        if context is None:
            stream = await anyio.connect_tcp(target.host, target.port)
        else:
            stream = await anyio.connect_tcp(
                target.host, target.port, ssl_context=context, tls_standard_compatible=False
            )
    async with stream:
        client = Socket(stream)
        with anyio.fail_after(TIMEOUT):
            await client.open(target, token)
        yield client


@dataclass(slots=True)
class Follower:
    """Keeps `tail` connected. `tokens` gives a token as fresh as it gets; it is asked for each connection."""

    target: Target
    tail: Tail
    tokens: Callable[[], str | None]
    emit: Callable[[Line], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep

    async def run(self) -> Ending:
        """Follow until there is no point in going on; what is returned says why."""
        token = self.tokens()
        while True:
            ending = await self._connection(token)
            if ending.delay is None:
                return ending
            used, token = token, self.tokens()
            if ending.needs_token and token == used:
                return ending
            self.emit(Line(f"{ending.sentence}; again in {ending.delay:.1f} s"))
            await self.sleep(ending.delay)

    async def _connection(self, token: str | None) -> Ending:
        url, started = self.target.url, self.clock()
        try:
            async with connect(self.target, token) as client:
                return await self._converse(client, token)
        except Closed as closed:
            return self.tail.closed(closed.code, closed.reason, self.clock() - started)
        except Refused as refused:
            return self.tail.refused(refused.status, refused.sentence, refused.retry_after)
        except NotAHub as error:
            return Ending(str(error))
        except TimeoutError:
            return self.tail.failed(f"no answer from {url}")
        except ssl.SSLCertVerificationError as error:
            return Ending(f"the certificate of {url} is not trusted: {error.verify_message}")
        except (OSError, anyio.BrokenResourceError) as error:
            return self.tail.failed(f"cannot connect to {url}: {_explain(error)}")

    async def _converse(self, client: Socket, token: str | None) -> Ending:
        tail = self.tail
        tail.connected()
        try:
            while not tail.is_idle:
                if tail.is_expiring:
                    fresh = self.tokens()
                    tail.renew(None if fresh == token else fresh)
                for command in tail.data_to_send():
                    await client.send(command)
                with anyio.fail_after(max(3 * tail.heartbeat, TIMEOUT)):
                    messages = await client.receive()
                for message in messages:
                    for line in tail.receive(message):
                        self.emit(line)
        finally:
            await client.close(CloseCode.NORMAL)
        return Ending("nothing is left to follow")


def _explain(error: BaseException) -> str:
    """The first reason of the system's: anyio tries several addresses and wraps what each of them said."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    reason = cause if isinstance(cause, OSError) else error
    if isinstance(reason, OSError) and reason.errno is not None and not isinstance(reason, gaierror):
        return os.strerror(reason.errno)  # asyncio's own text repeats the address
    return str(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)
