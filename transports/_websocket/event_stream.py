"""One client that listens to events on a socket of its own: the hub's bytes out, and nothing in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...exceptions import HubClosed
from ...protocol import CloseCode
from .._http.commands import Gate
from .._http.events import EventStream
from .._http.sse import WIRE, greet, say_goodbye
from .._sockets.client import Client
from .._sockets.writer import Link

if TYPE_CHECKING:
    from .server import Server


class EventClient(Client["Server"]):
    """The hub's `Transport` for one stream of server-sent events.

    Its commands come by requests of their own, so reading is paused there (`Gate`). What the peer sends here is
    nothing; it is read to learn of its end. There are no pings: a peer that vanished is noticed when it does not take
    what is written, heartbeats included.
    """

    __slots__ = ("gate",)

    def __init__(self, server: Server, link: Link, head: bytes) -> None:
        super().__init__(server, link, WIRE)
        self.gate = Gate()
        self.write(head + greet(server.gateway))

    def begin(self, stream: EventStream) -> None:
        """Tell the hub of the client and of what it wants. Never raises."""
        try:
            self._session = stream.connect(self._server.gateway, self)
        except HubClosed:
            self.end(CloseCode.SERVICE_RESTART, "the hub is shutting down")
        except Exception as error:  # noqa: BLE001  # the boundary, where it is not the loop that calls
            self.fail(error)

    def received(self, data: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        pass  # `Gate` looks at the session

    def resume_reading(self) -> None:
        self.gate.open()

    # --- ending ---

    def last_words(self, code: int, reason: str) -> bytes:
        return say_goodbye(self._server.gateway, code, reason)

    def part(self) -> None:
        self.gate.open()
        self.finish(self._server.limits.close_timeout)

    def closed(self) -> None:
        super().closed()
        self.gate.open()
