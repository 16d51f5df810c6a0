"""The `websocket` transport: RFC 6455 on sockets of its own, and plain HTTP on the same port.

One task waits on one selector for all clients; frames are sent with a direct `send` from the hub's flush. A client that
only listens has no task, no stream and no decoder. `_sockets` is shared with `tcp`, `_websocket` is what this transport
adds, and `_http` the hub's own HTTP.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Sequence
from os import PathLike

import anyio
import anyio.abc

from ..http import Respond
from ..hub import Hub
from ._http.endpoints import Endpoints
from ._origins import Origins
from ._sockets.limits import Limits
from ._sockets.listening import Place, systemd_sockets
from ._sockets.loop import SelectorLoop
from ._sockets.serve import BACKLOG, run
from ._websocket.deflate import Compression
from ._websocket.request import HTTPProtocol
from ._websocket.server import WebSocketServer
from .tls import Certificate, CertificateError, Security, using


async def serve(
    hub: Hub,
    host: str = "localhost",
    port: int = 7999,
    *,
    uds: str | PathLike[str] | None = None,
    fd: int | None = None,
    sock: socket.socket | Sequence[socket.socket] | None = None,
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

    The server listens on `host` and `port`; `localhost` is 127.0.0.1 and ::1, where there is one. Instead it may listen
    on a Unix socket at the path `uds`, on the listening descriptor `fd`, which stays open, or on `sock`, one or several
    sockets, which are closed at the end. Reports the port through `task_status`, 0 for a Unix socket; `port=0` chooses
    a free one. Raises `OSError`, with a sentence, if it cannot listen.

    On the same port the hub answers HTTP itself (`has_endpoints`): `/events`, `/commands`, `/publish`, `/ticket`,
    `/asyncapi.json` and `/healthz`; `respond` answers for other paths. `origins` are the pages that may connect besides
    those at the host and port of the server itself, such as `https://dashboard.example.com`, or `"every-site"` if all
    data is public; clients other than browsers send none and are admitted, unless `requires_origin`. `ssl_context` is a
    `Certificate`, or a context of your own. With `compression`, clients that offer permessage-deflate receive
    compressed frames, each compressed once for all of them.
    """
    pages = Origins(origins or (), required=requires_origin)
    if not isinstance(compression, (bool, Compression)):
        raise TypeError(f"compression is {compression!r}; it must be True, False or Compression(...)")
    gateway = hub.gateway
    place = Place(host=host, port=port, uds=uds, fd=fd, sock=sock)
    options = Compression() if compression is True else compression or None

    def make_server(loop: SelectorLoop, group: anyio.abc.TaskGroup) -> WebSocketServer:
        return WebSocketServer(
            gateway, loop, group, HTTPProtocol,
            path=path, respond=respond, ssl_context=ssl_context, origins=pages,
            endpoints=Endpoints(gateway, origins=pages) if has_endpoints else None,
            limits=limits or Limits(), compression=options,
        )  # fmt: skip

    with using(ssl_context, gateway.count):
        await run(gateway, place, make_server, backlog=backlog, clock=clock, task_status=task_status)


__all__ = ["Certificate", "CertificateError", "Compression", "Limits", "serve", "systemd_sockets"]
