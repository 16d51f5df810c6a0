"""What an application holds: the anyio driver of the engine.

The engine decides, the hub does: it owns one task that flushes, tasks for calls that take time (a token to check, a
journal to write), an inbox for other threads, and nothing for each client.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from threading import get_ident
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.abc
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from .admission import Admission
from .channels import Channel
from .contracts import Authenticate, Authorize, Handshake, Journal, Transport
from .core.engine import Engine
from .core.ledger import Ledger
from .core.session import Session
from .core.statistics import EngineStatistics
from .core.wire import Wire
from .driver import Driver, slim
from .exceptions import HubClosed, HubError
from .identity import Identity
from .inbox import Parcel
from .journaling import JournalClerk, Receipt, Waiter
from .journals.memory import MemoryJournal
from .observability import Muffler, logger
from .protocol import CloseCode, Timestamps
from .publication import check_key, check_mode, encode_data, find_key, find_type
from .tuning import Tuning

HubStatistics = EngineStatistics


class Hub:
    """Channels, their subscribers, and the task that serves them; an async context manager.

    `authenticate` says who a peer is (`JWTAuthenticator`, `anonymous`, or any callable, sync or async, from
    `Handshake` to `Identity`); `authorize`, if given, is asked after the roles of a channel have admitted an identity.
    `grace` bounds the shutdown in seconds. A hub belongs to the event loop it is entered in, and serves it once.
    """

    def __init__(
        self,
        channels: Iterable[Channel],
        *,
        authenticate: Authenticate,
        authorize: Authorize | None = None,
        tuning: Tuning | None = None,
        journal: Journal | None = None,
        grace: float = 5.0,
        node: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.node: Final = node if node is not None else secrets.token_hex(4)
        self.channels: Final = tuple(channels)
        self._clock = clock
        self._wall_clock = wall_clock
        self._grace = grace
        self._engine = Engine(
            self.channels,
            tuning,
            nonce=secrets.token_urlsafe(9),
            node=self.node,
            asks_to_authorize=authorize is not None,
        )
        self._muffler = Muffler(clock)
        self._admission = Admission(
            authenticate, authorize, self._engine.tuning.auth_timeout, wall_clock, self.count, self._muffler
        )
        self._clerk = JournalClerk(
            self._engine, journal if journal is not None else MemoryJournal(), self._tick, self._muffler
        )
        self._stamps = Timestamps()  # for other threads
        self._stack = AsyncExitStack()
        self._thread: int | None = None
        self._state = "new"

    # --- life

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise HubClosed(f"a hub serves once, and this one is {self._state}; make a new Hub")
        self.draining = anyio.Event()
        """Set when the hub drains: transports stop accepting."""
        self._ended = anyio.Event()
        self._driver = Driver(self._engine, self._admission, self._clerk, self._muffler, self._clock, self._tick)
        self._tick()
        await self._clerk.open()
        await self._stack.enter_async_context(self._driver.run())
        self._thread = get_ident()
        self._state = "open"
        logger.debug("hub %s is open", self.node)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        with anyio.CancelScope(shield=True):
            await self.shutdown()
        try:
            if isinstance(exc, (Exception, KeyboardInterrupt, SystemExit)):
                # The application's own: in the group of a task group that it never saw, nobody would expect it.
                await self._stack.aclose()
                return None
            return await self._stack.__aexit__(exc_type, exc, traceback)
        finally:
            self._clerk.close()

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

    # --- publishing

    def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None:
        """Push `data` to everyone who subscribed to `channel`. Any thread may call it; it never waits.

        `data` is whatever msgspec encodes (structs, dataclasses, dicts, ...) or a `msgspec.Raw`. `type` defaults to
        the channel's, then to the struct's tag, then to the channel's name; `key`, on a table, to the field that the
        channel names. Raises `HubClosed`, `UnknownChannel`, `InvalidItem`, `TableFull`, `ChannelLimitReached`, and
        from other threads `HubOverloaded`; never because of a subscriber. O(1) whatever their number.
        """
        engine = self._engine
        body = encode_data(data)
        declared = engine.registry.declaration(channel)
        item_type = find_type(declared, data, type)
        if key is not None or declared.key is not None:
            key = find_key(declared, data, key)
        if get_ident() == self._thread and self._state == "open":
            engine.publish(channel, body, self._clock(), type=item_type, key=key)
            if not self._driver.is_nudged and engine.wants_turn:
                self._driver.nudge()
        else:
            self._post(channel, body, item_type, key, deleted=False)

    async def publish_confirmed(
        self, channel: str, data: object, *, type: str | None = None, key: str | None = None
    ) -> Receipt:
        """Publish, and wait until the item is accepted: on a durable channel, until its journal has it.

        Raises what `publish` does, and `JournalError` if the journal refused the item.
        """
        await checkpoint_if_cancelled()
        outcome = self.submit(channel, data, type=type, key=key)
        if isinstance(outcome, Receipt):
            await cancel_shielded_checkpoint()
            return outcome
        return await outcome.wait()

    def delete(self, channel: str, key: str) -> None:
        """Remove `key` from a table: subscribers get it with `deleted`. Nothing happens if it is not there."""
        self._engine.registry.declaration(channel)
        key = check_key(key)
        if get_ident() == self._thread and self._state == "open":
            self._engine.delete(channel, key, self._clock())
            self._driver.nudge()
        else:
            self._post(channel, b"null", None, key, deleted=True)

    def submit(
        self, channel: str, data: object, *, type: str | None = None, key: str | None = None
    ) -> Receipt | Waiter:
        """As `publish_confirmed`, but what waits for the journal is handed out: so several items reach it together."""
        engine = self._engine
        self._check_open()
        self._check_thread("publish_confirmed")
        declared = engine.registry.declaration(channel)
        body = encode_data(data)
        waiter = Waiter()
        place = engine.publish(
            channel,
            body,
            self._clock(),
            type=find_type(declared, data, type),
            key=find_key(declared, data, key),
            waiter=waiter,
        )
        self._driver.nudge()
        if place is not None:
            return Receipt(*place)
        self._clerk.waiters.add(waiter)
        return waiter

    def remove(self, channel: str, key: str) -> Receipt | None:
        """As `delete`, on the hub's own thread alone; None if there was nothing to remove."""
        self._check_open()
        self._check_thread("remove")
        self._engine.registry.declaration(channel)
        if not self._engine.delete(channel, check_key(key), self._clock()):
            return None
        self._driver.nudge()
        log = self._engine.registry.logs[channel]
        return Receipt(log.epoch, log.head)

    def declaration(self, channel: str) -> Channel:
        """The declared channel or pattern that `channel` falls under; raises `UnknownChannel` or `InvalidChannel`."""
        return self._engine.registry.declaration(channel)

    def _check_open(self) -> None:
        if self._state == "new":
            raise HubClosed("the hub is not running; add `async with hub:` around the application's lifespan")
        if self._state != "open":
            raise HubClosed("the hub has been shut down; nothing more can be published")

    def _check_thread(self, what: str) -> None:
        if get_ident() != self._thread:
            raise HubError(f"{what} belongs to the hub's event loop; other threads may call publish and delete alone")

    def _post(self, channel: str, body: bytes, type: str | None, key: str | None, *, deleted: bool) -> None:
        """Publish from another thread: check what can be checked here, and leave the rest to the event loop."""
        self._check_open()
        log = self._engine.registry.logs.get(channel)
        if log is not None:
            log.check(key, deleted)
        else:
            check_mode(self._engine.registry.declaration(channel), channel, key)
        self._engine.check_size(channel, body)
        stamp = self._stamps.format(self._wall_clock())
        self._driver.inbox.put(Parcel(channel, body, type, key, stamp, deleted))

    # --- for transports, on the event loop's thread

    async def check(self, handshake: Handshake) -> Identity:
        """Who the peer is; raises `AuthenticationError`, `PermissionDenied`, or `HubError` if nobody can tell."""
        return await self._admission.check(handshake)

    async def admit(self, handshake: Handshake) -> Identity | None:
        """As `check`, but None if there is no token yet and the peer may send one as its first message."""
        return await self._admission.admit(handshake)

    def connect(self, transport: Transport, wire: Wire, identity: Identity | None, handshake: Handshake) -> Session:
        """A new client. Without an identity its first command must be `auth`."""
        if self._state != "open":
            raise HubClosed("the hub is not running")
        self._check_thread("connect")
        now = self._tick()
        session = self._engine.connect(wire, identity, now, id=secrets.token_urlsafe(16))
        session.peer = transport
        self._driver.handshakes[session] = handshake if identity is None else slim(handshake)
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
        self._driver.handshakes.pop(session, None)
        self._driver.nudge()  # a shutdown may be waiting for nobody else

    def count(self, name: str, number: int = 1) -> None:
        """Count something that happened; `statistics().counters` shows it. `name` is one of few."""
        self._engine.counters[name] += number

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

    def _tick(self) -> float:
        now = self._clock()
        self._engine.tell_time(now, self._wall_clock())
        return now

    def nudge(self) -> None:
        """Look at the clock now. For tests that move a clock of their own; the hub itself knows when to look."""
        self._driver.nudge()
