"""What an application holds: the anyio driver of the engine.

The engine decides, the hub does: it owns one task that flushes, tasks for calls that take time (a token to check, a
journal to write), an inbox for other threads, and nothing for each client.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from threading import get_ident
from types import TracebackType
from typing import Final, Self, cast

import anyio
import anyio.abc
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from .admission import Admission
from .channels import Channel
from .contracts import Authenticate, Authorize, Handshake, Journal, Transport
from .core.engine import Engine
from .core.events import Append, AskAuthorize, CheckToken, Close, Event, Interest, Pause, Read
from .core.ledger import Ledger
from .core.session import Session
from .core.statistics import EngineStatistics
from .core.wire import Wire
from .exceptions import HubClosed, HubError, JournalError
from .identity import Identity
from .inbox import Inbox, Parcel, threadsafe
from .journals.memory import MemoryJournal
from .observability import Muffler, logger
from .protocol import CloseCode, Timestamps
from .publication import check_key, check_mode, encode_data, find_key, find_type
from .tuning import Tuning

SLICE: Final = 0.005
"""Seconds of writes after which a flush lets the event loop have its turn."""
IDLE: Final = 1.0
"""Seconds the hub sleeps at most: the time of day is looked at as often."""

HubStatistics = EngineStatistics


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a confirmed item stands in its channel."""

    epoch: str
    seq: int


