"""The options of a socket: those under which "drop oldest" drops what is old, and not what is about to be sent."""

from __future__ import annotations

import socket
from typing import Final

SEND_BUFFER: Final = 256 * 1024
UNSENT_LOW_WATER: Final = 16 * 1024
PATH_SEND_BUFFER: Final = 128 * 1024


def is_tcp(sock: socket.socket) -> bool:
    """Whether the socket has the options of TCP: a Unix socket has not."""
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def configure(sock: socket.socket) -> None:
    """Set them, and non-blocking mode."""
    sock.setblocking(False)
    if not is_tcp(sock):
        # The kernel takes twice as much, so that a write of 256 KiB is taken whole; there is no mark for the unsent.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PATH_SEND_BUFFER)
        return
    # A flush is one `send`; Nagle's algorithm would hold back its last segment until the peer has acknowledged.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # By default the kernel takes 3.8 MB of frames that the peer has not read, stale by seconds before anything is
    # dropped, and ten clients that never read hold 40 MB of its memory. With this bound they hold 3 MB. It must have
    # room for the largest write of the hub and the kernel's bookkeeping: with half of it, a write of 256 KiB is never
    # taken whole, and every client of a busy hub looks congested.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    # `send` also stops while this many bytes have not even left the machine. What is unsent then waits in this process,
    # where it can be dropped or superseded. A peer that never reads is thus sent 146 KB, whatever the buffer above.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LOW_WATER)
