"""One client that listens to server-sent events on a connection of its own."""

from __future__ import annotations

from ...exceptions import HubClosed
from ...protocol import CloseCode
from .._http.commands import Gate
from .._http.events import EventStream
from .._http.sse import greet, say_goodbye
from .._sockets.connection import OPEN, Connection
from .._sockets.session import SessionProtocol
from .server import WebSocketServer


class EventStreamProtocol(SessionProtocol[WebSocketServer]):
    """Runs over a connection once its stream of events was begun. It is the hub's `Transport` itself.

    The commands of the client come by requests of their own, so reading is paused there (`Gate`). What the peer sends
    on this connection is read only to learn of its end. There are no pings: a peer that has vanished is noticed when it
    does not take what is written, heartbeats included.
    """

    __slots__ = ("gate", "write")

    def __init__(self, server: WebSocketServer, connection: Connection) -> None:
        super().__init__(server, connection)
        self.gate = Gate()
        self.write = connection.write

    def start(self, head: bytes, stream: EventStream) -> None:
        """Send the `head` of the answer, connect the peer and subscribe it. Never raises."""
        gateway = self._server.gateway
        self.write(head + greet(gateway))
        try:
            self._session = stream.connect(gateway, self)
        except HubClosed:
            self.terminate(CloseCode.SERVICE_RESTART, "the hub is shutting down")
        except Exception as error:  # noqa: BLE001  # the boundary, where the caller is not the loop
            self._connection.fail(error)

    def data_received(self, data: bytes) -> None:
        pass

    # --- as a transport

    def close(self, code: int, reason: str) -> None:
        if self._connection.phase == OPEN:
            super().close(code, reason)

    def pause_reading(self) -> None:
        pass  # `Gate` looks at the session

    def resume_reading(self) -> None:
        self.gate.open()

    def confirmed(self, frames: int) -> None:
        pass

    # --- ending

    def encode_close(self, code: int, reason: str) -> bytes:
        return say_goodbye(self._server.gateway, code, reason)

    def close_written(self) -> None:
        self.gate.open()
        self._connection.finish(self._server.limits.close_timeout)

    def connection_lost(self) -> None:
        super().connection_lost()
        self.gate.open()
