"""What all connections of one TCP server share."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from typing import Final

from ...exceptions import HubError
from .._refusal import close_item
from .._sockets.limits import StreamLimits
from .._sockets.options import is_tcp
from .._sockets.server import Server
from .lines import LineWire


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(StreamLimits):
    """The limits of a TCP server; `max_message` is that of a line. Seconds and bytes."""

    silence_timeout: float = 120.0
    """How long the kernel waits for an acknowledgement of a peer's machine, or for room at a peer that has none. It
    must be longer than the hub's `write_timeout`, which tells such a client why."""


class LineServer(Server):
    """The rules of one `serve`."""

    limits: Limits
    wire: Final = LineWire()

    def configure(self, sock: socket.socket) -> None:
        if is_tcp(sock):  # the peer of a Unix socket cannot vanish without its end being reported
            configure_liveness(sock, self.limits.silence_timeout)

    def encode_refusal(self, error: HubError) -> bytes:
        return self.encode_close(error.close_code, error.public_message)

    def encode_close(self, code: int, reason: str) -> bytes:
        return self.wire.frame([close_item(code, reason)])


def configure_liveness(sock: socket.socket, timeout: float) -> None:
    """Have the kernel notice within about `timeout` seconds that the machine of a peer has gone.

    Keepalive alone would not: it is silent while anything is in flight, and a heartbeat always is. By default the
    kernel then tries for a quarter of an hour.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(timeout / 2)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(timeout / 8)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(timeout * 1000)))
