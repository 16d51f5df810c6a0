"""Fetches one small document over HTTP from a server that is not trusted.

No thread waits for it: the caller bounds it with a cancel scope, at the end of which the connection is closed, however
slowly the server sends. Only the system's resolver runs in a thread, as for all of anyio.
"""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import SplitResult, urlsplit

import anyio
import h11
from anyio.abc import ByteStream

from ...exceptions import KeySetError
from ...http import is_loopback

_PORTION: Final = 16 * 1024


class Source:
    """The URL of a document. Its `repr` leaves out the query, which may contain a secret."""

    def __init__(self, url: str, *, allow_http: bool = False) -> None:
        parts = _split(url)
        assert parts.hostname is not None
        self.url = url
        self.is_secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self.is_secure else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._authority = parts.netloc
        self._shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
        if not (self.is_secure or allow_http or is_loopback(self._host)):
            raise ValueError(
                f"{self} is not https, so its keys could be replaced in transit; "
                "if the network is trusted, pass allow_http=True"
            )

    def __repr__(self) -> str:
        return self._shown

    async def fetch(self, ssl_context: ssl.SSLContext | None, limit: int) -> bytes:
        """The document, of at most `limit` bytes; raises `KeySetError`.

        It has no time limit of its own, and follows no redirect.
        """
        try:
            return await self._fetch(ssl_context, limit)
        except ssl.SSLError as error:
            raise KeySetError("tls", f"TLS failed: {error.reason or type(error).__name__}") from None
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise KeySetError("connection", f"the connection failed: {type(error).__name__}") from None
        except h11.RemoteProtocolError:
            raise KeySetError("protocol", "the answer is not HTTP, or was cut short") from None

    async def _fetch(self, ssl_context: ssl.SSLContext | None, limit: int) -> bytes:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_PORTION)
        body = bytearray()
        received = 0
        stream = await self._connect(ssl_context)
        try:
            await stream.send(self._request(http))
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    try:
                        data = await stream.receive(_PORTION)
                    except anyio.EndOfStream:
                        data = b""
                    received += len(data)
                    if received > limit:
                        raise KeySetError("too-large", f"it has more than {limit} bytes")
                    http.receive_data(data)
                elif isinstance(event, h11.Response) and event.status_code != 200:
                    raise KeySetError("status", f"HTTP {event.status_code}")
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return bytes(body)
        finally:
            await anyio.aclose_forcefully(stream)

    async def _connect(self, ssl_context: ssl.SSLContext | None) -> ByteStream:
        if not self.is_secure:
            return await anyio.connect_tcp(self._host, self._port)
        # Not `standard_compatible`: the framing of HTTP shows whether something is missing.
        return await anyio.connect_tcp(
            self._host, self._port, tls=True, ssl_context=ssl_context, tls_standard_compatible=False
        )

    def _request(self, http: h11.Connection) -> bytes:
        headers = [("Host", self._authority), ("Accept", "application/json"), ("Connection", "close")]
        request = http.send(h11.Request(method="GET", target=self._target, headers=headers))
        assert request is not None
        return request + (http.send(h11.EndOfMessage()) or b"")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")  # as the resolver will
    except ValueError:
        parts, is_usable = urlsplit(""), False
    if not is_usable or "@" in parts.netloc or not (url.isascii() and url.isprintable()) or " " in url:
        raise ValueError(
            "the URL of a key set must be like https://login.example.com/.well-known/jwks.json: "
            "https, a host, no user or password, and other characters percent-encoded"
        )
    return parts
