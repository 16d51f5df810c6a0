"""The `tcp` transport: newline-delimited JSON for services and terminals, on the loop of the `websocket` transport.

Each line of the client is a command or an array of them, each line of the server an array of items. The first command
is `auth`, unless the hub lets everyone in. The last item is `$close`.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.abc

from ..contracts import Handshake, Peer
from ..exceptions import AuthenticationUnavailable, HubError
from ..hub import Hub
from ..protocol import CloseCode
from ._abilities import Abilities
from ._refusal import close_item, note_refusal
from ._sockets.limits import StreamLimits
from ._sockets.loop import SelectorLoop
from ._sockets.pending import PendingConnection
from ._sockets.serve import BACKLOG, run
from ._sockets.server import Registry
from ._tcp.client import LineClient
from ._tcp.lines import LineWire
from .tls import Certificate, CertificateError, Security, using

ABILITIES: Final = Abilities(
    transport="tcp",
    formats=("JSON",),
    has_handshake=False,
    refuses_with_status=False,
    takes_commands=True,
    tells_binary=False,
    shows_heartbeats=True,
    has_close_codes=False,
    feels_slowness=True,
    ends_silence=False,
    compresses="nobody",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(StreamLimits):
    """The limits of a TCP server; `max_message` is that of a line. Seconds and bytes."""

    silence_timeout: float = 120.0
    """How long the kernel waits for a sign of a peer's machine, or for one that has room for nothing to have some. To
    be longer than the hub's `write_timeout`, which tells such a client why."""


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

    Reports the port through `task_status`, which with `port=0` is a free one. Tokens travel as text: beyond this
    machine give it an `ssl_context`, a `Certificate` or a context of your own. Raises `OSError` if it cannot listen.
    """

    def open_server(loop: SelectorLoop, group: anyio.abc.TaskGroup) -> Server:
        return Server(gateway, loop, group, ssl_context=ssl_context, limits=limits or Limits())

    gateway = hub.gateway
    with using(ssl_context, gateway.count):
        await run(gateway, host, port, open_server, backlog=backlog, clock=clock, task_status=task_status)


class Server(Registry):
    """The registry of one `serve`."""

    limits: Limits
    wire: Final = LineWire()

    def rebuff(self, error: HubError) -> bytes:
        return self.wire.frame([close_item(error.close_code, error.public_message)])

    def welcome(self, sock: socket.socket, address: object) -> None:
        configure_liveness(sock, self.limits.silence_timeout)
        PendingTCP(self, sock, address)


class PendingTCP(PendingConnection[Server]):
    """A connection until the hub has said whether it takes clients without a token, or waits for their first line."""

    __slots__ = ()

    def __init__(self, server: Server, sock: socket.socket, address: object) -> None:
        super().__init__(server, sock, address)
        if not self._is_shaking:
            self.shaken()

    def shaken(self) -> None:
        self._handshake = Handshake(transport="tcp", client=self.client)
        self.pause_reading()  # what it says is for the hub
        self.knock()

    def unencrypted(self) -> None:
        self._become_client().end(CloseCode.PROTOCOL_ERROR, "this port speaks TLS")

    def late(self) -> None:
        if self._is_shaking:
            self.hang_up(reset=True)
        else:  # the turn of its check has not come
            self.refuse(AuthenticationUnavailable())

    def refuse(self, error: HubError) -> None:
        note_refusal(self._server.gateway, error)
        self._become_client().end(error.close_code, error.public_message)

    def admit(self, peer: Peer) -> None:
        self._become_client().open(peer)

    def _become_client(self) -> LineClient:
        return LineClient(self._server, self.hand_over(), self._server.wire)


def configure_liveness(sock: socket.socket, timeout: float) -> None:
    """Have the kernel notice within about `timeout` seconds that the machine of a peer has gone.

    Keepalive alone would not: it is silent while something is on its way, and a heartbeat always is. Left alone, the
    kernel then tries for a quarter of an hour.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(timeout / 2)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(timeout / 8)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(timeout * 1000)))


__all__ = ["ABILITIES", "Certificate", "CertificateError", "Limits", "serve"]
