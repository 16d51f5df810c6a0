"""The `websocket` transport: RFC 6455 on sockets of its own, and plain HTTP next to it on the same port.

One task waits on one selector for all clients; frames leave with a direct `send` from the hub's flush. There is no
task, no stream and no decoder for a client that only listens. From the outside in: `_poller` and `_selector` wait and
call, `_listener` accepts, `_stream` reads and writes one socket (none of them knows WebSocket); `_incoming` serves the
request that comes first, with `_exchange` (HTTP) and `_handshake` (the upgrade); `_connection` is one client, with
`_frames` (wsproto).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Collection
from typing import Final

import anyio
import anyio.abc

from ..http import Respond
from ..hub import Hub
from ._listener import Listener, bind
from ._poller import open_poller
from ._selector import SelectorLoop
from ._server import Limits, Server

BACKLOG: Final = 1024
"""Connections that the kernel keeps until they are accepted; it may have a lower limit of its own."""


async def serve(
    hub: Hub,
    host: str = "127.0.0.1",
    port: int = 7999,
    *,
    path: str = "/ws/analytics",
    respond: Respond | None = None,
    ssl_context: ssl.SSLContext | None = None,
    origins: Collection[str] | None = None,
    limits: Limits | None = None,
    backlog: int = BACKLOG,
    clock: Callable[[], float] = time.monotonic,
    task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSocket clients of `hub` at `path` until cancelled, or until the hub has shut down and all have left.

    Reports the port through `task_status`, which with `port=0` is a free one. `respond` answers HTTP requests for other
    paths. `origins` are those of pages that may connect besides pages at the host and port of the server itself, such
    as `https://dashboard.example.com`; clients that are no browsers send none and are let in. Raises `OSError` if it
    cannot listen.
    """
    if isinstance(origins, str):
        raise TypeError(f"origins must be a list of origins, not the text {origins!r}")
    sockets = await bind(host, port, backlog)
    async with anyio.create_task_group() as group:
        poller = open_poller(group)
        loop = SelectorLoop(poller, clock)
        server = Server(
            hub, loop, group,
            path=path, respond=respond, ssl_context=ssl_context, origins=origins or (), limits=limits or Limits(),
        )  # fmt: skip
        listeners = [Listener(loop, sock, server.accepted, hub.count) for sock in sockets]

        def is_finished() -> bool:
            if not hub.is_draining:
                return False
            for listener in listeners:
                listener.close()
            return not server.streams

        try:
            task_status.started(sockets[0].getsockname()[1])
            await loop.run(is_finished)
        finally:
            for listener in listeners:
                listener.close()
            server.close()
            poller.close()
        group.cancel_scope.cancel()


__all__ = ["Limits", "serve"]
