"""The object that an application holds."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import AsyncExitStack
from datetime import datetime
from threading import Lock, get_ident
from types import TracebackType
from typing import Final, Literal, Self, get_args

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from ..access import Access, Revocation
from ..access.proxies import PROXIES
from ..access.revocation import Revocations
from ..channels import Channel
from ..clock import Clock
from ..codes import CloseCode
from ..contracts import ANONYMOUS, Authenticate, Authorize, Gateway, Journal, Receipt
from ..core.engine import Engine
from ..core.session import Session
from ..core.statistics import EngineStatistics, Ledger
from ..exceptions import UnknownChannel
from ..identity import Identity
from ..journals.memory import MemoryJournal
from ..protocol import Timestamps
from ..protocol.encoding import Encode, PayloadEncoder
from ..protocol.items import check_key, check_mode, find_key, find_type, format_timestamp
from ..telemetry import Telemetry, logger
from ..tuning import Tuning
from .demand import DemandChanges
from .driver import Driver
from .gateway import REVOKED, HubGateway
from .inbox import Inbox, QueuedItem
from .journal import JournalWriter
from .lifecycle import Lifecycle
from .siblings import WARNING, Siblings, is_worker

HubStatistics = EngineStatistics
OnRevoke = Callable[[Revocation], None]
BeforeStart = Literal["raise", "drop", "keep"]


class Hub:
    """Channels, their subscribers, and the task that serves them; an async context manager.

    `authenticate` returns the identity of a peer (`JWTAuthenticator`, `anonymous`, or any callable, sync or async, from
    `Handshake` to `Identity`); if it has a method `run`, that runs as long as the hub is open. `authorize`, if given,
    is called after the roles of a channel have admitted an identity, and `on_revoke` with each `Revocation` made here.
    `encode` converts payloads of types that are not known otherwise (`docs/payloads.md`).
    `grace` bounds the shutdown in seconds. `proxies` are the addresses and networks of trusted proxies: for their
    connections, and no others, `X-Forwarded-For` names the client. `before_start` is what `publish` and `delete` do
    before the hub is entered: "raise" `HubClosed`, "drop" the item, or "keep" it until then; both are counted.
    Transports are given the hub, and call its `gateway`.

    A hub may be entered again after it was left, in another event loop and by another task. Each time is a life of its
    own, in which everything is new: epochs, sessions, tickets, statistics. Only revocations are remembered, and what
    a `journal` that was passed has kept.
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
        encode: Encode | None = None,
        grace: float = 5.0,
        node: str | None = None,
        before_start: BeforeStart = "raise",
        proxies: Collection[str] = PROXIES,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if before_start not in get_args(BeforeStart):
            raise ValueError(f"before_start is {before_start!r}; it must be 'raise', 'drop' or 'keep'")
        self.channels: Final = tuple(channels)
        self._given_node = node
        self._node = node or ""
        self._tuning = tuning
        self._authenticate = authenticate
        self._authorize = authorize
        self._proxies = proxies
        self._given_journal = journal
        self._grace = grace
        self._on_revoke = on_revoke
        self._encoder = PayloadEncoder(encode)
        self._encode = self._encoder.encode
        self._before_start = before_start
        self._early_lock = Lock()
        self._timestamps = Timestamps()  # for other threads
        self._gateway = HubGateway(self.channels, self._encoder)
        self.gateway: Final[Gateway] = self._gateway
        self._inbox = Inbox()
        self._driver: Driver
        self._stack = AsyncExitStack()
        self._set_clock(Clock(clock, wall_clock))

    def _set_clock(self, clock: Clock, number: int = 0) -> None:
        """Use this clock from the next life on, before which there were `number`."""
        self._life = Lifecycle(clock, number)
        self._monotonic = clock.monotonic
        self._telemetry = Telemetry(Counter(), clock.monotonic)
        memory = (self._tuning or Tuning()).revocation_memory
        self._revocations = Revocations(memory, clock, self._telemetry)
        self._renew("not-entered", self._node)

    def _renew(self, nonce: str, node: str) -> None:
        """Make what belongs to one life, from the settings alone; raises what is wrong with them."""
        life, telemetry = self._life, self._telemetry
        engine = Engine(
            self.channels, self._tuning, nonce=nonce, node=node, asks_to_authorize=self._authorize is not None
        )
        access = Access(
            engine.tuning,
            life.clock,
            telemetry,
            self._revocations,
            authenticate=self._authenticate,
            authorize=self._authorize,
            proxies=self._proxies,
        )
        access.limits.add_gauge(engine.measure_buffered)
        journal = self._given_journal if self._given_journal is not None else MemoryJournal()
        self._node = node
        self._engine = life.engine = engine
        telemetry.counters = engine.counters
        self._access = access
        self._journal = JournalWriter(engine, journal, life, telemetry)
        self._gateway.begin(engine, life, access, telemetry, self._journal)

    @property
    def node(self) -> str:
        """The name of this hub in `$hello`: the one given, or a random one of each life; empty before the first."""
        return self._node

    # --- life

    async def __aenter__(self) -> Self:
        life = self._life
        before, counted = life.state, self._engine.counters
        life.entering()
        try:
            # Nothing that names a life may be drawn earlier: the process may be forked until now.
            node = self._given_node if self._given_node is not None else secrets.token_hex(4)
            self._renew(secrets.token_urlsafe(9), node)
            if before == "new":
                self._engine.counters.update(counted)
            else:
                self._inbox = Inbox()
            self._ended = anyio.Event()
            self._driver = Driver(self._engine, life, self._telemetry, self._gateway, self._journal, self._inbox)
            self._gateway.attach(self._driver)
            life.tick()
            await self._journal.open()
            async with AsyncExitStack() as stack:  # `asyncio` may cancel each of these steps, shielded or not
                stack.callback(self._journal.close)
                await self._driver.start(self._access.run, self._driver_ended)
                stack.push_async_callback(self._driver.stop)
                stack.push_async_callback(self._shut_down)
                self._stack = stack.pop_all()
        except BaseException:
            life.state = before
            raise
        life.number += 1
        life.enter()
        self._driver.publish_queued(life.tick())  # what was kept comes before what is published now
        self._notice_siblings()
        logger.debug("hub %s is open", self.node)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self._life.state != "forked":  # else the parent process leaves it
            await self._stack.aclose()
        return None

    def _notice_siblings(self) -> None:
        """Warn of other processes that serve the same application, because they share nothing."""
        if not is_worker():
            return
        try:
            siblings = Siblings(channel.name for channel in self.channels)
            self._stack.callback(siblings.close)
            other = siblings.find()
        except OSError as error:
            logger.debug("other workers cannot be noticed: %s", error)
            return
        if other is not None:
            logger.warning(WARNING, other)

    async def _shut_down(self) -> None:
        with anyio.CancelScope(shield=True):
            await self.shutdown()

    def _driver_ended(self) -> None:
        """The driver has failed, or the event loop has cancelled it: nothing is served any more."""
        self._life.state = "closed"
        self._ended.set()
        self._driver.demand.end()
        self._driver.end_all(CloseCode.SERVICE_RESTART, "the server restarts")

    @property
    def is_open(self) -> bool:
        """Whether the hub was entered, and accepts clients and items."""
        return self._gateway.is_open

    @property
    def is_draining(self) -> bool:
        """Whether the shutdown has begun."""
        return self._gateway.is_draining

    async def shutdown(self, grace: float | None = None) -> None:
        """Tell every client when to reconnect, in a slot of its own; write what is pending; close with 1012.

        Takes at most `grace` seconds, whatever the clients do. If it is cancelled, it skips the waiting and closes all
        sessions at once. A second call waits for the first.
        """
        life = self._life
        if life.state in ("new", "entering", "closed"):
            return
        life.check_thread("shutdown")
        if life.state == "draining":
            await self._ended.wait()
            return
        life.state = "draining"
        self._driver.demand.end()
        grace = self._grace if grace is None else grace
        self._driver.publish_queued(life.tick())
        self._engine.drain(grace, self._monotonic())
        self._driver.is_draining = True
        self._driver.wake()
        try:
            with anyio.move_on_after(grace):
                await self._driver.drained.wait()
        finally:
            life.state = "closed"
            self._ended.set()
            self._driver.end_all(CloseCode.SERVICE_RESTART, "the server restarts")

    # --- publishing

    def publish(
        self,
        channel: str,
        data: object,
        *,
        type: str | None = None,
        key: object = None,
        timestamp: datetime | float | None = None,
    ) -> None:
        """Push `data` to all subscribers of `channel`. Any thread or signal handler may call it; it never waits.

        `data` is whatever msgspec encodes (structs, dataclasses, dicts, ...), the types of `docs/payloads.md`, or a
        `msgspec.Raw`. `type` defaults to the channel's, then to the struct's tag, then to the channel's name; `key`
        (a text, an integer, a UUID, an Enum), on a table, to the field that the channel names. `timestamp`, an aware
        datetime or Unix seconds, is for what happened earlier: the item carries it, while order and age follow the time
        of this call. Raises `HubClosed`, `UnknownChannel`, `InvalidItem`, `TableFull`, `ChannelLimitReached`, and from
        other threads `HubOverloaded`; never because of a subscriber. O(1) whatever their number.
        """
        engine = self._engine
        body = self._encode(data)
        declared = engine.registry.declaration(channel)
        item_type = find_type(declared, data, type)
        item_key = None
        if key is not None or declared.key is not None:
            item_key = find_key(declared, data, key, body, self._encoder)
        stamp = None if timestamp is None else format_timestamp(timestamp)
        if get_ident() == self._life.thread and self._life.state == "open" and not engine.is_busy:
            engine.publish(channel, body, self._monotonic(), type=item_type, key=item_key, stamp=stamp)
            if not self._driver.is_awake and engine.wants_turn:
                self._driver.wake()
        else:
            self._queue(channel, body, item_type, item_key, stamp, deleted=False)

    async def publish_confirmed(
        self,
        channel: str,
        data: object,
        *,
        type: str | None = None,
        key: object = None,
        timestamp: datetime | float | None = None,
    ) -> Receipt:
        """Publish, and wait until the item is accepted: on a durable channel, until its journal has it.

        Raises what `publish` does, and `JournalError` if the journal refused the item.
        """
        self._life.check_process()  # the event loop of a forked process does not work
        await checkpoint_if_cancelled()
        stamp = None if timestamp is None else format_timestamp(timestamp)
        submitted = self._gateway.submit(channel, data, type=type, key=key, stamp=stamp)
        if isinstance(submitted, Receipt):
            await cancel_shielded_checkpoint()
            return submitted
        return await submitted.wait()

    def delete(self, channel: str, key: object) -> None:
        """Remove `key` from a table: subscribers get it with `deleted`. Nothing happens if it is not there."""
        self._engine.registry.declaration(channel)
        item_key = check_key(key, self._encoder)
        if get_ident() == self._life.thread and self._life.state == "open" and not self._engine.is_busy:
            self._engine.delete(channel, item_key, self._monotonic())
            self._driver.wake()
        else:
            self._queue(channel, b"null", None, item_key, None, deleted=True)

    def _queue(
        self, channel: str, body: bytes, type: str | None, key: str | None, stamp: str | None, *, deleted: bool
    ) -> None:
        """Publish from another thread, early, or in the middle of a step: check what can be now, queue the rest."""
        is_early = self._life.has_not_started and self._before_start != "raise"
        if not is_early:
            self._life.check_open()
        log = self._engine.registry.logs.get(channel)
        if log is not None:
            log.check(key, deleted)
        else:
            check_mode(self._engine.registry.declaration(channel), channel, key)
        self._engine.check_size(channel, body)
        if is_early:
            with self._early_lock:  # many threads may be early, and counting is no atomic step
                self._telemetry.count("published-early")
            if self._before_start == "drop":
                return
        if stamp is None:
            stamp = self._timestamps.format(self._life.clock.wall())
        self._inbox.put(QueuedItem(channel, body, type, key, stamp, deleted))

    # --- demand

    def demand(self, channel: str) -> DemandChanges:
        """What is watched of a declared channel or pattern, for sources that run only while it is.

        `async for demand in hub.demand("prices")` yields a `Demand` at once, and then whenever `viewers`, `keys` or
        `max_hz` has changed; it ends with the shutdown. Raises `UnknownChannel`, and `HubClosed` while the hub is not
        open.
        """
        self._life.check_open()
        self._life.check_thread("demand")
        if all(declared.name != channel for declared in self.channels):
            self._engine.registry.declaration(channel)  # raises what is wrong with it
            raise UnknownChannel(f"{channel!r} is a member of a pattern; ask for the demand of the whole pattern")
        return self._driver.demand.observe(channel)

    # --- access

    def revoke(self, identity: str | None = None, *, token_id: str | None = None) -> int:
        """Close the sessions of an identity, or of the token with this id (4401); returns their number.

        The token, or all tokens issued to the identity up to now, are refused for `Tuning.revocation_memory` seconds,
        and so are peers that are being checked. A peer with a session of the host may come back as soon as
        `authenticate` accepts it. `on_revoke` is called with what other nodes must know. O(sessions).
        """
        return self._decide(Revocation(identity=identity, token_id=token_id, at=self._life.clock.wall()), "revoke")

    def set_roles(self, identity: str, roles: Iterable[str]) -> int:
        """Give an identity these roles, in place of those of its tokens up to now; returns the number of its sessions.

        Subscriptions that the roles do not allow end at once, and are named to the client. The roles are remembered,
        and reported to other nodes, as a revocation is.
        """
        if identity == ANONYMOUS.id:
            raise ValueError(f"identity is {identity!r}, which all anonymous clients share; it has no roles of its own")
        names = roles if isinstance(roles, str) else frozenset(roles)
        return self._decide(Revocation(identity=identity, at=self._life.clock.wall(), roles=names), "set_roles")

    def apply_revocation(self, revocation: Revocation) -> int:
        """Apply what another hub has decided; returns the number of sessions concerned, 0 if it is known already.

        May be called while the hub is not entered, with what was decided while it was down.
        """
        self._life.check_thread_if_entered("apply_revocation")
        revocations = self._access.revocations
        if revocations.knows(revocation):
            return 0
        revocations.add(revocation)
        sessions = [
            session
            for session in self._sessions_of(revocation)
            if session.identity is not None and revocations.outdates(revocation, session.identity, session.started)
        ]
        self._enforce(revocation, sessions)
        return len(sessions)

    def _decide(self, revocation: Revocation, call: str) -> int:
        self._life.check_thread_if_entered(call)
        self._access.revocations.add(revocation)
        sessions = self._sessions_of(revocation)
        self._enforce(revocation, sessions)
        if self._on_revoke is not None:
            self._on_revoke(revocation)
        return len(sessions)

    def _sessions_of(self, revocation: Revocation) -> list[Session]:
        sessions = self._engine.sessions.values()
        return [
            session for session in sessions if session.identity is not None and revocation.concerns(session.identity)
        ]

    def _enforce(self, revocation: Revocation, sessions: list[Session]) -> None:
        for session in sessions:
            if revocation.roles is None:
                self._engine.end(session, CloseCode.UNAUTHENTICATED, REVOKED, self._life.tick())
            else:
                self._gateway.set_roles(session, revocation.roles)
        if sessions:
            self._driver.wake()

    def reauthorize(self, identity: str) -> None:
        """Drop the cached answers of `authorize` about an identity, and ask again about its subscriptions.

        Subscriptions that are refused now, or have no answer in time, end.
        """
        self._life.check_thread_if_entered("reauthorize")
        self._access.authorization.forget(identity)
        for session in list(self._engine.sessions.values()):
            if session.identity is not None and session.identity.id == identity:
                self._gateway.reauthorize(session)

    def issue_ticket(self, identity: Identity) -> str:
        """A ticket with which `identity` may connect once, within `Tuning.ticket_ttl` seconds, to this process.

        `POST /ticket` is the same over HTTP. Raises `Overloaded` if too many are open.
        """
        return self._gateway.issue_ticket(identity)

    # --- statistics

    def statistics(self) -> HubStatistics:
        """Everything that is counted, exact at this moment; O(subscriptions). After the end, of the last life."""
        return self._engine.statistics()

    def ledger(self, session: Session) -> dict[str, Ledger]:
        """What became of every item for one session, by channel; after its end, the closed account."""
        return self._engine.ledger(session) if not session.is_closed else dict(session.final)

    @property
    def sessions(self) -> list[Session]:
        """The sessions that are open now."""
        return list(self._engine.sessions.values())

    def wake(self) -> None:
        """Look at the clock now. For tests that move a clock of their own; the hub itself knows when to look."""
        self._driver.wake()
