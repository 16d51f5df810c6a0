"""The `tcp` transport: newline-delimited JSON for services and terminals, on the loop of the `websocket` transport.

Each line of the client is a command or an array of them, each line of the server an array of items. The first command
is `auth`, unless the hub is open to anonymous clients. The last item is `$close`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from os import PathLike

import anyio
import anyio.abc

from ..hub import Hub
from ._sockets.listening import Place, systemd_sockets
from ._sockets.loop import SelectorLoop
from ._sockets.serve import BACKLOG, run
from ._tcp.protocol import PendingLineProtocol
from ._tcp.server import Limits, LineServer
from .tls import Certificate, CertificateError, Security, using


async def serve(
    hub: Hub,
    host: str = "localhost",
    port: int = 7998,
    *,
    uds: str | PathLike[str] | None = None,
    fd: int | None = None,
    sock: socket.socket | Sequence[socket.socket] | None = None,
    ssl_context: Security | None = None,
    limits: Limits | None = None,
    backlog: int = BACKLOG,
    clock: Callable[[], float] = time.monotonic,
    task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve TCP clients of `hub` until cancelled, or until the hub has shut down and all have left.

    The server listens on `host` and `port`; `localhost` is 127.0.0.1 and ::1, where there is one. Instead it may listen
    on a Unix socket at the path `uds`, on the listening descriptor `fd`, which stays open, or on `sock`, one or several
    sockets, which are closed at the end. Reports the port through `task_status`, 0 for a Unix socket; `port=0` chooses
    a free one. Raises `OSError`, with a sentence, if it cannot listen.

    Tokens are sent as plain text, so clients on other machines need TLS: `ssl_context` is a `Certificate`, or a context
    of your own.
    """

    def make_server(loop: SelectorLoop, group: anyio.abc.TaskGroup) -> LineServer:
        limit = limits or Limits()
        return LineServer(gateway, loop, group, PendingLineProtocol, ssl_context=ssl_context, limits=limit)

    gateway = hub.gateway
    place = Place(host=host, port=port, uds=uds, fd=fd, sock=sock)
    with using(ssl_context, gateway.count):
        await run(gateway, place, make_server, backlog=backlog, clock=clock, task_status=task_status)


__all__ = ["Certificate", "CertificateError", "Limits", "serve", "systemd_sockets"]