class _Waiter:
    """Somebody waits for the journal."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.outcome: Receipt | JournalError | None = None

    def settle(self, outcome: Receipt | JournalError) -> None:
        self.outcome = outcome
        self.done.set()


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
        self._clock = clock
        self._wall_clock = wall_clock
        self._grace = grace
        self._engine = Engine(
            channels,
            tuning,
            nonce=secrets.token_urlsafe(9),
            node=self.node,
            asks_to_authorize=authorize is not None,
        )
        self._muffler = Muffler(clock)
        self._admission = Admission(
            authenticate, authorize, self._engine.tuning.auth_timeout, wall_clock, self.count, self._muffler
        )
        self._journal: Journal = journal if journal is not None else MemoryJournal()
        self._stamps = Timestamps()  # for other threads: formatting is stateless but for a cache that is set whole
        self._handshakes: dict[Session, Handshake] = {}
        self._stack = AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._thread: int | None = None
        self._is_nudged = False
        self._nudged = anyio.Event()
        self._waiters: set[_Waiter] = set()
        self._state = "new"

    # --- life

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise HubClosed(f"a hub serves once, and this one is {self._state}; make a new Hub")
        self._nudged = anyio.Event()
        self.draining = anyio.Event()
        """Set when the hub drains: transports stop accepting."""
        self._quiet = anyio.Event()
        self._ended = anyio.Event()
        self._inbox = Inbox(threadsafe(self._nudge))
        now = self._tick()
        for name, log in list(self._engine.registry.logs.items()):
            if log.channel.mode == "durable":
                state = await self._journal.open(name, log.epoch)
                self._engine.restore(name, state.epoch, state.oldest, state.head)
        await self._stack.enter_async_context(self._run())
        self._thread = get_ident()
        self._state = "open"
        logger.debug("hub %s is open, since %.3f", self.node, now)
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
            for waiter in self._waiters:
                waiter.settle(JournalError("the hub ended before the journal answered; it may have the item or not"))

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        life = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as outer:
            with anyio.CancelScope(shield=True):
                await outer.start(self._live, life)
            try:
                yield
            finally:
                life.cancel()

    async def _live(self, life: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Run the hub's own tasks. Shielded: an application that is cancelled still has its last words delivered."""
        with life:
            try:
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    tasks.start_soon(self._pump)
                    task_status.started()
            finally:
                self._tasks = None
                self._quiet.set()  # nothing will be written any more, so nobody need wait for it

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
        self._take_parcels(self._tick())
        self._engine.drain(grace, self._clock())
        self._nudge()
        try:
            with anyio.move_on_after(grace):
                await self._quiet.wait()
        finally:
            self._end_all()

    def _end_all(self) -> None:
        self._state = "closed"
        self._ended.set()
        if self._tasks is None:  # they died of a bug, which is about to surface
            for session in self.sessions:
                self._hang_up(session)
            return
        now = self._tick()
        for session in list(self._engine.sessions.values()):
            self._engine.end(session, CloseCode.SERVICE_RESTART, "the server restarts", now)
        while self._transmit():
            pass

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
            if not self._is_nudged and engine.wants_turn:
                self._nudge()
        else:
            self._post(channel, body, item_type, key, deleted=False)

    async def publish_confirmed(
        self, channel: str, data: object, *, type: str | None = None, key: str | None = None
    ) -> Receipt:
        """Publish, and wait until the item is accepted: on a durable channel, until its journal has it.

        Raises what `publish` does, and `JournalError` if the journal refused the item.
        """
        engine = self._engine
        self._check_open()
        self._check_thread("publish_confirmed")
        await checkpoint_if_cancelled()
        declared = engine.registry.declaration(channel)
        body = encode_data(data)
        waiter = _Waiter()
        place = engine.publish(
            channel,
            body,
            self._clock(),
            type=find_type(declared, data, type),
            key=find_key(declared, data, key),
            waiter=waiter,
        )
        self._nudge()
        if place is not None:
            await cancel_shielded_checkpoint()
            return Receipt(*place)
        self._waiters.add(waiter)
        try:
            await waiter.done.wait()
        finally:
            self._waiters.discard(waiter)
        if isinstance(waiter.outcome, Receipt):
            return waiter.outcome
        raise cast("JournalError", waiter.outcome)

    def delete(self, channel: str, key: str) -> None:
        """Remove `key` from a table: subscribers get it with `deleted`. Nothing happens if it is not there."""
        self._engine.registry.declaration(channel)
        key = check_key(key)
        if get_ident() == self._thread and self._state == "open":
            self._engine.delete(channel, key, self._clock())
            self._nudge()
        else:
            self._post(channel, b"null", None, key, deleted=True)

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
        self._inbox.put(Parcel(channel, body, type, key, stamp, deleted))

    def _take_parcels(self, now: float) -> None:
        for parcel in self._inbox.take():
            try:
                if parcel.deleted:
                    self._engine.delete(parcel.channel, parcel.key or "", now, stamp=parcel.stamp)
                else:
                    self._engine.publish(
                        parcel.channel, parcel.data, now, type=parcel.type, key=parcel.key, stamp=parcel.stamp
                    )
            except HubError as error:
                self.count("publish-refused")
                self._muffler.log(logging.ERROR, "publish", "an item from another thread was refused: %s", error)

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
        self._handshakes[session] = handshake if identity is None else _slim(handshake)
        logger.debug("%s client connected, %d in all", handshake.transport, len(self._engine.sessions))
        self._nudge()
        return session

    def receive_data(self, session: Session, data: str | bytes) -> None:
        """One client frame: text as `str`, binary as `bytes`."""
        self._check_thread("receive_data")
        self._engine.receive_data(session, data, self._tick())
        self._nudge()

    def resumed(self, session: Session) -> None:
        """A transport whose `write` returned False has room again."""
        self._engine.resumed(session, self._clock())
        self._nudge()

    def disconnect(self, session: Session) -> None:
        """The peer has gone. Harmless if the session has ended already."""
        self._engine.disconnect(session, self._clock())
        self._handshakes.pop(session, None)
        self._nudge()  # a shutdown may be waiting for nobody else

    def count(self, name: str, number: int = 1) -> None:
        """Count something that happened; `statistics().counters` shows it. `name` is one of few."""
        self._engine.counters[name] += number

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

    # --- the task

    def _tick(self) -> float:
        now = self._clock()
        self._engine.tell_time(now, self._wall_clock())
        return now

    def _nudge(self) -> None:
        if not self._is_nudged:
            self._is_nudged = True
            self._nudged.set()

    async def _pump(self) -> None:
        while True:
            self._is_nudged = False
            if self._nudged.is_set():
                self._nudged = anyio.Event()
            if self._transmit():
                await checkpoint()
                continue
            if self._state == "draining" and self._engine.is_quiet:
                self._quiet.set()
            timer = self._engine.get_timer()
            delay = IDLE if timer is None else min(IDLE, timer - self._clock())
            if delay <= 0:
                await checkpoint()
                continue
            with anyio.move_on_after(delay):
                await self._nudged.wait()

    def _transmit(self) -> bool:
        """Write what is due and do what the engine asks; True if time ran out before everything was written."""
        engine = self._engine
        now = self._tick()
        self._take_parcels(now)
        engine.handle_timer(now)
        clock = self._clock
        is_unfinished = False
        for frame, recipients in engine.data_to_send():
            for session in recipients:
                try:
                    has_room = session.peer.write(frame)
                except Exception as error:  # noqa: BLE001 - a transport must not, but one that does harms nobody else
                    self._give_up(session, error)
                    continue
                if not has_room:
                    engine.stalled(session, now)
            if clock() - now > SLICE:
                is_unfinished = True
                break
        for event in engine.events():
            self._handle(event)
        return is_unfinished

    def _handle(self, event: Event) -> None:
        match event:
            case Close(session, code, reason):
                self._handshakes.pop(session, None)
                try:
                    session.peer.close(code, reason)
                except Exception as error:  # noqa: BLE001 - as for a write
                    self._report(error)
            case Pause(session, paused):
                try:
                    (session.peer.pause_reading if paused else session.peer.resume_reading)()
                except Exception as error:  # noqa: BLE001 - as for a write
                    self._give_up(session, error)
            case CheckToken(session, token):
                self._start(self._check_token, session, token)
            case AskAuthorize():
                self._start(self._ask_authorize, event)
            case Append():
                self._start(self._append, event)
            case Read():
                self._start(self._read, event)
            case Interest():
                pass  # a broker will want to know

    def _give_up(self, session: Session, error: Exception) -> None:
        """End a session whose transport is broken, as gently as that allows."""
        if session.is_closed:
            return  # something was still on its way to it
        self._report(error)
        self.disconnect(session)
        self._hang_up(session)

    def _hang_up(self, session: Session) -> None:
        try:
            session.peer.close(CloseCode.INTERNAL_ERROR, "internal error")
        except Exception as error:  # noqa: BLE001 - it was given its chance
            self._report(error)

    def _report(self, error: Exception) -> None:
        self.count("transport-failed")
        self._muffler.log(logging.ERROR, "transport", "a transport raised %r", error)

    def _start(self, function: Callable[..., object], *args: object) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(function, *args)  # type: ignore[arg-type]

    async def _check_token(self, session: Session, token: str) -> None:
        handshake = self._handshakes.get(session)
        if handshake is None:
            return
        result = await self._admission.judge(replace(handshake, token=token))
        self._engine.authenticated(session, result, self._tick())
        if isinstance(result, Identity) and session in self._handshakes:
            self._handshakes[session] = _slim(handshake)
        self._nudge()

    async def _ask_authorize(self, event: AskAuthorize) -> None:
        allowed = await self._admission.authorize(event.identity, event.channels)
        self._engine.authorized(event.session, allowed, event.channels, self._tick())
        self._nudge()

    async def _append(self, event: Append) -> None:
        waiters = [draft.waiter for draft in event.drafts]
        try:
            oldest = await self._journal.append(event.channel, event.first, event.items)
        except Exception as error:  # noqa: BLE001 - a journal is the application's: whatever it raises, nothing was kept
            self._engine.rejected(event.channel)
            self._muffler.log(
                logging.ERROR,
                "journal",
                "the journal refused %d items of %s: %r",
                len(event.items),
                event.channel,
                error,
            )
            failure = error if isinstance(error, JournalError) else JournalError(f"the journal refused: {error!r}")
            for waiter in waiters:
                if isinstance(waiter, _Waiter):
                    waiter.settle(failure)
        else:
            self._engine.committed(event.channel, oldest, self._tick())
            epoch = self._engine.registry.logs[event.channel].epoch
            for seq, waiter in enumerate(waiters, event.first):
                if isinstance(waiter, _Waiter):
                    waiter.settle(Receipt(epoch, seq))
        self._nudge()

    async def _read(self, event: Read) -> None:
        try:
            items = await self._journal.read(event.channel, event.after, event.limit)
        except Exception as error:  # noqa: BLE001 - as above; the engine asks again
            self._muffler.log(logging.ERROR, "journal", "the journal could not read %s: %r", event.channel, error)
            self.count("journal-read-failed")
            items = None
        self._engine.journal_read(event.channel, event.after, items, self._tick())
        self._nudge()


def _slim(handshake: Handshake) -> Handshake:
    """What is kept of a handshake for a refresh of the token: headers are not, for the memory of idle clients."""
    return replace(handshake, token=None, headers={})
