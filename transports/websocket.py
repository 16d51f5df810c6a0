"""The `websocket` transport: RFC 6455 on sockets of its own, and plain HTTP next to it on the same port.

One task waits on one selector for all clients; frames leave with a direct `send` from the hub's flush. There is no
task, no stream and no decoder for a client that only listens. `_sockets` is what it shares with `tcp`, `_websocket`
what it adds, `_http` the hub's own HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import anyio
import anyio.abc

from ..http import Respond
from ..hub import Hub
from ._http.endpoints import Endpoints
from ._origins import Origins
from ._sockets.limits import Limits
from ._sockets.loop import SelectorLoop
from ._sockets.serve import BACKLOG, run
from ._websocket.deflate import Compression
from ._websocket.request import HTTPProtocol
from ._websocket.server import WebSocketServer
from .tls import Certificate, CertificateError, Security, using


async def serve(
    hub: Hub,
    host: str = "127.0.0.1",
    port: int = 7999,
    *,
    path: str = "/ws/analytics",
    respond: Respond | None = None,
    ssl_context: Security | None = None,
    origins: Collection[str] | None = None,
    requires_origin: bool = False,
    has_endpoints: bool = True,
    compression: bool | Compression = False,
    limits: Limits | None = None,
    backlog: int = BACKLOG,
    clock: Callable[[], float] = time.monotonic,
    task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSocket clients of `hub` at `path` until cancelled, or until the hub has shut down and all have left.

    Reports the port through `task_status`, which with `port=0` is a free one. On the same port the hub answers HTTP
    itself (`has_endpoints`): `/events`, `/commands`, `/publish`, `/asyncapi.json` and `/healthz`; `respond` answers for
    other paths. `origins` are those of pages that may connect besides pages at the host and port of the server itself,
    such as `https://dashboard.example.com`; clients that are no browsers send none and are let in, unless
    `requires_origin`. `ssl_context` is a `Certificate`, or a context of your own. With `compression`, clients that
    offer permessage-deflate get compressed frames, each compressed once for all of them. Raises `OSError` if it cannot
    listen.
    """
    pages = Origins(origins or (), required=requires_origin)
    if not isinstance(compression, (bool, Compression)):
        raise TypeError(f"compression must be True, False or Compression(...), not {compression!r}")
    gateway = hub.gateway
    options = Compression() if compression is True else compression or None

    def make_server(loop: SelectorLoop, group: anyio.abc.TaskGroup) -> WebSocketServer:
        return WebSocketServer(
            gateway, loop, group, HTTPProtocol,
            path=path, respond=respond, ssl_context=ssl_context, origins=pages,
            endpoints=Endpoints(gateway, origins=pages) if has_endpoints else None,
            limits=limits or Limits(), compression=options,
        )  # fmt: skip

    with using(ssl_context, gateway.count):
        await run(gateway, host, port, make_server, backlog=backlog, clock=clock, task_status=task_status)


__all__ = ["Certificate", "CertificateError", "Compression", "Limits", "serve"]
