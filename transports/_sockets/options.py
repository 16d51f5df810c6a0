"""The options of a socket under which "drop oldest" means what it says."""

from __future__ import annotations

import socket
from typing import Final

SEND_BUFFER: Final = 256 * 1024
UNSENT_LOW_WATER: Final = 16 * 1024


def configure(sock: socket.socket) -> None:
    """Set them, and that nothing blocks."""
    sock.setblocking(False)
    # A flush is one `send`; Nagle's algorithm would hold its last segment back until the peer has acknowledged.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Left alone, the kernel takes 3.8 MB of frames that the peer has not read, stale by seconds before anything is
    # dropped, and ten deaf clients hold 40 MB of its memory. Bounded so, they hold 3 MB. It must have room for the
    # largest write of the hub and its bookkeeping: with half of this, a write of 256 KiB is never taken whole, and
    # every client of a busy hub looks congested.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    # `send` also stops when this much has not even left the machine: what waits then waits here, where it can be
    # dropped or superseded, and not there. A peer that never reads is thus given 146 KB, whatever the buffer above.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LOW_WATER)
