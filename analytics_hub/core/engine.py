"""The engine: everything the hub decides, without I/O, clock or concurrency.

Data goes in by `publish` and `receive_data`, frames come out of `data_to_send`, and `events` says what the driver must
do. After any call the driver looks at both, and at `get_timer`. Every verb takes `now`, monotonic seconds that never go
backwards; the time of day comes in by `tell_time`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ..channels import Channel
from ..exceptions import HubError, ItemTooLarge
from ..identity import Identity
from ..protocol import Parsed, Selection
from ..tuning import Tuning
from .atomic import atomic, atomic_each, check_ready
from .batcher import Batcher
from .bucket import TokenBucket
from .cohort import Delivery
from .commands import CommandHandler
from .context import Context
from .deadlines import Deadlines
from .events import Close, Event
from .fanout import count_queued
from .journal import JournalQueue
from .log import Draft, DurableLog, KeyedLog
from .membership import Membership
from .output import Output
from .registry import ChannelRegistry
from .ring import Entry
from .scheduler import Scheduler
from .session import Session, SessionState
from .statistics import ChannelStatistics, EngineStatistics, Ledger
from .subscriptions import Subscriptions
from .wire import Wire

if TYPE_CHECKING:
    from .transport import Transport


class Engine:
    """The sans-IO hub. `nonce` is a random text, the root of all epochs of this engine."""

    def __init__(
        self,
        channels: Iterable[Channel],
        tuning: Tuning | None = None,
        *,
        nonce: str,
        node: str = "",
        asks_to_authorize: bool = False,
    ) -> None:
        self.tuning: Final = tuning if tuning is not None else Tuning()
        self.registry: Final = ChannelRegistry(channels, self.tuning, nonce)
        self.sessions: dict[str, Session] = {}
        self.is_busy = False
        """A step is under way: only a signal handler can see this."""
        self.is_broken = False
        """Memory ran out in the middle of a step: the state cannot be trusted, and no step may follow."""
        self._context = context = Context(self.tuning, self.registry)
        self.counters: Final[Counter[str]] = context.counters
        self._current_time = context.current_time
        self._events = context.events
        self._order = 0
        self._scheduler = Scheduler()
        self._journal = JournalQueue(context, self._scheduler)
        batcher = Batcher(context, self._journal)
        self._membership = Membership(context, self._scheduler, batcher)
        self._output = Output(context, self._scheduler, self._membership, batcher, self._end)
        self._deadlines = Deadlines(context, self._output, self._end)
        self._subscriptions = Subscriptions(context, self._scheduler, self._membership)
        self._commands = CommandHandler(
            context, self._subscriptions, self._output, self._end, node=node, asks_to_authorize=asks_to_authorize
        )

    # --- time

    def tell_time(self, now: float, wall: float) -> None:
        """The time of day is `wall` (Unix seconds) at `now`. Only timestamps and the expiry of tokens follow it."""
        self._current_time.set(now, wall)

    def get_timer(self) -> float | None:
        """When `handle_timer` must be called next; `now` of the last call if at once, None if there is nothing."""
        if self.wants_turn or self.has_output:
            return self._current_time.now
        times = (
            self._scheduler.turns.next(),
            self._deadlines.schedule.next(),
            self.registry.members.next(),
            self._journal.retries.next(),
        )
        return min((time for time in times if time is not None), default=None)

    @atomic
    def handle_timer(self, now: float) -> None:
        """Find out what is due at `now`. Must be called before `data_to_send`, even if the timer has not expired."""
        self._current_time.now = now
        for session in self._commands.continue_unfinished(now):
            self._deadlines.update(session)
        self._scheduler.handle_timer(now)
        self._deadlines.handle_timer(now)
        self.registry.handle_timer(now)
        self._journal.handle_timer(now)

    @property
    def wants_turn(self) -> bool:
        """Whether something was published that a reader without other work, or the journal, waits for; or commands wait
        for their turn."""
        return bool(self._scheduler.dirty_logs) or self._journal.is_due or self._commands.has_unfinished

    # --- publishing

    def publish(
        self,
        channel: str,
        data: bytes,
        now: float,
        *,
        type: str | None = None,
        key: str | None = None,
        stamp: str | None = None,
        deleted: bool = False,
        waiter: object = None,
    ) -> tuple[str, int] | None:
        """Accept encoded JSON `data`; returns its epoch and number, or None if it gets its number from the journal.

        Raises `UnknownChannel`, `InvalidChannel`, `ChannelLimitReached`, `InvalidItem` or `TableFull`. O(1) whatever
        the number of subscribers. `stamp` is when it was published, if not now.
        """
        if self.is_busy or self.is_broken:
            check_ready(self)
        try:
            self.is_busy = True  # as `atomic` does, at less cost
            return self._publish(channel, data, now, type, key, stamp, deleted, waiter)
        except MemoryError:
            self.is_broken = True
            raise
        finally:
            self.is_busy = False

    def _publish(
        self,
        channel: str,
        data: bytes,
        now: float,
        type: str | None,
        key: str | None,
        stamp: str | None,
        deleted: bool,
        waiter: object,
    ) -> tuple[str, int] | None:
        self._current_time.now = now
        log = self.registry.logs.get(channel) or self.registry.resolve(channel, now)
        if key is not None or log.conflates:
            log.check(key, deleted)
        if stamp is None:
            stamp = self._current_time.stamp()
        if isinstance(log, DurableLog):
            self._check_size(channel, len(log.encode_item(log.head + 1, type, stamp, data, None, False)))
            self._journal.add(log, Draft(type, stamp, data, waiter))
            return None
        seq = log.head + 1
        item = log.encode_item(seq, type, stamp, data, key, deleted)
        if len(item) > self.tuning.max_item_bytes:
            self._check_size(channel, len(item))
        self._order = order = self._order + 1
        log.append(Entry(order, seq, item, channel, key, deleted))
        log.published_at = now
        if log.channel.keep_seconds is not None:
            log.published(now)
        if log.idle:
            if not log.is_dirty:
                self._scheduler.mark(log)
        elif log.followers and not log.is_undistributed:
            self._scheduler.mark(log)
        return log.epoch, seq

    @atomic
    def delete(self, channel: str, key: str, now: float, *, stamp: str | None = None) -> bool:
        """Delete `key` from a table; False if there is no such key, and then nothing is published."""
        log = self.registry.resolve(channel, now)
        log.check(key, deleted=True)
        if not isinstance(log, KeyedLog) or not log.holds(key):
            return False
        self._publish(channel, b"null", now, None, key, stamp, deleted=True, waiter=None)
        return True

    def check_size(self, channel: str, data: bytes) -> None:
        """Raise `ItemTooLarge` if `data` alone is too long for an item. Any thread may call it."""
        self._check_size(channel, len(data))

    def _check_size(self, channel: str, size: int) -> None:
        limit = self.tuning.max_item_bytes
        if size > limit:
            raise ItemTooLarge(f"the item for channel {channel!r} has {size} bytes; at most {limit} are allowed")

    # --- the journal of durable channels: see `JournalQueue`

    @atomic
    def restore(self, channel: str, epoch: str, oldest: int, head: int) -> None:
        """Let a durable channel continue where its journal ends. Before it is read or published to."""
        self.registry.restore(channel, epoch, oldest - 1, head)

    @atomic
    def committed(self, channel: str, oldest: int, now: float) -> None:
        """The journal has the batch that `Append` handed out, and everything from number `oldest` on."""
        self._current_time.now = now
        self._order = self._journal.committed(channel, oldest - 1, self._order, now)

    @atomic
    def rejected(self, channel: str) -> None:
        """The journal refused the batch: its items get no number and are never delivered."""
        self.counters["journal-rejected"] += self._journal.rejected(channel)

    @atomic
    def journal_read(self, channel: str, after: int, items: Sequence[tuple[int, bytes]] | None, now: float) -> None:
        """The answer to `Read`; None if the journal failed: then the read is repeated a second later."""
        self._current_time.now = now
        self._journal.items_read(channel, after, items, now)

    # --- sessions

    @atomic
    def connect(
        self,
        transport: Transport,
        wire: Wire,
        identity: Identity | None,
        now: float,
        *,
        id: str,
        max_message: int | None = None,
    ) -> Session:
        """A new client. `id` is a random text that cannot be guessed. Without an identity it must send `auth` first."""
        self._current_time.now = now
        session = Session(id, transport, wire, identity, TokenBucket(self.tuning.command_rate, now), now)
        session.max_message = max_message
        self.sessions[id] = session
        self.counters["connected"] += 1
        if identity is not None:
            self._commands.open(session)
        self._deadlines.update(session)
        return session

    def receive_data(self, session: Session, data: str | bytes, now: float) -> None:
        """One client frame. Ignored once the session has ended."""
        if not session.is_closed:  # outside a step: if parsing runs out of memory, only this session is concerned
            self._receive(session, session.wire.parse(data), len(data), now)

    @atomic
    def _receive(self, session: Session, parsed: list[Parsed], size: int, now: float) -> None:
        self._current_time.now = now
        session.last_heard = now
        self._commands.receive(session, parsed, size, now)
        self._deadlines.update(session)

    @atomic
    def subscribe(self, session: Session, selections: Sequence[Selection], now: float) -> None:
        """Subscribe commands that came in another form than a client frame. Ignored once the session has ended.

        The same rules, order and rate apply as if the client had sent the selections, `Tuning.max_subscriptions` of
        them in each command.
        """
        if session.is_closed:
            return
        self._current_time.now = now
        session.last_heard = now
        self._commands.receive_selections(session, selections, now)
        self._deadlines.update(session)

    @atomic
    def authenticated(self, session: Session, result: Identity | HubError, now: float) -> None:
        """The answer to `CheckToken`: the identity, or the exception that refuses the token."""
        self._current_time.now = now
        self._commands.authenticated(session, result, now)
        self._deadlines.update(session)

    @atomic
    def identify(self, session: Session, identity: Identity, now: float) -> None:
        """An open session has this identity from now on; subscriptions that it does not allow end."""
        self._current_time.now = now
        if session.is_open:
            self._commands.identify(session, identity)
            self._deadlines.update(session)

    @atomic
    def forbid(self, session: Session, channels: Collection[str], now: float) -> None:
        """The application withdraws channels: the subscriptions of the session to them, if there are any, end."""
        self._current_time.now = now
        self._commands.forbid(session, channels)
        self._deadlines.update(session)

    @atomic
    def authorized(self, session: Session, allowed: Collection[str], now: float) -> None:
        """The answer to `AskAuthorize`."""
        self._current_time.now = now
        self._commands.authorized(session, allowed, now)
        self._deadlines.update(session)

    @atomic
    def stalled(self, session: Session, now: float) -> None:
        """A write to this session was taken, but the next one will not be before `resumed`."""
        self._current_time.now = now
        if session.is_stalled:
            return
        session.stalled_since = now
        if session.is_closed:
            return
        self.counters["stalled"] += 1
        self._membership.stall(session, now)
        self._deadlines.update(session)

    @atomic
    def resumed(self, session: Session, now: float) -> None:
        """A stalled session has room again."""
        self._current_time.now = now
        if session.is_closed or not session.is_stalled:
            return
        session.stalled_since = None
        self._scheduler.propagate(now)
        self._membership.resume(session, now)
        self._output.resume(session)
        self._deadlines.update(session)

    def disconnect(self, session: Session, now: float) -> None:
        """The client has disconnected. What was pending is abandoned. Harmless if the session has ended already."""
        if not self.is_broken:
            self._disconnect(session, now)

    @atomic
    def _disconnect(self, session: Session, now: float) -> None:
        self._current_time.now = now
        if not session.is_closed:
            self.counters["disconnected"] += 1
            self._remove(session)

    @atomic
    def end(self, session: Session, code: int, reason: str, now: float) -> None:
        """End a session from this side; a `Close` event follows what must still be written to it."""
        self._current_time.now = now
        self._end(session, code, reason)

    def drain(self, grace: float, now: float) -> None:
        """Tell every client to reconnect, each in a slot of its own within `grace` seconds."""
        if not self.is_broken:
            self._drain(grace, now)

    @atomic
    def _drain(self, grace: float, now: float) -> None:
        self._current_time.now = now
        slot = grace / max(1, len(self.sessions))
        for index, session in enumerate(list(self.sessions.values())):
            if session.is_open:
                item = self._context.control_item("$drain", **{"in": round(index * slot, 3)})
                self._output.send_control(session, item)

    def _end(self, session: Session, code: int, reason: str) -> None:
        if session.is_closed:
            return
        self._output.finish(session)
        self.counters[f"closed-{int(code)}"] += 1
        self._remove(session)
        self._events.append(Close(session, int(code), reason))

    def _remove(self, session: Session) -> None:
        self._subscriptions.end_all(session, self.ledger(session))
        self._commands.forget(session)
        self._output.forget(session)
        self._deadlines.forget(session)
        session.state = SessionState.CLOSED
        self.sessions.pop(session.id, None)

    # --- output

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` or `events` has something."""
        return bool(self._output or self._events or self._journal.is_due)

    @property
    def is_quiet(self) -> bool:
        """Nothing is pending for any client that could take it, and no batch is with the journal."""
        if self.has_output or not self._scheduler.is_propagated or self._journal.is_busy:
            return False
        return not any(
            cohort.has_work and not cohort.is_stalled
            for subscription_set in self.registry.subscription_sets.values()
            for cohort in subscription_set.cohorts
        )

    def data_to_send(self) -> Iterator[Delivery]:
        """What must be written now, in portions that take at most a few milliseconds.

        The driver may stop between any two and come back; every other verb may be called in between. What goes to one
        session out of turn goes after the portion of a flush that it is still owed.
        """
        return atomic_each(self, self._output.deliveries())

    def events(self) -> Iterator[Event]:
        """What the driver must do or know, oldest first. `Close` waits until everything was written to its session."""
        return atomic_each(self, self._pop_events())

    def _pop_events(self) -> Iterator[Event]:
        self._journal.hand_out()
        while self._events:
            if self._membership.outbox and isinstance(self._events[0], Close):
                return
            yield self._events.popleft()

    # --- statistics

    def measure_buffered(self) -> int:
        """Bytes of control items and commands that wait; O(sessions)."""
        return sum(session.control_queue_bytes + session.commands_bytes for session in self.sessions.values())

    def ledger(self, session: Session) -> dict[str, Ledger]:
        """The fate of every item, for each subscription of a session; exact at every step."""
        cohort = session.cohort
        if cohort is None:
            return {}
        owed = count_queued(cohort)
        if cohort.owes(session):
            owed.update({reader.log.name: count for reader, count in cohort.taken.items()})
        return {
            name: subscription.ledger(cohort.readers[name], owed[name])
            for name, subscription in session.subscriptions.items()
        }

    def statistics(self) -> EngineStatistics:
        """A record of everything that is counted; O(subscriptions)."""
        was_busy, self.is_busy = self.is_busy, True
        try:
            return self._statistics()
        finally:
            self.is_busy = was_busy

    def _statistics(self) -> EngineStatistics:
        logs = self.registry.logs
        sums = {name: log.closed_accounts for name, log in logs.items()}
        for session in self.sessions.values():
            for name, ledger in self.ledger(session).items():
                sums[name] += ledger
        subscription_sets = self.registry.subscription_sets.values()
        return EngineStatistics(
            sessions=len(self.sessions),
            stalled=sum(session.is_stalled for session in self.sessions.values()),
            subscriptions=sum(len(session.subscriptions) for session in self.sessions.values()),
            subscription_sets=len(subscription_sets),
            cohorts=sum(len(subscription_set.cohorts) for subscription_set in subscription_sets),
            channels={
                name: ChannelStatistics(
                    mode=log.channel.mode,
                    epoch=log.epoch,
                    head=log.head,
                    kept=log.head - log.floor,
                    watchers=log.watchers,
                    ledger=sums[name],
                )
                for name, log in logs.items()
            },
            counters=dict(self.counters),
        )


__all__ = ["Delivery", "Engine"]
