"""What an ASGI scope says, whoever made it: where we are mounted, who calls, and the token that nobody else may see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, TypeAlias

from ...auth import strip_query

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_BREAKS: Final = frozenset(b"\r\n\0")


def take_query(scope: Scope) -> str:
    """The query of the request; afterwards the scope has none of its tokens.

    The scope itself is changed, because servers write their access logs from it, mostly after the application has
    answered.
    """
    raw: bytes = scope.get("query_string", b"")
    query = raw.decode("latin-1")
    if b"oken" in raw.lower() or b"%" in raw:
        scope["query_string"] = strip_query(query).encode("latin-1")
    path: bytes = scope.get("raw_path") or b""
    if b"?" in path:  # the specification says without the query, and not everyone has read that
        scope["raw_path"] = path.partition(b"?")[0]
    return query


def find_path(scope: Scope) -> str:
    """The path below the place where the application is mounted, with a slash before it and none after it.

    Most hosts leave the path whole and put the mount into `root_path`; Litestar cuts the path and says nothing;
    Channels puts what is left into `path_remaining`.
    """
    path: str = scope.get("path", "")
    root = str(scope.get("root_path", "")).rstrip("/")
    if "path_remaining" in scope:
        path = scope["path_remaining"]
    elif root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return "/" + path.strip("/")


def read_headers(scope: Scope) -> dict[str, str]:
    """The headers with lower-case names; what came several times is joined, as HTTP allows."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope.get("headers", ()):
        name, value = bytes(raw_name).decode("latin-1").lower(), bytes(raw_value).decode("latin-1")
        if name in headers:
            value = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{value}"
        headers[name] = value
    return headers


def encode_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """`headers` as ASGI has them. Raises `ValueError` for one that would end its line: not every server looks."""
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    for name, value in encoded:
        if not _BREAKS.isdisjoint(name + value):
            raise ValueError("a header holds a line break")
    return encoded


def find_client(scope: Scope) -> str | None:
    """The peer's address as text; servers on Unix sockets have none, or an empty one."""
    client = scope.get("client")
    return str(client[0]) if client and client[0] else None


def is_secure(scope: Scope) -> bool:
    return scope.get("scheme") in ("https", "wss")
