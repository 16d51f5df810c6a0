"""The `asgi` transport: the hub as an ASGI 3 application, for every server and framework that supports ASGI.

The convenient transport: it shares port, TLS and middleware with the application that mounts it. It cannot see its
sockets, so it notices a slow client only by the server's `send` or the client's own `seen`. Its parts are in `_asgi`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..http import Respond
from ..hub import Hub
from ._asgi.app_state import AppState, Limits
from ._asgi.http import serve_http
from ._asgi.lifespan import WithLifespan, serve_lifespan
from ._asgi.scope import find_path
from ._asgi.websocket import serve_websocket
from ._http.endpoints import Endpoints
from ._origins import Origins


class HubApp:
    """Serves `hub` wherever it is mounted: `app.mount("/hub", HubApp(hub))`, or as the application itself.

    WebSockets connect at `path` below the mount, or anywhere below it. HTTP: the paths of `docs/protocol.md` §14, and
    `respond` for other paths. `origins` are those of pages that may connect besides pages at the host and port that
    the request names, or `"every-site"` if all data is public; with `requires_origin` only pages may. Few hosts pass
    their lifespan on to what they mount, so `async with hub:` belongs into theirs; where this is the root, it enters
    the hub itself. Under servers that have no lifespan, the application is wrapped in `WithLifespan`.
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
        self._pages = Origins(origins or (), required=requires_origin)
        self._limits = limits or Limits()
        self._hub = hub
        self._life = hub.gateway.life
        self._state = AppState(hub.gateway, self._pages, self._limits)
        self._endpoints = Endpoints(
            hub.gateway, respond=respond, origins=self._pages, limiter=lambda: self._state.checks
        )
        self._path = None if path is None else "/" + path.strip("/")

    def _current_state(self) -> AppState:
        """The state of this life of the hub. Connections of an earlier one keep theirs, which counts them."""
        if self._life != self._hub.gateway.life:
            self._life = self._hub.gateway.life
            self._state = AppState(self._hub.gateway, self._pages, self._limits)
        return self._state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # every framework has its own types of these
        if scope["type"] == "websocket":
            is_found = self._path is None or find_path(scope) == self._path
            await serve_websocket(self._current_state(), scope, receive, send, is_found=is_found)
        elif scope["type"] == "http":
            await serve_http(self._current_state(), self._endpoints, scope, receive, send)
        elif scope["type"] == "lifespan":
            await serve_lifespan(self._hub, receive, send)
        else:
            raise ValueError(f"scope type {scope['type']!r}; this application serves websocket, http and lifespan")


__all__ = ["HubApp", "Limits", "WithLifespan"]
