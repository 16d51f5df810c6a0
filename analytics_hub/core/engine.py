"""The engine: everything the hub decides, without I/O, clock or concurrency.

Data goes in by `publish` and `receive_data`, frames come out of `data_to_send`, and `events` tells what the driver
must do. After any call the driver asks for both, and for `get_timer`. Every verb takes `now`, monotonic seconds that
never go backwards; the time of day comes in by `tell_time`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ..channels import Channel
from ..exceptions import HubError, ItemTooLarge
from ..identity import Identity
from ..protocol import VERSION, Parsed, Selection, Subscribe, control_item
from ..tuning import Tuning
from .atomic import atomic, atomic_each, check
from .batcher import Batcher
from .bucket import TokenBucket
from .cohort import Delivery
from .commands import CommandHandler
from .current_time import CurrentTime
from .deadlines import Deadlines
from .events import Close, Event
from .fanout import waiting
from .journal import JournalQueue
from .ledger import Ledger
from .log import Draft, DurableLog, KeyedLog
from .membership import Membership
from .output import Output
from .registry import ChannelRegistry
from .ring import Entry
from .session import Session, SessionState
from .statistics import EngineStatistics, observe
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
        self.counters: Counter[str] = Counter()
        self.sessions: dict[str, Session] = {}
        self.is_busy = False
        """A step is under way: what only a signal handler can see."""
        self.is_broken = False
        """Memory ran out in the middle of a step; nothing more can be done, and nothing that it knows is sure."""
        self._order = 0
        self._events: deque[Event] = deque()
        self._moment = moment = CurrentTime()
        ask = self._events.append
        batcher = Batcher(self.tuning, moment)
        self._placement = Membership(self.registry, batcher, self.tuning.rate)
        self._journal = JournalQueue(self.registry, self._placement, self.tuning.journal_chunk, ask)
        self._output = Output(moment, self.tuning, self._placement, batcher, self._journal, self._end)
        self._deadlines = Deadlines(moment, self.tuning, self.registry, self._output, self._end)
        self._subscriptions = Subscriptions(
            self.registry, self._placement, moment, self.tuning.max_subscriptions, ask, self.counters
        )
        self._dialogue = CommandHandler(
            self._subscriptions,
            moment,
            self.tuning,
            _hello(self.tuning, node),
            say=self._output.say,
            end=self._end,
            ask=ask,
            counters=self.counters,
            asks_to_authorize=asks_to_authorize,
        )

    # --- time

    def tell_time(self, now: float, wall: float) -> None:
        """Say what time of day (Unix seconds) it is at `now`. Only timestamps and token expiry follow it."""
        self._moment.tell(now, wall)

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called next; `now` of the last call if at once, None if there is nothing."""
        if self.wants_turn or self.has_output:
            return self._moment.now
        times = (
            self._placement.turns.next(),
            self._deadlines.schedule.next(),
            self.registry.members.next(),
            self._journal.retries.next(),
        )
        return min((time for time in times if time is not None), default=None)

    @atomic
    def handle_timer(self, now: float) -> None:
        """Find out what is due at `now`: call it before `data_to_send`, whether or not the timer has run out."""
        self._moment.now = now
        for session in self._dialogue.go_on(now):
            self._deadlines.check(session)
        self._placement.propagate(now)
        for layout in self._placement.turns.due(now):
            self._output.take_turn(layout, now)
        self._deadlines.handle_timer(now)
        self.registry.handle_timer(now)
        self._journal.handle_timer(now)

    @property
    def wants_turn(self) -> bool:
        """Whether something was published that somebody who has caught up waits for, or a journal; or commands wait for
        their turn."""
        return bool(self._placement.dirty_logs) or self._journal.is_due or self._dialogue.is_unfinished

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
        """Accept encoded JSON `data`; returns its epoch and number, or None where the journal gives it one.

        Raises `UnknownChannel`, `InvalidChannel`, `ChannelLimitReached`, `InvalidItem` or `TableFull`. O(1) whatever
        the number of subscribers. `stamp` is when it was published, if not now.
        """
        if self.is_busy or self.is_broken:
            check(self)
        try:
            self.is_busy = True  # as `whole` does, for less
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
        self._moment.now = now
        log = self.registry.logs.get(channel) or self.registry.resolve(channel, now)
        if key is not None or log.conflates:
            log.check(key, deleted)
        if stamp is None:
            stamp = self._moment.stamp()
        if isinstance(log, DurableLog):
            self._check_size(channel, len(log.item(log.head + 1, type, stamp, data, None, False)))
            self._journal.draft(log, Draft(type, stamp, data, waiter))
            return None
        seq = log.head + 1
        item = log.item(seq, type, stamp, data, key, deleted)
        if len(item) > self.tuning.max_item_bytes:
            self._check_size(channel, len(item))
        self._order = order = self._order + 1
        log.append(Entry(order, seq, item, channel, key, deleted))
        log.published_at = now
        if log.idle:
            if not log.is_dirty:
                self._placement.mark(log)
        elif log.followers and not log.is_fresh:
            self._placement.mark(log)
        return log.epoch, seq

    @atomic
    def delete(self, channel: str, key: str, now: float, *, stamp: str | None = None) -> bool:
        """Delete `key` from a table; False if it is not there, and then nothing is published."""
        log = self.registry.resolve(channel, now)
        log.check(key, deleted=True)
        if not isinstance(log, KeyedLog) or not log.holds(key):
            return False
        self._publish(channel, b"null", now, None, key, stamp, deleted=True, waiter=None)
        return True

    def check_size(self, channel: str, data: bytes) -> None:
        """Raise `InvalidItem` if `data` alone is too long for an item. Any thread may ask."""
        self._check_size(channel, len(data))

    def _check_size(self, channel: str, size: int) -> None:
        limit = self.tuning.max_item_bytes
        if size > limit:
            raise ItemTooLarge(f"the item for channel {channel!r} has {size} bytes; at most {limit} are right")

    # --- the journal of durable channels: see `JournalQueue`

    @atomic
    def restore(self, channel: str, epoch: str, oldest: int, head: int) -> None:
        """Let a durable channel go on where its journal stands; before anybody reads or publishes."""
        self.registry.restore(channel, epoch, oldest - 1, head)

    @atomic
    def committed(self, channel: str, oldest: int, now: float) -> None:
        """The journal has the batch that `Append` handed out and keeps everything from number `oldest` on."""
        self._moment.now = now
        self._order = self._journal.committed(channel, oldest - 1, self._order, now)

    @atomic
    def rejected(self, channel: str) -> None:
        """The journal refused the batch: its items got no number and will reach nobody."""
        self.counters["journal-rejected"] += self._journal.rejected(channel)

    @atomic
    def journal_read(self, channel: str, after: int, items: Sequence[tuple[int, bytes]] | None, now: float) -> None:
        """The answer to `Read`; None if the journal failed, which is tried again a second later."""
        self._moment.now = now
        self._journal.answer(channel, after, items, now)

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
        """A new client. `id` is a random text nobody can guess. Without an identity it must send `auth` first."""
        self._moment.now = now
        session = Session(id, transport, wire, identity, TokenBucket(self.tuning.command_rate, now), now)
        session.max_message = max_message
        self.sessions[id] = session
        self.counters["connected"] += 1
        if identity is not None:
            self._dialogue.welcome(session)
        self._deadlines.check(session)
        return session

    def receive_data(self, session: Session, data: str | bytes, now: float) -> None:
        """One client frame. Ignored once the session has ended."""
        if not session.is_closed:  # if memory runs out while it is parsed, that is between it and its transport
            self._receive(session, session.wire.parse(data), len(data), now)

    def subscribe(self, session: Session, selections: Sequence[Selection], now: float) -> None:
        """A subscribe command that did not come as a client frame; split like frames that name too many channels."""
        most = self.tuning.max_subscriptions
        parts = [selections[at : at + most] for at in range(0, len(selections), most)]
        if parts and not session.is_closed:
            self._receive(session, [Subscribe(channels=[*part]) for part in parts], 0, now)

    @atomic
    def _receive(self, session: Session, parsed: list[Parsed], size: int, now: float) -> None:
        self._moment.now = now
        session.last_heard = now
        self._dialogue.receive(session, parsed, size, now)
        self._deadlines.check(session)

    @atomic
    def authenticated(
        self,
        session: Session,
        result: Identity | HubError,
        now: float,
    ) -> None:
        """The answer to `CheckToken`: the identity, or the exception that refuses the token."""
        self._moment.now = now
        self._dialogue.authenticated(session, result, now)
        self._deadlines.check(session)

    @atomic
    def identify(self, session: Session, identity: Identity, now: float) -> None:
        """A session that has an identity has this one from now on; subscriptions that it may not have end."""
        self._moment.now = now
        if session.is_open:
            self._dialogue.identify(session, identity)
            self._deadlines.check(session)

    @atomic
    def forbid(self, session: Session, channels: Collection[str], now: float) -> None:
        """The application takes channels back: the session's subscriptions to them, if there are any, end."""
        self._moment.now = now
        self._dialogue.forbid(session, channels)
        self._deadlines.check(session)

    @atomic
    def authorized(self, session: Session, allowed: Collection[str], now: float) -> None:
        """The answer to `AskAuthorize`."""
        self._moment.now = now
        self._dialogue.authorized(session, allowed, now)
        self._deadlines.check(session)

    @atomic
    def stalled(self, session: Session, now: float) -> None:
        """A write to this session was taken, but nothing more will be until `resumed`."""
        self._moment.now = now
        if session.is_stalled:
            return
        session.stalled_since = now
        if session.is_closed:
            return
        self.counters["stalled"] += 1
        self._placement.stall(session, now)
        self._deadlines.check(session)

    @atomic
    def resumed(self, session: Session, now: float) -> None:
        """A stalled session has room again."""
        self._moment.now = now
        if session.is_closed or not session.is_stalled:
            return
        session.stalled_since = None
        self._placement.propagate(now)
        self._placement.resume(session, now)
        self._output.resume(session)
        self._deadlines.check(session)

    def disconnect(self, session: Session, now: float) -> None:
        """The client has gone. What was pending is abandoned. Harmless if the session has ended already."""
        if not self.is_broken:
            self._disconnect(session, now)

    @atomic
    def _disconnect(self, session: Session, now: float) -> None:
        self._moment.now = now
        if not session.is_closed:
            self.counters["disconnected"] += 1
            self._remove(session)

    @atomic
    def end(self, session: Session, code: int, reason: str, now: float) -> None:
        """End a session from this side; a `Close` event follows what it is still to be told."""
        self._moment.now = now
        self._end(session, code, reason)

    def drain(self, grace: float, now: float) -> None:
        """Tell every client to come back, each in a slot of its own within `grace` seconds."""
        if not self.is_broken:
            self._drain(grace, now)

    @atomic
    def _drain(self, grace: float, now: float) -> None:
        self._moment.now = now
        slot = grace / max(1, len(self.sessions))
        for place, session in enumerate(list(self.sessions.values())):
            if session.is_open:
                self._output.say(
                    session, control_item("$drain", self._moment.stamp(), **{"in": round(place * slot, 3)})
                )

    def _end(self, session: Session, code: int, reason: str) -> None:
        if session.is_closed:
            return
        self._output.finish(session)
        self.counters[f"closed-{int(code)}"] += 1
        self._remove(session)
        self._events.append(Close(session, int(code), reason))

    def _remove(self, session: Session) -> None:
        self._subscriptions.end_all(session, self.ledger(session))
        self._dialogue.forget(session)
        self._output.forget(session)
        session.state = SessionState.CLOSED
        session.wake_at = None
        self.sessions.pop(session.id, None)

    # --- output

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` or `events` has something."""
        return bool(self._output or self._events or self._journal.is_due)

    @property
    def is_quiet(self) -> bool:
        """Nothing is pending for any client that could take it, and no batch is with the journal."""
        if self.has_output or not self._placement.is_told or self._journal.is_busy:
            return False
        return not any(
            cohort.has_work and not cohort.is_stalled
            for layout in self.registry.layouts.values()
            for cohort in layout.cohorts
        )

    def data_to_send(self) -> Iterator[Delivery]:
        """What is to be written now, in portions that take at most a few milliseconds.

        The driver may stop between any two and come back; every other verb may be called in between. What goes to one
        session out of turn goes after the portion of a flush that it is still owed.
        """
        return atomic_each(self, self._output.deliveries())

    def events(self) -> Iterator[Event]:
        """What the driver must do or know, oldest first. A `Close` waits until its session's last words are out."""
        return atomic_each(self, self._take_events())

    def _take_events(self) -> Iterator[Event]:
        self._journal.hand_out()
        while self._events:
            if self._placement.outbox and isinstance(self._events[0], Close):
                return
            yield self._events.popleft()

    # --- looking in

    def measure_buffered(self) -> int:
        """Bytes of control items and commands that wait; O(sessions)."""
        return sum(session.lane_bytes + session.commands_bytes for session in self.sessions.values())

    def ledger(self, session: Session) -> dict[str, Ledger]:
        """What became of every item, for each subscription of a session; exact at every step."""
        cohort = session.cohort
        if cohort is None:
            return {}
        owed = waiting(cohort)
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
            return observe(self)
        finally:
            self.is_busy = was_busy


def _hello(tuning: Tuning, node: str) -> dict[str, object]:
    return {
        "protocol": VERSION,
        "node": node,
        "heartbeat": tuning.heartbeat,
        "limits": {
            "subscriptions": tuning.max_subscriptions,
            "batch": tuning.max_batch,
            "buffer": tuning.buffer_items,
            "rate": tuning.rate,
            "commands": tuning.command_rate,
            "connections": tuning.max_per_identity,
        },
        "reconnect": {"min": tuning.reconnect_min, "max": tuning.reconnect_max},
    }


__all__ = ["Delivery", "Engine"]
