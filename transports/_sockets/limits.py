"""The limits of a server and of each of its clients."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

MAX_HEAD: Final = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """The limits of every native transport. Seconds and bytes."""

    handshake_timeout: float = 5.0
    """From accept until the client is admitted, including TLS and the check of the token, however slowly it sends."""
    close_timeout: float = 5.0
    message_timeout: float = 30.0
    """From the first to the last byte of a message."""
    max_message: int = 64 * 1024
    max_clients: int = 100_000
    """A further one is refused with "try again later" (1013, or 503 where there is HTTP)."""
    max_pending: int = 4096
    """Connections that are not admitted yet; a further one closes the oldest from its own address, or of all."""
    max_checks: int = 64
    """Tokens checked at a time; further handshakes wait, within their timeout."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (value := getattr(self, field.name)) > 0:  # also refuses NaN
                raise ValueError(f"{field.name} is {value!r}; it must be greater than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(StreamLimits):
    """The limits of a WebSocket server. Seconds and bytes."""

    max_head: int = MAX_HEAD
    """The request line and the headers of a request together; the cookies of a whole site may be among them."""
    ping_interval: float = 20.0
    """`message_timeout` is checked as often."""
    silence_timeout: float = 60.0
    """Time without a byte from the peer, pongs included, after which the connection is closed with 4408."""
    max_fragments: int = 1024
    max_control_frames: int = 1000
    """Pings and pongs of a client in a `ping_interval`. Each costs 7 µs, and needs no token."""
