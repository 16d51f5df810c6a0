"""Closes the clients of an application when its server wants to stop."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from ...codes import CloseCode
from .host_server import HostServer, find_server, running_loop

POLL: Final = 0.1
"""Seconds between two looks at the server while there are clients; uvicorn looks at its own sign as often."""
REASON: Final = "the server restarts"


class WatchedClient(Protocol):
    """A client of the application."""

    is_response: bool
    """Whether it is served by a response, which its server waits for."""

    @property
    def buffered(self) -> int:
        """Bytes that wait for the server."""
        ...

    def close(self, code: int, reason: str) -> None: ...


class ServerWatch:
    """The clients, and while there are any, a timer that looks at the server."""

    __slots__ = ("_is_polling", "_loop", "_server", "clients")

    def __init__(self) -> None:
        self.clients: dict[WatchedClient, None] = {}
        self._server: HostServer | None = None
        self._loop: object = None
        self._is_polling = False

    @property
    def server(self) -> HostServer:
        """The server that runs the application. To be asked in the task of a connection."""
        loop, server = running_loop(), self._server
        if server is None or self._loop is not loop or (server.is_stopping and not server.ends_process):
            server = find_server()
            self._server, self._loop = server, loop
            self._is_polling = False  # the timer of the server before it ends
        return server

    def add(self, client: WatchedClient) -> None:
        """Watch the server for a client, until it is removed. To be called in the task of its connection."""
        server = self.server
        self.clients[client] = None
        server.clients_connected()
        if not self._is_polling:
            self._is_polling = True
            self._start_polling(server)
        self._check(server)

    def remove(self, client: WatchedClient) -> None:
        self.clients.pop(client, None)
        if not self.clients and self._server is not None:
            self._server.clients_left()

    def _check(self, server: HostServer) -> None:
        if server.is_stopping:
            for client in list(self.clients):
                if client.is_response or not server.closes_websockets:
                    client.close(CloseCode.SERVICE_RESTART, REASON)

    def _poll(self, server: HostServer) -> bool:
        """Look at the server; whether to do so again."""
        if server is not self._server:
            return False
        self._check(server)
        self._is_polling = bool(self.clients)
        return self._is_polling

    def _start_polling(self, server: HostServer) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            import trio  # runs, so it is installed

            trio.lowlevel.spawn_system_task(self._poll_on_trio, server, name="analytics_hub: watch the server")
        else:
            loop.call_later(POLL, self._poll_on_asyncio, loop, server)

    def _poll_on_asyncio(self, loop: asyncio.AbstractEventLoop, server: HostServer) -> None:
        if self._poll(server):
            loop.call_later(POLL, self._poll_on_asyncio, loop, server)

    async def _poll_on_trio(self, server: HostServer) -> None:
        import trio

        while True:
            await trio.sleep(POLL)
            if not self._poll(server):
                return
