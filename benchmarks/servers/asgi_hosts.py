"""An ASGI application under each of the measured servers, in this process, on a port of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

Application = Callable[[dict[str, Any], Any, Any], Any]

BACKLOG: Final = 4096
UVICORN: Final = {
    "uvicorn": "websockets-sansio",  # what `--ws auto` chooses
    "uvicorn-websockets": "websockets",
    "uvicorn-wsproto": "wsproto",
}


def listen() -> socket.socket:
    # asyncio disables Nagle's algorithm only for sockets created with this protocol; otherwise delayed
    # acknowledgements cause a p99 of 42 ms.
    sock = socket.socket(proto=socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(BACKLOG)
    return sock


def host(app: Application, server: str, ready: Callable[[int], None]) -> None:
    """Run `app` under `server` until it ends; `ready` is called with the port before that."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # uvicorn warns about its older implementation
    if server in UVICORN:
        _uvicorn(app, UVICORN[server], ready)
    elif server == "granian":
        _granian(app, ready)
    elif server == "daphne":
        _daphne(app, ready)
    else:
        _hypercorn(app, server, ready)


def _uvicorn(app: Application, ws: str, ready: Callable[[int], None]) -> None:
    import uvicorn

    sock = listen()
    ready(sock.getsockname()[1])
    config = uvicorn.Config(app, ws=ws, loop="asyncio", lifespan="on", log_config=None, backlog=BACKLOG)
    uvicorn.Server(config).run(sockets=[sock])


def _hypercorn(app: Application, server: str, ready: Callable[[int], None]) -> None:
    from hypercorn.config import Config

    sock = listen()
    ready(sock.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{sock.detach()}"]
    config.errorlog = None
    config.backlog = BACKLOG
    if server == "hypercorn-trio":
        import trio
        from hypercorn.trio import serve as serve_trio

        trio.run(lambda: serve_trio(app, config))  # type: ignore[arg-type]
    else:
        from hypercorn.asyncio import serve

        asyncio.run(serve(app, config))  # type: ignore[arg-type]


def _free_port() -> int:
    with closing(listen()) as sock:
        port: int = sock.getsockname()[1]
        return port


def _granian(app: Application, ready: Callable[[int], None]) -> None:
    from granian.constants import Interfaces
    from granian.server.embed import Server

    port = _free_port()

    async def serve() -> None:
        await Server(app, port=port, interface=Interfaces.ASGI, log_enabled=False, backlog=BACKLOG).serve()

    threading.Thread(target=_when_open, args=(port, ready), daemon=True).start()
    asyncio.run(serve())


def _when_open(port: int, ready: Callable[[int], None]) -> None:
    """For a server that does not report when it listens."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            ready(port)
            return


def _daphne(app: Application, ready: Callable[[int], None]) -> None:
    from daphne.server import Server

    port = _free_port()
    Server(app, [f"tcp:{port}:interface=127.0.0.1:backlog={BACKLOG}"], ready_callable=lambda: ready(port)).run()
