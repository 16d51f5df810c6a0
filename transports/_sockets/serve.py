"""The life of one `serve`: listen, accept and wait on one loop until cancelled, or until the hub has drained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import anyio.abc

from ...contracts import Gateway
from ...exceptions import HubClosed
from .listener import Listener
from .listening import Place
from .loop import SelectorLoop
from .options import is_tcp
from .poller import open_poller
from .server import Server

BACKLOG: Final = 1024
"""Connections that the kernel keeps until they are accepted; it may have a lower limit of its own."""

ServerFactory = Callable[[SelectorLoop, anyio.abc.TaskGroup], Server]


async def run(
    gateway: Gateway,
    place: Place,
    make_server: ServerFactory,
    *,
    backlog: int,
    clock: Callable[[], float],
    task_status: anyio.abc.TaskStatus[int],
) -> None:
    """Serve what `make_server` returns until cancelled, or until the hub has shut down and all clients have left.

    Reports the port through `task_status`, 0 for a Unix socket. Raises `OSError` if it cannot listen, `HubClosed` for a
    hub that was never entered.
    """
    if not (gateway.is_open or gateway.is_draining):
        raise HubClosed("the hub is not running; add `async with hub:` around `serve`")
    sockets = await place.listen(backlog)
    async with anyio.create_task_group() as group:
        poller = open_poller(group)
        loop = SelectorLoop(poller, clock)
        server = make_server(loop, group)
        listeners = [Listener(loop, sock, server.connection_accepted, gateway.count) for sock in sockets]

        def is_finished() -> bool:
            if not gateway.is_draining:
                return False
            for listener in listeners:
                listener.close()
            return not server.connections

        gateway.add_gauge(server.buffered)
        try:
            task_status.started(sockets[0].getsockname()[1] if is_tcp(sockets[0]) else 0)
            await loop.run(is_finished)
        finally:
            for listener in listeners:
                listener.close()
            server.close()
            poller.close()
        group.cancel_scope.cancel()
