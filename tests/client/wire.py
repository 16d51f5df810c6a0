"""A pretend wire between the client's protocol and the real engine: frames are in flight until a test lands them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from analytics_hub.channels import Channel
from analytics_hub.client.backoff import Ending
from analytics_hub.client.feed import Feed, Options
from analytics_hub.client.protocol import ClientProtocol
from analytics_hub.client.values import Event
from analytics_hub.core.engine import Engine
from analytics_hub.core.events import Append, Read
from analytics_hub.identity import Identity
from analytics_hub.tuning import Tuning

from ..core.rig import ALICE, WALL, Peer, Rig


class Server(Rig):
    """A rig with a journal that answers at once, and epochs of its own."""

    def __init__(self, channels: Iterable[Channel], tuning: Tuning | None = None, *, nonce: str = "first") -> None:
        super().__init__(*channels, tuning=tuning)
        self.engine = Engine(channels, tuning, nonce=nonce, node="here")
        self.engine.tell_time(self.now, WALL)
        self._answered = 0

    def pump(self) -> None:
        super().pump()
        while self._answered < len(self.events):
            event = self.events[self._answered]
            self._answered += 1
            if isinstance(event, Append):
                kept = self.kept.setdefault(event.channel, {})
                kept.update(enumerate(event.items, event.first))
                self.engine.committed(event.channel, min(kept), self.now)
            elif isinstance(event, Read):
                items = [(seq, item) for seq, item in self.kept[event.channel].items() if seq > event.after]
                self.engine.journal_read(event.channel, event.after, items[: event.limit], self.now)
            super().pump()


class Line:
    """One client and the server it talks to, which may be replaced by another."""

    def __init__(self, server: Rig, jitter: float = 1.0) -> None:
        self.server = server
        self.protocol = ClientProtocol(lambda: jitter)
        self.peer: Peer | None = None
        self.in_flight: deque[str] = deque()
        self.sent: list[dict[str, Any]] = []
        """Every command so far."""
        self.events: list[Event] = []

    @property
    def now(self) -> float:
        return self.server.now

    # --- the connection

    def connect(self, identity: Identity | None = ALICE, **options: Any) -> None:
        self.peer = self.server.connect(identity)
        self.protocol.connected(self.now, **options)
        self.transmit()

    def cut(self) -> Ending:
        """The connection breaks, and what was in flight is lost."""
        if self.peer is not None:
            self.server.engine.disconnect(self.peer.session, self.now)
            self.server.pump()
        self.peer = None
        self.in_flight.clear()
        return self.protocol.lost("cut", self.now)

    def restart(self, server: Rig) -> None:
        """Another server takes the place of this one, which dies."""
        self.cut()
        server.now = self.now
        self.server = server

    def transmit(self) -> None:
        """The client's commands reach the server, and what it writes is in flight."""
        for message in self.protocol.data_to_send():
            assert isinstance(message, str)
            self.sent.append(msgspec.json.decode(message))
            if self.peer is not None:
                self.server.engine.receive_data(self.peer.session, message, self.now)
        self.server.pump()
        if self.peer is not None:
            self.in_flight.extend(msgspec.json.encode(frame).decode() for frame in self.peer.frames)
            self.peer.forget()

    def land(self, frames: int = 1_000_000) -> None:
        """Up to so many frames arrive, and the client says what it has to say."""
        self.transmit()
        while self.in_flight and frames:
            frames -= 1
            self.protocol.receive(self.in_flight.popleft(), self.now)
            self.transmit()
        self.events += self.protocol.events()

    def advance(self, seconds: float) -> None:
        """Time passes, and everything arrives."""
        self.server.advance(seconds)
        self.protocol.handle_timer(self.now)
        self.land()

    def say(self, *items: dict[str, Any]) -> None:
        """One frame that no engine has sent."""
        self.protocol.receive(msgspec.json.encode(items).decode(), self.now)
        self.transmit()
        self.events += self.protocol.events()

    # --- the user

    def subscribe(self, channel: str, *, room: int = 1024, type: Any = Any, **options: Any) -> Feed:
        feed = self.protocol.subscribe(channel, Options(**options), self.now, type=type, room=room)
        self.transmit()
        return feed

    def take(self, feed: Feed, count: int = 1_000_000) -> list[Any]:
        """Up to so many values, as they are handed out."""
        values = []
        while feed.has_values and count:
            count -= 1
            values.append(self.protocol.take(feed, self.now))
        self.transmit()
        return values

    def asked(self, action: str) -> list[dict[str, Any]]:
        return [command for command in self.sent if command["action"] == action]

    @property
    def selections(self) -> list[Any]:
        """What the last `subscribe` was for."""
        channels: list[Any] = self.asked("subscribe")[-1]["channels"]
        return channels
