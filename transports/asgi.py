"""The `asgi` transport: the hub as an ASGI 3 application, for every server and framework that speaks it.

The convenient transport: it shares port, TLS and middleware with the application that mounts it. What it cannot do is
see its sockets, so it knows of a slow client only what the server's `send` or the client's own `seen` tells.
Its parts are in `_asgi`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from ..http import Respond
from ..hub import Hub
from ._abilities import Abilities
from ._asgi.app_state import AppState, Limits
from ._asgi.http import serve_http
from ._asgi.lifespan import serve_lifespan
from ._asgi.scope import find_path
from ._asgi.websocket import serve_websocket
from ._http.endpoints import Endpoints
from ._origins import Origins

ABILITIES: Final = Abilities(
    transport="asgi",
    formats=("JSON", "MessagePack"),
    has_handshake=True,
    refuses_with_status=True,
    takes_commands=True,
    tells_binary=True,
    shows_heartbeats=True,
    has_close_codes=True,
    feels_slowness=False,
    ends_silence=False,
    compresses="the server, for each client",
)


class HubApp:
    """Serves `hub` wherever it is mounted: `app.mount("/hub", HubApp(hub))`, or as the application itself.

    WebSockets connect at `path` below the mount, or anywhere below it. HTTP: what `_http` answers, and `respond`
    for other paths. `origins` are those of pages that may connect besides pages at the host and port that the request
    names; with `requires_origin` nobody else may. Few hosts pass their lifespan on to what they mount, so
    `async with hub:` belongs into theirs; where this is the root, it enters the hub itself.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        path: str | None = None,
        respond: Respond | None = None,
        origins: Collection[str] | None = None,
        requires_origin: bool = False,
        limits: Limits | None = None,
    ) -> None:
        pages = Origins(origins or (), required=requires_origin)
        self._desk = AppState(hub, pages, limits or Limits())
        self._endpoints = Endpoints(hub, respond=respond, origins=pages, turn=lambda: self._desk.checks)
        self._path = None if path is None else "/" + path.strip("/")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # every framework types these its own way
        if scope["type"] == "websocket":
            is_here = self._path is None or find_path(scope) == self._path
            await serve_websocket(self._desk, scope, receive, send, is_here=is_here)
        elif scope["type"] == "http":
            await serve_http(self._desk, self._endpoints, scope, receive, send)
        elif scope["type"] == "lifespan":
            await serve_lifespan(self._desk.hub, receive, send)
        else:
            raise ValueError(f"scope type {scope['type']!r}; this application serves websocket, http and lifespan")


__all__ = ["ABILITIES", "HubApp", "Limits"]
