"""One HTTP exchange, without I/O: bytes in, one checked request out, one answer in, bytes out.

h11 parses and writes. Bounds of our own come before it, because h11 limits only a head that is still incomplete, and
checks of input that h11 accepts and wsproto fails on. A connection serves one request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import h11

from ...http import MAX_BODY, Headers, Request, Response, text_response
from .._sockets.limits import MAX_HEAD

# nginx allows 4 x 8 KiB by default, uvicorn 64 KiB while incomplete, `websockets` 8 KiB a line and 128 headers.
MAX_HEADERS: Final = 100
MAX_PIECES: Final = 4096
"""Chunks of a body, or portions in which it is received: h11 takes 5 µs for each, so one byte in each is a flood."""

# Headers of which a request may have one: programs differ in which of two they use.
_ONCE: Final = {
    *("authorization", "content-length", "content-type", "host", "origin"),
    *("sec-websocket-key", "sec-websocket-version", "transfer-encoding"),
}
_HEAD_END: Final = b"\r\n\r\n"


class RequestError(Exception):
    """The request is refused, with this `response`."""

    def __init__(self, message: str, status: int = HTTPStatus.BAD_REQUEST, headers: Headers = ()) -> None:
        super().__init__(message)
        self.response = text_response(status, message, headers)


@dataclass(slots=True)
class _Incomplete:
    """A request without the rest of its body."""

    request: Request
    body: bytearray
    pieces: int = 0


class Exchange:
    """Call `receive` until it returns the request, then `answer`, `begin_stream` or `switch_protocols`."""

    def __init__(self, max_head: int = MAX_HEAD) -> None:
        self._max_head = max_head
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head)
        self._head = bytearray()
        self._incomplete: _Incomplete | None = None
        self._method = "GET"
        self.http_version = "1.1"
        self.request: Request | None = None
        """The request without its body, once its head is complete: also if the body is refused."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was received yet."""
        return not self._head and self._incomplete is None

    @property
    def trailing(self) -> bytes:
        """Bytes received after the request."""
        return self._http.trailing_data[0]

    def receive(self, data: bytes) -> Request | None:
        """The request, once it is complete; raises `RequestError`."""
        if self._incomplete is None:
            searched = max(0, len(self._head) - len(_HEAD_END) + 1)
            self._head += data
            _check_start(self._head)
            end = self._head.find(_HEAD_END, searched)
            _check_size(self._head, end, self._max_head)
            if end < 0:
                return None
            _check_lines(bytes(self._head[:end]))
            data, self._head = bytes(self._head), bytearray()
        try:
            self._http.receive_data(data)
            return self._next()
        except h11.RemoteProtocolError as error:
            # The hint is 501 for unknown transfer codings; a mistake of the peer must not be a 5xx of ours.
            status = error.error_status_hint if error.error_status_hint < 500 else HTTPStatus.BAD_REQUEST
            raise RequestError("this is not a request as in RFC 9112", status) from error

    def _next(self) -> Request | None:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._incomplete = _Incomplete(self._begin(event), bytearray())
            elif isinstance(event, h11.Data):
                assert self._incomplete is not None
                self._incomplete.body += event.data
                self._incomplete.pieces += 1
                _check_body(len(self._incomplete.body))
                if self._incomplete.pieces > MAX_PIECES:
                    raise RequestError(f"a body may have at most {MAX_PIECES} pieces")
            elif isinstance(event, h11.EndOfMessage):
                assert self._incomplete is not None
                return replace(self._incomplete.request, body=bytes(self._incomplete.body))
            else:
                return None

    def _begin(self, event: h11.Request) -> Request:
        self.http_version = event.http_version.decode()
        self._method = event.method.decode()
        if self.http_version not in ("1.0", "1.1"):
            raise RequestError("this port uses HTTP/1.1")
        headers: dict[str, str] = {}
        for raw_name, raw_value in event.headers:
            name, value = raw_name.decode(), raw_value.decode()
            if name in headers:
                if name in _ONCE:
                    raise RequestError(f"the header {name} is repeated")
                value = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{value}"
            headers[name] = value
        if "content-length" in headers and "transfer-encoding" in headers:
            raise RequestError("Content-Length and Transfer-Encoding exclude each other")
        path, query = _split(event.target.decode())
        self.request = Request(self._method, path, query, headers)
        _check_body(int(headers.get("content-length", "0")))
        return self.request

    def encode_continue(self) -> bytes:
        """`100 Continue`, if the client waits for it before it sends its body; otherwise nothing."""
        if not self._http.they_are_waiting_for_100_continue:
            return b""
        return self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    def answer(self, response: Response) -> bytes:
        """The bytes of `response`, after which the connection ends. Raises `LocalProtocolError` if it is invalid."""
        headers = [("Date", formatdate(usegmt=True)), ("Connection", "close"), *response.headers]
        if response.status != HTTPStatus.NO_CONTENT:  # which may not have headers about content (RFC 9110 §8.6)
            headers += [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        reason = HTTPStatus(response.status).phrase if response.status in _STATUSES else ""
        head = self._http.send(h11.Response(status_code=response.status, headers=headers, reason=reason))
        return (head or b"") + (b"" if self._method == "HEAD" else response.body)

    def begin_stream(self, content_type: str, headers: Headers) -> bytes:
        """The head of an answer without a length: the end of the connection ends it, also for HTTP/1.0 clients.

        h11 would use chunks, and frames that all clients share cannot be framed as chunks.
        """
        lines = [
            "HTTP/1.1 200 OK",
            f"Date: {formatdate(usegmt=True)}",
            "Connection: close",
            f"Content-Type: {content_type}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def switch_protocols(self, headers: Headers) -> bytes:
        """The bytes of `101 Switching Protocols`, after which the other protocol begins."""
        response = h11.InformationalResponse(status_code=101, headers=[*headers], reason="Switching Protocols")
        return self._http.send(response) or b""


_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)


def _check_start(head: bytearray) -> None:
    # A TLS client on the plain port begins with 0x16, and sends nothing more before it is answered.
    if head and not 0x21 <= head[0] <= 0x7E:
        raise RequestError("this port uses HTTP/1.1")


def _check_size(head: bytearray, end: int, limit: int) -> None:
    if (len(head) if end < 0 else end) <= limit:
        return
    if head.find(b"\r\n", 0, limit + 2) < 0:
        raise RequestError(f"a request line may have at most {limit} bytes", HTTPStatus.REQUEST_URI_TOO_LONG)
    message = f"a request line and headers may have at most {limit} bytes"
    raise RequestError(message, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


def _check_lines(head: bytes) -> None:
    if not head.isascii():
        raise RequestError("a request line and headers must be ASCII")
    headers = head.split(b"\r\n")[1:]
    if len(headers) > MAX_HEADERS:
        raise RequestError(f"there may be at most {MAX_HEADERS} headers", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    # h11 accepts a bare line feed as the end of a line and unfolds lines; proxies differ (RFC 9112 §2.2, §5.2).
    if b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b""):
        raise RequestError("lines must end in CR LF")
    if any(line[:1] in (b" ", b"\t") for line in headers):
        raise RequestError("a header must be one line")


def _check_body(length: int) -> None:
    if length > MAX_BODY:
        raise RequestError(f"a body may have at most {MAX_BODY} bytes", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def _split(target: str) -> tuple[str, str]:
    """Path and query of a request target, which may also be a whole URL (RFC 9112 §3.2.2)."""
    if not target.startswith("/"):
        try:
            parts = urlsplit(target)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
            raise RequestError("the request target must be a path")
        return parts.path or "/", parts.query
    path, _, query = target.partition("?")
    return path, query
