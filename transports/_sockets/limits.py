"""What one client may do, and how many there may be."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """What holds for every transport on sockets of its own. Seconds and bytes."""

    handshake_timeout: float = 5.0
    """From accept until the client is let in, TLS and the check of the token included, whatever trickles in."""
    close_timeout: float = 5.0
    message_timeout: float = 30.0
    """For a message that was begun."""
    max_message: int = 64 * 1024
    max_clients: int = 100_000
    """A further one is told to try again later (1013, or 503 where there is HTTP)."""
    max_pending: int = 4096
    """Connections that are not let in yet; a further one ends the oldest from its own address, or of all."""
    max_checks: int = 64
    """Tokens checked at a time; further handshakes wait their turn, within their timeout."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (value := getattr(self, field.name)) > 0:  # also refuses NaN
                raise ValueError(f"{field.name} is {value!r}; it must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(StreamLimits):
    """The limits of a WebSocket server. Seconds and bytes."""

    ping_interval: float = 20.0
    """`message_timeout` is looked at as often."""
    silence_timeout: float = 60.0
    """Without a byte from the peer, pongs included, the connection is closed with 4408."""
    max_fragments: int = 1024
    max_control_frames: int = 1000
    """Pings and pongs of a client in a `ping_interval`. Each costs 7 µs, and no token is needed for them."""
