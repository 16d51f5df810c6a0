"""A gateway without a hub: it does what a transport may expect, and records its calls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import anyio

from analytics_hub.access.limits import ConnectionLimits
from analytics_hub.access.proxies import PROXIES, TrustedProxies
from analytics_hub.channels import Channel
from analytics_hub.clock import Clock
from analytics_hub.contracts import Gateway, Handshake, Peer, Receipt, Submitted, Transport
from analytics_hub.core.session import Session
from analytics_hub.core.wire import Wire
from analytics_hub.exceptions import AuthenticationError, HubClosed, UnknownChannel
from analytics_hub.identity import Identity
from analytics_hub.protocol import Selection
from analytics_hub.telemetry import COUNTERS, Telemetry
from analytics_hub.tuning import Tuning

ALICE = Identity(id="alice")


@dataclass(eq=False)
class FakeSession:
    transport: Transport
    wire: Wire
    identity: Identity | None
    handshake: Handshake
    received: list[str | bytes] = field(default_factory=list)
    subscribed: list[Selection] = field(default_factory=list)
    resumed: int = 0
    disconnected: int = 0
    is_paused: bool = False
    is_closed: bool = False

    def write(self, *items: bytes) -> bool:
        return self.transport.write(self.wire.frame(items))


class FakeGateway:
    """`admit` accepts every peer; set `on_admit` or `on_data` to change what happens."""

    channels: Sequence[Channel] = ()

    def __init__(self, tuning: Tuning | None = None, proxies: Collection[str] = PROXIES) -> None:
        self.tuning = tuning or Tuning()
        self.is_open = True
        self.is_draining = False
        self.life = 1
        self.is_closed = False
        self.handshakes: list[Handshake] = []
        self.sessions: list[FakeSession] = []
        self.counters: Counter[str] = Counter()
        trusted = TrustedProxies(proxies)
        telemetry = Telemetry(self.counters, time.monotonic)
        self.limits = limits = ConnectionLimits(self.tuning, Clock(), telemetry, trusted)
        self.check_address = limits.check_connection
        self.connection_pending = limits.connection_pending
        self.pending_ended = limits.pending_ended
        self.address_key = trusted.address_key
        self.check_load = limits.check_load
        self.add_gauge = limits.add_gauge
        self._changed = anyio.Event()
        self.on_admit: Callable[[Handshake], Awaitable[Identity | None]] | None = None
        self.on_data: Callable[[FakeSession, str | bytes], None] | None = None
        self.on_resumed: Callable[[FakeSession], None] | None = None

    @property
    def session(self) -> FakeSession:
        """The only one there is."""
        (session,) = self.sessions
        return session

    @property
    def connected(self) -> int:
        return sum(not session.disconnected for session in self.sessions)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for `condition`, which is evaluated whenever the transport has called the gateway."""
        while not condition():
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def admit(self, handshake: Handshake) -> Peer:
        self.handshakes.append(handshake)
        self._notify()
        identity = ALICE if self.on_admit is None else await self.on_admit(handshake)
        return Peer(handshake, identity)

    async def authenticate(self, handshake: Handshake) -> Peer:
        peer = await self.admit(handshake)
        if peer.identity is None:
            raise AuthenticationError("missing")
        return peer

    def current_identity(self, peer: Peer) -> Identity:
        assert peer.identity is not None
        return peer.identity

    def connect(self, transport: Transport, wire: Wire, peer: Peer, *, max_message: int | None = None) -> Session:
        if self.is_closed:
            raise HubClosed("the hub is not running")
        session = FakeSession(transport, wire, peer.identity, peer.handshake)
        self.sessions.append(session)
        self._notify()
        return cast("Session", session)

    def receive_data(self, session: Session, data: str | bytes) -> None:
        fake = _fake(session)
        assert not fake.disconnected
        fake.received.append(data)
        self._notify()
        if self.on_data is not None:
            self.on_data(fake, data)

    def subscribe(self, session: Session, selections: Sequence[Selection]) -> None:
        _fake(session).subscribed.extend(selections)
        self._notify()

    def resumed(self, session: Session) -> None:
        fake = _fake(session)
        fake.resumed += 1
        self._notify()
        if self.on_resumed is not None:
            self.on_resumed(fake)

    def disconnect(self, session: Session) -> None:
        _fake(session).disconnected += 1
        self._notify()

    def find_session(self, id: str) -> Session | None:
        return None

    def declaration(self, channel: str) -> Channel:
        raise UnknownChannel(f"channel {channel!r} is not declared")

    async def authorize_publish(self, identity: Identity, channels: Iterable[str]) -> dict[str, bool | None]:
        return dict.fromkeys(channels, True)

    def submit(self, channel: str, data: object, *, type: str | None = None, key: object = None) -> Submitted:
        raise UnknownChannel(f"channel {channel!r} is not declared")

    def remove(self, channel: str, key: str) -> Receipt | None:
        raise UnknownChannel(f"channel {channel!r} is not declared")

    def issue_ticket(self, identity: Identity) -> str:
        return f"ticket.{identity.id}"

    def count(self, name: str, number: int = 1) -> None:
        self.counters[name] += number
        self._notify()

    def note(self, kind: str, message: str, *args: object) -> None:
        assert kind in COUNTERS
        assert message % args
        self.count(kind)


def _fake(session: Session) -> FakeSession:
    return cast("FakeSession", session)


@dataclass
class FakeHub:
    """What `serve` and `HubApp` are given: an object with a `gateway`."""

    gateway: FakeGateway = field(default_factory=FakeGateway)


_CONTRACT: type[Gateway] = FakeGateway  # the type checkers prove that it is one
