"""The `tcp` transport: newline-delimited JSON for services and terminals, on the loop of the `websocket` transport.

Each line of the client is a command or an array of them, each line of the server an array of items. The first command
is `auth`, unless the hub is open to anonymous clients. The last item is `$close`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import anyio.abc

from ..hub import Hub
from ._sockets.loop import SelectorLoop
from ._sockets.serve import BACKLOG, run
from ._tcp.protocol import PendingLineProtocol
from ._tcp.server import Limits, LineServer
from .tls import Certificate, CertificateError, Security, using


async def serve(
    hub: Hub,
    host: str = "127.0.0.1",
    port: int = 7998,
    *,
    ssl_context: Security | None = None,
    limits: Limits | None = None,
    backlog: int = BACKLOG,
    clock: Callable[[], float] = time.monotonic,
    task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve TCP clients of `hub` until cancelled, or until the hub has shut down and all have left.

    Reports the port through `task_status`; `port=0` chooses a free one. Tokens are sent as plain text, so clients on
    other machines need TLS: `ssl_context` is a `Certificate`, or a context of your own. Raises `OSError` if it cannot
    listen.
    """

    def make_server(loop: SelectorLoop, group: anyio.abc.TaskGroup) -> LineServer:
        limit = limits or Limits()
        return LineServer(gateway, loop, group, PendingLineProtocol, ssl_context=ssl_context, limits=limit)

    gateway = hub.gateway
    with using(ssl_context, gateway.count):
        await run(gateway, host, port, make_server, backlog=backlog, clock=clock, task_status=task_status)


__all__ = ["Certificate", "CertificateError", "Limits", "serve"]
