"""Reads ASGI scopes, whatever the server: the path below the mount, the peer, and the token, which is removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from ...http import Response
from ...protocol.credentials import strip_query

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_BREAKS: Final = frozenset(b"\r\n\0")


def pop_query(scope: Scope) -> str:
    """The query of the request; its tokens are removed from the scope.

    The scope itself is changed, because servers write their access logs from it, mostly after the application has
    answered.
    """
    raw: bytes = scope.get("query_string", b"")
    query = raw.decode("latin-1")
    if b"oken" in raw.lower() or b"%" in raw:
        scope["query_string"] = strip_query(query).encode("latin-1")
    path: bytes = scope.get("raw_path") or b""
    if b"?" in path:  # some servers include the query, against the specification
        scope["raw_path"] = path.partition(b"?")[0]
    return query


def find_path(scope: Scope) -> str:
    """The path below the mount of the application, with a leading slash and without a trailing one.

    Most hosts keep the full path and put the mount into `root_path`; Litestar removes the mount from the path without
    a trace; Channels puts the rest into `path_remaining`.
    """
    path: str = scope.get("path", "")
    root = str(scope.get("root_path", "")).rstrip("/")
    if "path_remaining" in scope:
        path = scope["path_remaining"]
    elif root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return "/" + path.strip("/")


def read_headers(scope: Scope) -> dict[str, str]:
    """The headers with lower-case names; repeated ones are joined, as HTTP allows."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope.get("headers", ()):
        name, value = bytes(raw_name).decode("latin-1").lower(), bytes(raw_value).decode("latin-1")
        if name in headers:
            value = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{value}"
        headers[name] = value
    return headers


def encode_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """`headers` in the form of ASGI. Raises `ValueError` for a line break, which not every server refuses."""
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    for name, value in encoded:
        if not _BREAKS.isdisjoint(name + value):
            raise ValueError("a header contains a line break")
    return encoded


def encode_head(response: Response) -> list[tuple[bytes, bytes]]:
    """The headers of `response`. Raises as `encode_headers` does."""
    headers = [*response.headers]
    if response.status != HTTPStatus.NO_CONTENT:  # where headers about content are not allowed (RFC 9110 §8.6)
        headers += [("content-type", response.content_type), ("content-length", str(len(response.body)))]
    return encode_headers(headers)


def find_client(scope: Scope) -> str | None:
    """The peer's address as text; servers on Unix sockets have none, or an empty one."""
    client = scope.get("client")
    return str(client[0]) if client and client[0] else None


def is_secure(scope: Scope) -> bool:
    return scope.get("scheme") in ("https", "wss")
