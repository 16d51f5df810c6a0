"""A hub that does what a transport may expect and nothing else: it remembers what it was told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from analytics_hub.access.limits import ConnectionLimits
from analytics_hub.channels import Channel
from analytics_hub.contracts import Handshake, Transport
from analytics_hub.core.wire import Wire
from analytics_hub.exceptions import AuthenticationError, HubClosed
from analytics_hub.identity import Identity
from analytics_hub.telemetry import COUNTERS
from analytics_hub.tuning import Tuning

SOMEBODY = Identity(id="somebody")


@dataclass(eq=False)
class FakeSession:
    transport: Transport
    wire: Wire
    identity: Identity | None
    handshake: Handshake
    received: list[str | bytes] = field(default_factory=list)
    resumed: int = 0
    disconnected: int = 0

    def write(self, *items: bytes) -> bool:
        return self.transport.write(self.wire.frame(items))


class FakeHub:
    """`admit` takes everyone; give it another, or an `on_data`, to see what happens."""

    channels: tuple[Channel, ...] = ()
    is_open = True

    def __init__(self) -> None:
        self.is_draining = False
        self.is_closed = False
        self.handshakes: list[Handshake] = []
        self.sessions: list[FakeSession] = []
        self.counters: Counter[str] = Counter()
        self.doorkeeper = ConnectionLimits(Tuning(), clock=time.monotonic, note=self.note)
        self._news = anyio.Event()
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
        """Wait for `condition`, which is looked at whenever the transport has told something."""
        while not condition():
            await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def admit(self, handshake: Handshake) -> Identity | None:
        self.handshakes.append(handshake)
        self._tell()
        return SOMEBODY if self.on_admit is None else await self.on_admit(handshake)

    async def check(self, handshake: Handshake) -> Identity:
        identity = await self.admit(handshake)
        if identity is None:
            raise AuthenticationError("missing")
        return identity

    def connect(
        self,
        transport: Transport,
        wire: Wire,
        identity: Identity | None,
        handshake: Handshake,
        *,
        max_message: int | None = None,
    ) -> FakeSession:
        if self.is_closed:
            raise HubClosed("the hub is not running")
        session = FakeSession(transport, wire, identity, handshake)
        self.sessions.append(session)
        self._tell()
        return session

    def receive_data(self, session: FakeSession, data: str | bytes) -> None:
        assert not session.disconnected
        session.received.append(data)
        self._tell()
        if self.on_data is not None:
            self.on_data(session, data)

    def resumed(self, session: FakeSession) -> None:
        session.resumed += 1
        self._tell()
        if self.on_resumed is not None:
            self.on_resumed(session)

    def disconnect(self, session: FakeSession) -> None:
        session.disconnected += 1
        self._tell()

    def count(self, name: str, number: int = 1) -> None:
        self.counters[name] += number
        self._tell()

    def note(self, kind: str, message: str, *args: object) -> None:
        assert kind in COUNTERS
        assert message % args
        self.count(kind)
