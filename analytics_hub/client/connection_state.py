"""What a client knows about one connection, and discards with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ..exceptions import HubError
from .decoding import Codec
from .exceptions import ConnectionLost
from .subscription_state import SubscriptionState

CONFIRM_FRAMES: Final = 16
"""Frames after which a `seen` is sent. A server that cannot see how far behind a client is allows 64 unconfirmed."""
CONFIRM_CHARACTERS: Final = 32 * 1024
"""Characters after which a `seen` is sent. Such a server allows 256 KiB, and continues at half of that."""
MIN_TIMEOUT: Final = 10.0
"""Seconds within which a server must send something on a new connection; the shortest silence that counts as a loss."""

OnAnswer = Callable[[HubError | None], None]
"""Called with the error that the server answered, or None if it accepted."""


@dataclass(slots=True)
class ConnectionState:
    """The commands that are not answered yet, and the deadlines of the liveness checks."""

    codec: Codec
    has_token: bool
    started: float
    is_open: bool = False
    """The server has accepted the client: `$hello` has come."""
    outgoing: list[str | bytes] = field(default_factory=list[str | bytes], repr=False)  # may contain a token
    subscribing: dict[object, list[SubscriptionState]] = field(default_factory=dict[object, list[SubscriptionState]])
    """The subscriptions of each unanswered `subscribe`, by its id."""
    unsubscribing: dict[object, str] = field(default_factory=dict[object, str])
    """The channel of each unanswered `unsubscribe`, by its id."""
    refreshing: dict[object, OnAnswer | None] = field(default_factory=dict[object, OnAnswer | None])
    """What to call with the answer to each unanswered `auth`, by its id."""
    subscribe_at: float | None = None
    """When to repeat the `subscribe` commands that exceeded the rate limit of the server."""
    reconnect_at: float | None = None
    """When to reconnect, as assigned by a `$drain`."""
    min_delay: float = 0.0
    """The delay before the next connection that the server asked for, in seconds."""
    supports_seen: bool = True
    frames: int = 0
    unconfirmed_frames: int = 0
    unconfirmed_characters: int = 0
    last_received: float = 0.0
    last_sent: float = 0.0
    heartbeat: float | None = None
    _last_id: int = 0

    def __post_init__(self) -> None:
        self.last_received = self.last_sent = self.started

    def send_command(self, now: float, **command: Any) -> int:
        """Queue a command under a new id, and return the id."""
        self._last_id = id = self._last_id + 1
        self._send({**command, "id": id}, now)
        return id

    def _send(self, command: dict[str, Any], now: float) -> None:
        self.outgoing.append(self.codec.encode_command(command))
        self.last_sent = now

    def frame_received(self, size: int, now: float) -> None:
        """Count a frame, and confirm the frames from time to time."""
        self.last_received = now
        self.frames += 1
        self.unconfirmed_frames += 1
        self.unconfirmed_characters += size
        is_due = self.unconfirmed_frames >= CONFIRM_FRAMES or self.unconfirmed_characters >= CONFIRM_CHARACTERS
        if is_due and self.supports_seen and self.is_open:
            self.unconfirmed_frames = self.unconfirmed_characters = 0
            self._send({"action": "seen", "frames": self.frames}, now)

    def get_timer(self) -> float:
        """When `handle_timer` must be called next."""
        times = [self._lost_at, self._ping_at]
        if self.subscribe_at is not None:
            times.append(self.subscribe_at)
        return min(times)

    def handle_timer(self, now: float) -> None:
        """Send a ping if this side was silent for long, because the server may treat silence as a loss.

        Raises `ConnectionLost` if the server was silent for too long.
        """
        if now >= self._lost_at:
            raise ConnectionLost(f"no data for {now - self.last_received:.0f} s")
        if now >= self._ping_at:
            self._send({"action": "ping"}, now)

    @property
    def _lost_at(self) -> float:
        return self.last_received + max(MIN_TIMEOUT, 3 * (self.heartbeat or 0.0))

    @property
    def _ping_at(self) -> float:
        return self.last_sent + (self.heartbeat or MIN_TIMEOUT)
