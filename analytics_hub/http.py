"""The plain HTTP next to the socket, as pure functions from a request to a response.

A transport parses and writes; the answer is decided here, so that all transports give the same. A part returns None
for a path that it does not serve; `compose` calls the parts in turn, and a transport answers 404 to None.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol, TypeAlias

import msgspec

Headers: TypeAlias = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole. `headers` have lower-case names; `path` is as sent, without the query.

    `repr` shows neither query, headers nor body: each may hold a token or a password.
    """

    method: str
    path: str
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """One response. The transport adds `Content-Length`, and to a HEAD request sends the head alone."""

    status: int
    body: bytes = field(default=b"", repr=False)
    content_type: str = "text/plain; charset=utf-8"
    headers: Headers = ()


Respond: TypeAlias = Callable[[Request], Response | None]
Handler: TypeAlias = Callable[[Request], Response]


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without port or brackets, can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


MAX_BODY: Final = 144 * 1024
"""Maximum bytes in the body of a request: the largest item that any tuning allows, 128 KiB, and its envelope."""

NO_STORE: Final = ("Cache-Control", "no-store")
"""In every answer of the hub: caches may keep a 404 or a 405 that has no such header (RFC 9110 §15.1)."""
NO_SNIFF: Final = ("X-Content-Type-Options", "nosniff")
RETRY_SOON: Final = ("Retry-After", "1")


def compose(*parts: Respond) -> Respond:
    """The first answer that is not None."""

    def respond(request: Request) -> Response | None:
        for part in parts:
            if (response := part(request)) is not None:
                return response
        return None

    return respond


def route(path: str, methods: Mapping[str, Handler]) -> Respond:
    """Answers `path`, by method; HEAD is served by GET's handler, and other methods get 405 with `Allow`."""
    handlers = dict(methods)
    if "GET" in handlers:
        handlers.setdefault("HEAD", handlers["GET"])
    allowed = ", ".join(sorted(handlers))

    def respond(request: Request) -> Response | None:
        if request.path != path:
            return None
        if (handler := handlers.get(request.method)) is None:
            message = f"the method is {request.method}; {path} allows {allowed}"
            return text_response(HTTPStatus.METHOD_NOT_ALLOWED, message, [("Allow", allowed)])
        return handler(request)

    return respond


def text_response(status: int, message: str, headers: Headers = ()) -> Response:
    """A line of text for people, with headers against caching and content sniffing."""
    return Response(status, f"{message}\n".encode(), headers=(NO_STORE, NO_SNIFF, *headers))


def json_response(status: int, value: object, headers: Headers = ()) -> Response:
    """`value` as JSON, with headers against caching and content sniffing."""
    return Response(status, msgspec.json.encode(value) + b"\n", "application/json", (NO_STORE, NO_SNIFF, *headers))


def error_response(status: int, code: str, message: str, headers: Headers = ()) -> Response:
    """An error in the form of all the hub's own answers: a `code` for programs and a message for people."""
    return json_response(status, {"error": {"code": code, "message": message}}, headers)


class _Drainable(Protocol):
    @property
    def is_draining(self) -> bool: ...


def respond_health(hub: _Drainable) -> Respond:
    """`/healthz`: 200 while the hub accepts clients, and 503 once it drains, so that a balancer sends no more."""

    def health(request: Request) -> Response:
        if hub.is_draining:
            return json_response(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "draining"})
        return json_response(HTTPStatus.OK, {"status": "ok"})

    return route("/healthz", {"GET": health})


_INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def respond_page(path: str, html: str) -> Respond:
    """`html` at `path`: one document, of which only its own inline `<script>` and `<style>` may run.

    The policy has their hashes, so a script that was injected into the page does not run.
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(hashes["script"]) or "'none'",
        "style-src": " ".join(hashes["style"]) or "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    response = Response(
        HTTPStatus.OK,
        html.encode(),
        "text/html; charset=utf-8",
        (
            ("Content-Security-Policy", "; ".join(f"{name} {value}" for name, value in policy.items())),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-cache"),
            NO_SNIFF,
        ),
    )
    return route(path, {"GET": lambda request: response})
