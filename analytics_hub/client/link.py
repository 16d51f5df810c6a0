"""What a client knows of one connection, and forgets with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ..exceptions import HubError
from .decoding import Codec
from .exceptions import Lost
from .feed import Feed

CONFIRM_EVERY: Final = 16
"""Frames between two `seen`, at most. A server that cannot see how far behind a client is allows 64."""
CONFIRM_SIZE: Final = 32 * 1024
"""Characters between two `seen`, at most; such a server allows 256 KiB, and goes on at half of that."""
PATIENCE: Final = 10.0
"""Seconds in which a server has to say something on a new connection, and the least silence that means it is gone."""


@dataclass(slots=True)
class Link:
    """One connection: what was sent and not answered yet, and when something must be heard or said."""

    codec: Codec
    has_token: bool
    started: float
    is_open: bool = False
    """The server has let the client in."""
    outgoing: list[str | bytes] = field(default_factory=list[str | bytes], repr=False)  # may have a token
    asked: dict[object, list[Feed]] = field(default_factory=dict[object, list[Feed]])
    """The feeds that each unanswered `subscribe` is for."""
    leaving: dict[object, str] = field(default_factory=dict[object, str])
    """The channel of each unanswered `unsubscribe`."""
    refreshing: dict[object, Callable[[HubError | None], None] | None] = field(
        default_factory=dict[object, Callable[[HubError | None], None] | None]
    )
    """Who waits for the answer to each unanswered `auth`."""
    ask_again: float | None = None
    """When commands that were too many may be sent again."""
    slot: float | None = None
    """When a server that drains wants the client back."""
    at_least: float = 0.0
    """How long it wants the client to stay away."""
    confirms: bool = True
    frames: int = 0
    unconfirmed: int = 0
    """Frames since the last confirmation."""
    unconfirmed_size: int = 0
    heard: float = 0.0
    spoke: float = 0.0
    heartbeat: float | None = None
    _last_id: int = 0

    def __post_init__(self) -> None:
        self.heard = self.spoke = self.started

    def send(self, now: float, **command: Any) -> int:
        """Send a command under an id of its own, and return that."""
        self._last_id = id = self._last_id + 1
        self._write({**command, "id": id}, now)
        return id

    def _write(self, command: dict[str, Any], now: float) -> None:
        self.outgoing.append(self.codec.write(command))
        self.spoke = now

    def count(self, size: int, now: float) -> None:
        """A frame has come; what has come is confirmed now and then."""
        self.heard = now
        self.frames += 1
        self.unconfirmed += 1
        self.unconfirmed_size += size
        is_much = self.unconfirmed >= CONFIRM_EVERY or self.unconfirmed_size >= CONFIRM_SIZE
        if is_much and self.confirms and self.is_open:
            self.unconfirmed = self.unconfirmed_size = 0
            self._write({"action": "seen", "frames": self.frames}, now)

    def get_timer(self) -> float:
        """When `handle_timer` is to be called next."""
        times = [self._silent_at, self._speak_at]
        if self.ask_again is not None:
            times.append(self.ask_again)
        return min(times)

    def handle_timer(self, now: float) -> None:
        """Say something if this side was silent for long: the server may take silence for death. Raises `Lost`."""
        if now >= self._silent_at:
            raise Lost(f"nothing was heard for {now - self.heard:.0f} s")
        if now >= self._speak_at:
            self._write({"action": "ping"}, now)

    @property
    def _silent_at(self) -> float:
        return self.heard + max(PATIENCE, 3 * (self.heartbeat or 0.0))

    @property
    def _speak_at(self) -> float:
        return self.spoke + (self.heartbeat or PATIENCE)
