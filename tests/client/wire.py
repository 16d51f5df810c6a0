"""A simulated wire between the client protocol and the real engine: frames are in flight until a test delivers them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from analytics_hub.channels import Channel
from analytics_hub.client.backoff import RetryDecision
from analytics_hub.client.protocol import ClientProtocol
from analytics_hub.client.subscription_state import Options, SubscriptionState
from analytics_hub.client.values import Event
from analytics_hub.core.engine import Engine
from analytics_hub.core.events import Append, Read
from analytics_hub.identity import Identity
from analytics_hub.tuning import Tuning

from ..core.rig import ALICE, WALL, Peer, Rig


class Server(Rig):
    """A rig with a journal that answers at once, and a nonce that makes its epochs differ from those of another one."""

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
    """One client and its server, which may be replaced by another."""

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
        self.protocol.connection_made(self.now, **options)
        self.transmit()

    def disconnect(self) -> RetryDecision:
        """The connection breaks, and the frames in flight are lost."""
        if self.peer is not None:
            self.server.engine.disconnect(self.peer.session, self.now)
            self.server.pump()
        self.peer = None
        self.in_flight.clear()
        return self.protocol.connection_lost("lost", self.now)

    def restart(self, server: Rig) -> None:
        """Replace the server by another one."""
        self.disconnect()
        server.now = self.now
        self.server = server

    def transmit(self) -> None:
        """The commands of the client reach the server, and the frames of the server are in flight."""
        for message in self.protocol.data_to_send():
            assert isinstance(message, str)
            self.sent.append(msgspec.json.decode(message))
            if self.peer is not None:
                self.server.engine.receive_data(self.peer.session, message, self.now)
        self.server.pump()
        if self.peer is not None:
            self.in_flight.extend(msgspec.json.encode(frame).decode() for frame in self.peer.frames)
            self.peer.forget()

    def deliver(self, frames: int = 1_000_000) -> None:
        """Deliver up to so many frames, and transmit what the client sends in response."""
        self.transmit()
        while self.in_flight and frames:
            frames -= 1
            self.protocol.receive_message(self.in_flight.popleft(), self.now)
            self.transmit()
        self.events += self.protocol.events()

    def advance(self, seconds: float) -> None:
        """Time passes, and all frames are delivered."""
        self.server.advance(seconds)
        self.protocol.handle_timer(self.now)
        self.deliver()

    def receive(self, *items: dict[str, Any]) -> None:
        """Deliver one frame that the engine has not sent."""
        self.protocol.receive_message(msgspec.json.encode(items).decode(), self.now)
        self.transmit()
        self.events += self.protocol.events()

    # --- the application

    def subscribe(self, channel: str, *, capacity: int = 1024, type: Any = Any, **options: Any) -> SubscriptionState:
        subscription = self.protocol.subscribe(channel, Options(**options), self.now, type=type, capacity=capacity)
        self.transmit()
        return subscription

    def read(self, subscription: SubscriptionState, count: int = 1_000_000) -> list[Any]:
        """Up to so many values."""
        values = []
        while subscription.has_values and count:
            count -= 1
            values.append(self.protocol.next_value(subscription, self.now))
        self.transmit()
        return values

    def commands(self, action: str) -> list[dict[str, Any]]:
        return [command for command in self.sent if command["action"] == action]

    @property
    def selections(self) -> list[Any]:
        """The channels of the last `subscribe`."""
        channels: list[Any] = self.commands("subscribe")[-1]["channels"]
        return channels
