"""What an application holds: the anyio driver of the engine.

The engine decides, the hub does: it owns one task that flushes, tasks for calls that take time (a token to check, a
journal to write), an inbox for other threads, and nothing for each client.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import AsyncExitStack
from threading import get_ident
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.abc

from ..access.authentication import Authentication
from ..access.limits import PROXIES, ConnectionLimits
from ..channels import Channel
from ..contracts import Authenticate, Authorize, Handshake, Journal, Transport
from ..core.engine import Engine
from ..core.ledger import Ledger
from ..core.session import Session
from ..core.statistics import EngineStatistics
from ..core.wire import Wire
from ..exceptions import AuthenticationError, HubClosed
from ..identity import Identity
from ..journals.memory import MemoryJournal
from ..protocol import CloseCode
from ..telemetry import ThrottledLogger, level_of, logger
from ..tuning import Tuning
from .driver import Driver
from .journal import JournalWriter
from .policy import REVOKED, OnRevoke, Policy

HubStatistics = EngineStatistics


class Hub(Policy):
    """Channels, their subscribers, and the task that serves them; an async context manager.

    `authenticate` says who a peer is (`JWTAuthenticator`, `anonymous`, or any callable, sync or async, from
    `Handshake` to `Identity`); `authorize`, if given, is asked after the roles of a channel have admitted an identity,
    and `on_revoke` is called with each `Revocation` made here. An `authenticate` may have a method `run`, which runs as
    long as the hub is open.
    `grace` bounds the shutdown in seconds. `proxies` are the addresses and networks of peers that are proxies: from
    them, and only from them, `X-Forwarded-For` says who the client is. A hub belongs to the event loop it is entered
    in, and serves it once.
    """

    def __init__(
        self,
        channels: Iterable[Channel],
        *,
        authenticate: Authenticate,
        authorize: Authorize | None = None,
        on_revoke: OnRevoke | None = None,
        tuning: Tuning | None = None,
        journal: Journal | None = None,
        grace: float = 5.0,
        node: str | None = None,
        proxies: Collection[str] = PROXIES,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.node: Final = node if node is not None else secrets.token_hex(4)
        self.channels: Final = tuple(channels)
        self._grace = grace
        self._muffler = ThrottledLogger(clock)
        engine = Engine(
            self.channels,
            tuning,
            nonce=secrets.token_urlsafe(9),
            node=self.node,
            asks_to_authorize=authorize is not None,
        )
        clerk = JournalWriter(engine, journal if journal is not None else MemoryJournal(), self._tick, self._muffler)
        super().__init__(engine, clerk, clock, wall_clock, self._muffler, authorize, on_revoke)
        self.doorkeeper: Final = ConnectionLimits(engine.tuning, clock=clock, note=self.note, proxies=proxies)
        self.doorkeeper.gauges.append(lambda: engine.buffered)
        self._admission = Authentication(
            authenticate,
            engine.tuning.auth_timeout,
            clock,
            wall_clock,
            self.count,
            self._muffler,
            self.doorkeeper,
            self._revocations,
            self._tickets,
        )
        self._stack = AsyncExitStack()

    # --- life

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise HubClosed(f"a hub serves once, and this one is {self._state}; make a new Hub")
        self.draining = anyio.Event()
        """Set when the hub drains: transports stop accepting."""
        self._ended = anyio.Event()
        self._driver = Driver(
            self._engine,
            self._admission,
            self._authorization,
            self.doorkeeper,
            self._clerk,
            self._muffler,
            self._clock,
            self._tick,
        )
        self._tick()
        await self._clerk.open()
        async with AsyncExitStack() as stack:  # `asyncio` may cancel each of these steps, shielded or not
            stack.callback(self._clerk.close)
            await stack.enter_async_context(self._driver.run())
            stack.push_async_callback(self._shut_down)
            self._stack = stack.pop_all()
        self._thread = get_ident()
        self._state = "open"
        logger.debug("hub %s is open", self.node)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if isinstance(exc, (Exception, KeyboardInterrupt, SystemExit)):
            # The application's own: in the group of a task group that it never saw, nobody would expect it.
            await self._stack.aclose()
            return None
        return await self._stack.__aexit__(exc_type, exc, traceback)

    async def _shut_down(self) -> None:
        with anyio.CancelScope(shield=True):
            await self.shutdown()

    @property
    def is_open(self) -> bool:
        """Whether it was entered and takes clients and items."""
        return self._state == "open"

    @property
    def is_draining(self) -> bool:
        """Whether `shutdown` has begun."""
        return self._state in ("draining", "closed")

    async def shutdown(self, grace: float | None = None) -> None:
        """Tell every client to come back in a slot of its own, write what is pending, close with 1012.

        Takes at most `grace` seconds, whatever the clients do; cancelled, it skips the waiting and ends them all the
        same. A second call waits for the first.
        """
        if self._state in ("new", "closed"):
            return
        self._check_thread("shutdown")
        if self._state == "draining":
            await self._ended.wait()
            return
        self._state = "draining"
        grace = self._grace if grace is None else grace
        self.draining.set()
        self._driver.take_parcels(self._tick())
        self._engine.drain(grace, self._clock())
        self._driver.is_draining = True
        self._driver.nudge()
        try:
            with anyio.move_on_after(grace):
                await self._driver.quiet.wait()
        finally:
            self._state = "closed"
            self._ended.set()
            self._driver.end_all(CloseCode.SERVICE_RESTART, "the server restarts")

    # --- for transports, on the event loop's thread

    async def check(self, handshake: Handshake) -> Identity:
        """Who the peer is.

        Raises `AuthenticationError`, `PermissionDenied`, `TooManyRequests`, or `HubError` if nobody can tell.
        """
        return await self._admission.check(handshake)

    async def admit(self, handshake: Handshake) -> Identity | None:
        """As `check`, for somebody who wants to connect; None if a token may come as its first message.

        Raises `Overloaded` too.
        """
        return await self._admission.admit(handshake)

    def connect(
        self,
        transport: Transport,
        wire: Wire,
        identity: Identity | None,
        handshake: Handshake,
        *,
        max_message: int | None = None,
    ) -> Session:
        """A new client. Without an identity its first command must be `auth`. It may send `max_message` bytes at once.

        One that is too many for its identity or its address, or was revoked since it was checked, is closed after this
        has returned.
        """
        if self._state != "open":
            raise HubClosed("the hub is not running")
        self._check_thread("connect")
        now = self._tick()
        is_revoked = False
        try:
            identity = identity and self.settle(identity, handshake)
        except AuthenticationError:
            is_revoked = True
        session = self._engine.connect(wire, identity, now, id=secrets.token_urlsafe(16), max_message=max_message)
        session.peer = transport
        handshake = self.doorkeeper.resolve(handshake)
        self._driver.reception.enter(session, handshake)
        if is_revoked:
            self._engine.end(session, CloseCode.UNAUTHENTICATED, REVOKED, now)
        logger.debug("%s client connected, %d in all", handshake.transport, len(self._engine.sessions))
        self._driver.nudge()
        return session

    def receive_data(self, session: Session, data: str | bytes) -> None:
        """One client frame: text as `str`, binary as `bytes`."""
        self._check_thread("receive_data")
        self._engine.receive_data(session, data, self._tick())
        self._driver.nudge()

    def resumed(self, session: Session) -> None:
        """A transport whose `write` returned False has room again."""
        self._engine.resumed(session, self._clock())
        self._driver.nudge()

    def disconnect(self, session: Session) -> None:
        """The peer has gone. Harmless if the session has ended already."""
        self._engine.disconnect(session, self._clock())
        self._driver.reception.forget(session)
        self._driver.nudge()  # a shutdown may be waiting for nobody else

    def note(self, kind: str, message: str, *args: object) -> None:
        """Count it, and log it at most once a second. `kind` is one of `COUNTERS`; a peer's own words are escaped."""
        self._engine.counters[kind] += 1
        self._muffler.log(level_of(kind), kind, message, *args)

    def session(self, id: str) -> Session | None:
        """The session that was told this `id` in its `$hello`, while it lasts."""
        return self._engine.sessions.get(id)

    @property
    def tuning(self) -> Tuning:
        return self._engine.tuning

    # --- looking in

    def statistics(self) -> HubStatistics:
        """Everything that is counted, exact at this moment; O(subscriptions)."""
        return self._engine.statistics()

    def ledger(self, session: Session) -> dict[str, Ledger]:
        """What became of every item for one session, by channel; after its end, the closed account."""
        return self._engine.ledger(session) if not session.is_closed else dict(session.final)

    @property
    def sessions(self) -> list[Session]:
        """The sessions there are now."""
        return list(self._engine.sessions.values())

    def nudge(self) -> None:
        """Look at the clock now. For tests that move a clock of their own; the hub itself knows when to look."""
        self._driver.nudge()
