"""The engine: everything the hub decides, without I/O, clock or concurrency.

Data goes in by `publish` and `receive_data`, frames come out of `data_to_send`, and `events` tells what the driver
must do. After any call the driver asks for both, and for `get_timer`. Every verb takes `now`, monotonic seconds that
never go backwards; the time of day comes in by `tell_time`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from math import ceil
from typing import Final, NamedTuple

from ..channels import Channel
from ..exceptions import InvalidItem
from ..identity import Identity
from ..protocol import VERSION, CloseCode, Timestamps, control
from ..tuning import Tuning
from .batcher import Batcher
from .bucket import TokenBucket
from .cohort import Cohort
from .dialogue import Dialogue, Outside, Refusal
from .durable import JournalDesk
from .events import Close, Event
from .following import follow, unfollow, waiting
from .ledger import Ledger
from .log import ChannelLog, Draft, DurableLog, KeyedLog
from .placement import Placement
from .registry import Layout, SubscriptionRegistry
from .ring import Entry
from .schedule import Schedule
from .session import Session, SessionState
from .statistics import EngineStatistics, observe
from .wire import Wire

_GRAIN: Final = 4  # deadlines of sessions are rounded up to a quarter of a second, to share their places in the heap


_BUSY: Final = 1.5
"""A cohort that is written again within so many intervals is busy enough to follow its logs."""


class Delivery(NamedTuple):
    """`frame` is to be written to each of `recipients`, without anything in between."""

    frame: bytes
    recipients: Sequence[Session]


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
        tuning = tuning if tuning is not None else Tuning()
        self.tuning: Final = tuning
        self.counters: Counter[str] = Counter()
        self.sessions: dict[str, Session] = {}
        self._timestamps = Timestamps()
        self._wall_offset = 0.0
        self._now = 0.0
        self._order = 0
        self._events: deque[Event] = deque()
        self._outbox: deque[Delivery] = deque()
        self._talking: dict[Session, None] = {}
        self._due: deque[Cohort] = deque()
        self._sending: Cohort | None = None
        self._crowded: dict[Layout, None] = {}
        self._deadlines: Schedule[Session] = Schedule()
        self._members: Schedule[ChannelLog] = Schedule()
        self.registry: Final = SubscriptionRegistry(channels, tuning, nonce)
        self._batcher = Batcher(tuning, self._timestamps)
        self._placement = Placement(self.registry, self._batcher, tuning.rate, self._owe)
        self._journal = JournalDesk(self.registry, self._placement, tuning.journal_chunk, self._events.append)
        outside = Outside(self._say, self._end_now, self._events.append, self._timestamp, self._wall)
        self._dialogue = Dialogue(
            self.registry,
            self._placement,
            tuning,
            outside,
            _hello(tuning, node),
            asks_to_authorize=asks_to_authorize,
        )

    @property
    def wants_turn(self) -> bool:
        """Whether something was published that somebody who has caught up waits for, or a journal."""
        return bool(self._placement.dirty_logs) or self._journal.is_due

    # --- time

    def tell_time(self, now: float, wall: float) -> None:
        """Say what time of day (Unix seconds) it is at `now`. Only timestamps and token expiry follow it."""
        self._wall_offset = wall - now

    def _wall(self) -> float:
        return self._now + self._wall_offset

    def _timestamp(self) -> str:
        return self._timestamps.format(self._now + self._wall_offset)

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called next; `now` of the last call if at once, None if there is nothing."""
        if self._placement.dirty_logs or self.has_output:
            return self._now
        times = [
            time
            for time in (
                self._placement.turns.next(),
                self._deadlines.next(),
                self._members.next(),
                self._journal.retries.next(),
            )
            if time is not None
        ]
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        """Find out what is due at `now`: call it before `data_to_send`, whether or not the timer has run out."""
        self._now = now
        placement = self._placement
        placement.propagate(now)
        for layout in placement.turns.due(now):
            self._take_turn(layout, now)
        for session in self._deadlines.due(now):
            self._check_deadlines(session, now)
        for log in self._members.due(now):
            self._check_member(log, now)
        self._journal.handle_timer(now)

    def _take_turn(self, layout: Layout, now: float) -> None:
        later = []
        for cohort in list(layout.cohorts):
            if cohort.inbox is not None and not cohort.inbox:
                unfollow(cohort)
            if not cohort.has_work:
                continue
            if self._batcher.next_turn(cohort) > now:
                later.append(cohort)
            elif cohort.is_stalled:
                self._placement.trim(cohort, now)
            else:
                self._due.append(cohort)
        if len(layout.cohorts) > 1:
            self._crowded[layout] = None
        for cohort in later:
            self._placement.wants(cohort, now)

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
        self._now = now
        log = self.registry.logs.get(channel) or self._resolve(channel)
        if key is not None or log.conflates:
            log.check(key, deleted)
        if stamp is None:
            stamp = self._timestamps.format(now + self._wall_offset)
        if isinstance(log, DurableLog):
            self._check_size(log.name, len(log.item(log.head + 1, type, stamp, data, None, False)))
            self._journal.draft(log, Draft(type, stamp, data, waiter))
            return None
        seq = log.head + 1
        item = log.item(seq, type, stamp, data, key, deleted)
        if len(item) > self.tuning.max_item_bytes:
            self._check_size(log.name, len(item))
        self._order = order = self._order + 1
        log.append(Entry(order, seq, item, channel, key, deleted))
        log.published_at = now
        if log.idle:
            if not log.is_dirty:
                self._placement.mark(log)
        elif log.followers and not log.is_fresh:
            self._placement.mark(log)
        return log.epoch, seq

    def delete(self, channel: str, key: str, now: float, *, stamp: str | None = None) -> bool:
        """Delete `key` from a table; False if it is not there, and then nothing is published."""
        log = self.registry.logs.get(channel) or self._resolve(channel)
        log.check(key, deleted=True)
        if not isinstance(log, KeyedLog) or not log.holds(key):
            return False
        self.publish(channel, b"null", now, key=key, stamp=stamp, deleted=True)
        return True

    def _resolve(self, name: str) -> ChannelLog:
        log = self.registry.resolve(name)
        if log.is_member:
            log.published_at = self._now
            self._members.at(log, self._now + log.channel.keep_seconds)
        return log

    def check_size(self, channel: str, data: bytes) -> None:
        """Raise `InvalidItem` if `data` alone is too long for an item. Any thread may ask."""
        self._check_size(channel, len(data))

    def _check_size(self, channel: str, size: int) -> None:
        limit = self.tuning.max_item_bytes
        if size > limit:
            raise InvalidItem(f"the item for channel {channel!r} has {size} bytes; at most {limit} are right")

    def _check_member(self, log: ChannelLog, now: float) -> None:
        """Let a member go that nobody watches and of which nothing is kept."""
        if self.registry.logs.get(log.name) is not log:
            return
        expires = log.published_at + log.channel.keep_seconds
        if not log.watchers and (log.is_empty or now >= expires):
            self.registry.forget(log)
            self.counters["members-forgotten"] += 1
        else:
            self._members.at(log, max(expires, now + max(1.0, log.channel.keep_seconds)))

    # --- the journal of durable channels: see `JournalDesk`

    def restore(self, channel: str, epoch: str, oldest: int, head: int) -> None:
        """Let a durable channel go on where its journal stands; before anybody reads or publishes."""
        self.registry.restore(channel, epoch, oldest - 1, head)

    def committed(self, channel: str, oldest: int, now: float) -> None:
        """The journal has the batch that `Append` handed out and keeps everything from number `oldest` on."""
        self._now = now
        self._order = self._journal.committed(channel, oldest - 1, self._order, now)

    def rejected(self, channel: str) -> None:
        """The journal refused the batch: its items got no number and will reach nobody."""
        self.counters["journal-rejected"] += self._journal.rejected(channel)

    def journal_read(self, channel: str, after: int, items: Sequence[tuple[int, bytes]] | None, now: float) -> None:
        """The answer to `Read`; None if the journal failed, which is tried again a second later."""
        self._now = now
        self._journal.answer(channel, after, items, now)

    # --- sessions

    def connect(self, wire: Wire, identity: Identity | None, now: float, *, id: str) -> Session:
        """A new client. `id` is a random text nobody can guess. Without an identity it must send `auth` first."""
        self._now = now
        session = Session(id, wire, identity, TokenBucket(self.tuning.command_rate, now), now)
        self.sessions[id] = session
        self.counters["connected"] += 1
        if identity is not None:
            self._dialogue.welcome(session)
        self._check_deadlines(session, now)
        return session

    def receive_data(self, session: Session, data: str | bytes, now: float) -> None:
        """One client frame. Ignored once the session has ended."""
        self._now = now
        if session.is_closed:
            return
        session.last_heard = now
        self._dialogue.receive(session, session.wire.parse(data), len(data), now)
        self._check_deadlines(session, now)

    def authenticated(self, session: Session, result: Identity | Refusal, now: float) -> None:
        """The answer to `CheckToken`."""
        self._now = now
        if not isinstance(result, Identity):
            self.counters[f"token-{result}"] += 1
        self._dialogue.authenticated(session, result, now)
        self._check_deadlines(session, now)

    def authorized(self, session: Session, allowed: Collection[str], asked: Collection[str], now: float) -> None:
        """The answer to `AskAuthorize`."""
        self._now = now
        self._dialogue.authorized(session, allowed, asked, now)
        self._check_deadlines(session, now)

    def stalled(self, session: Session, now: float) -> None:
        """A write to this session was taken, but nothing more will be until `resumed`."""
        self._now = now
        if session.is_closed or session.is_stalled:
            return
        session.stalled_since = now
        self.counters["stalled"] += 1
        self._placement.stall(session, now)
        self._check_deadlines(session, now)

    def resumed(self, session: Session, now: float) -> None:
        """A stalled session has room again."""
        self._now = now
        if session.is_closed or not session.is_stalled:
            return
        session.stalled_since = None
        self._placement.propagate(now)
        self._placement.resume(session, now)
        if session.lane:
            self._talking[session] = None

    def disconnect(self, session: Session, now: float) -> None:
        """The client has gone. What was pending is abandoned. Harmless if the session has ended already."""
        self._now = now
        if not session.is_closed:
            self.counters["disconnected"] += 1
            self._remove(session)

    def end(self, session: Session, code: int, reason: str, now: float) -> None:
        """End a session from this side; a `Close` event follows what it is still to be told."""
        self._now = now
        self._end_now(session, code, reason)

    def drain(self, grace: float, now: float) -> None:
        """Tell every client to come back, each in a slot of its own within `grace` seconds."""
        self._now = now
        slot = grace / max(1, len(self.sessions))
        for place, session in enumerate(list(self.sessions.values())):
            if session.is_open:
                self._say(session, control("$drain", self._timestamp(), **{"in": round(place * slot, 3)}))

    @property
    def is_quiet(self) -> bool:
        """Nothing is pending for any client that could take it, and no batch is with the journal."""
        if self.has_output or self._placement.dirty_logs or self._journal.is_busy:
            return False
        return not any(
            cohort.has_work and not cohort.is_stalled
            for layout in self.registry.layouts.values()
            for cohort in layout.cohorts
        )

    def _end_now(self, session: Session, code: int, reason: str) -> None:
        if session.is_closed:
            return
        self._placement.settle(session)
        if session.lane and not session.is_stalled:
            self._outbox.append(self._speech(session))
        self.counters[f"closed-{int(code)}"] += 1
        self._remove(session)
        self._events.append(Close(session, int(code), reason))

    def _remove(self, session: Session) -> None:
        accounts = self.ledger(session)
        cohort = session.cohort
        readers = cohort.readers if cohort is not None else {}
        for name, account in accounts.items():
            self._dialogue.close_ledger(session, readers[name].log, account.close())
        self._placement.remove(session)
        self._dialogue.forget(session)
        session.subscriptions.clear()
        session.state = SessionState.CLOSED
        session.commands.clear()
        session.lane = []
        session.wake_at = None
        self._talking.pop(session, None)
        self.sessions.pop(session.id, None)

    # --- deadlines

    def _check_deadlines(self, session: Session, now: float) -> None:
        """Do what is due for a session, and remember when to look again."""
        if session.is_closed:
            return None
        tuning = self.tuning
        times: list[float] = []
        if session.state is SessionState.NEW:
            times.append(session.started + tuning.auth_timeout)
            if now >= times[-1]:
                return self._end_now(session, CloseCode.TIMEOUT, f"no token within {tuning.auth_timeout:g} s")
        if session.stalled_since is not None:
            is_durable = any(self.registry.logs[n].channel.mode == "durable" for n in session.subscriptions)
            allowed = tuning.durable_write_timeout if is_durable else tuning.write_timeout
            times.append(session.stalled_since + allowed)
            if now >= times[-1]:
                return self._end_now(session, CloseCode.UNWRITABLE, f"nothing could be written for {allowed:g} s")
        if session.is_pinging:
            times.append(session.last_heard + tuning.silence_timeout)
            if now >= times[-1]:
                return self._end_now(session, CloseCode.TIMEOUT, f"no sign of life for {tuning.silence_timeout:g} s")
        expiry = self._check_expiry(session, now)
        if session.is_closed:
            return None
        times += expiry
        if session.is_open and session.stalled_since is None:
            times.append(self._beat(session, now))
        at = ceil(min(times) * _GRAIN) / _GRAIN if times else None
        if at is not None and (session.wake_at is None or at < session.wake_at):
            self._deadlines.at(session, at)
        return None

    def _check_expiry(self, session: Session, now: float) -> list[float]:
        expires = session.identity.expires if session.identity is not None else None
        if expires is None:
            return []
        left = expires - (now + self._wall_offset)
        if left <= 0:
            self._end_now(session, CloseCode.UNAUTHENTICATED, "expired token")
            return []
        if left <= self.tuning.expiry_warning:
            if session.expiry_warned != expires:
                session.expiry_warned = expires
                self._say(session, control("$expiring", self._timestamp(), **{"in": round(left, 3)}))
            return [now + left]
        return [now + left - self.tuning.expiry_warning]

    def _beat(self, session: Session, now: float) -> float:
        """Send `[]` to a session that was written nothing for `heartbeat` seconds; when to look again."""
        last = session.last_write
        if session.cohort is not None:
            last = max(last, session.cohort.last_write)
        if now - last >= self.tuning.heartbeat and not session.lane:
            self._placement.settle(session)
            self._outbox.append(Delivery(session.wire.frame(()), (session,)))
            session.last_write = last = now
        return max(last, now - self.tuning.heartbeat) + self.tuning.heartbeat

    # --- output

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` or `events` has something."""
        return bool(self._outbox or self._due or self._sending or self._events or self._journal.is_due or self._talking)

    def events(self) -> Iterator[Event]:
        """What the driver must do or know, oldest first; after it has written what `data_to_send` had."""
        self._journal.hand_out()
        while self._events:
            yield self._events.popleft()

    def data_to_send(self) -> Iterator[Delivery]:
        """What is to be written now, in portions that take at most a few milliseconds.

        The driver may stop between any two and come back; every other verb may be called in between. What goes to one
        session out of turn goes after the portion of a flush that it is still owed.
        """
        while True:
            if self._outbox:
                yield self._outbox.popleft()
            elif self._talking:
                session, _ = self._talking.popitem()
                if not session.is_stalled:
                    self._placement.settle(session)
                    self._outbox.append(self._speech(session))
            elif self._sending is not None:
                delivery = self._next_slice(self._sending)
                if delivery is not None:
                    yield delivery
            elif self._due:
                delivery = self._flush(self._due.popleft())
                if delivery is not None:
                    yield delivery
            else:
                break
        while self._crowded:
            layout, _ = self._crowded.popitem()
            self._placement.merge(layout, self._now)

    def _flush(self, cohort: Cohort) -> Delivery | None:
        """Take what is due to a cohort; returns the write for its first slice."""
        layout = cohort.layout
        if not cohort.size or cohort.is_stalled or not cohort.has_work:
            return None
        now = self._now
        if cohort.not_before > now:
            self._placement.wants(cohort, now)
            return None
        batch = self._batcher.take(cohort, layout.wire, now, now + self._wall_offset)
        if self._batcher.behind:
            self._journal.ask(self._batcher.behind)
            self._batcher.behind = []
        if batch is None:
            if cohort.dirty:
                self._placement.wants(cohort, now)
            return None
        layout.not_before = cohort.not_before
        is_busy = now - cohort.last_write < _BUSY * self.tuning.interval
        cohort.last_write = now
        if cohort.inbox is None and not cohort.dirty and is_busy:
            follow(cohort)
        if cohort.dirty or cohort.inbox is not None:
            self._placement.wants(cohort, now)
        cohort.stray = None
        slices = cohort.slices
        if len(slices) > 1:
            cohort.frame = batch.frame
            cohort.taken = batch.taken
            cohort.owed = dict.fromkeys(slices[1:])
            self._sending = cohort
        return Delivery(batch.frame, list(slices[0].members))

    def _next_slice(self, cohort: Cohort) -> Delivery | None:
        if not cohort.owed:
            self._sending = None
            cohort.frame = b""
            cohort.taken = {}
            return None
        part = next(iter(cohort.owed))
        del cohort.owed[part]
        return Delivery(cohort.frame, list(part.members))

    def _owe(self, session: Session, frame: bytes) -> None:
        self._outbox.append(Delivery(frame, (session,)))

    def _say(self, session: Session, *items: bytes) -> None:
        """Queue control items for one session; they go at once, or when it is resumed, and bypass all data."""
        if session.is_closed:
            return
        session.lane += items
        session.lane_bytes += sum(map(len, items))
        if session.is_stalled:
            if session.lane_bytes > self.tuning.control_bytes:
                self._end_now(session, CloseCode.UNWRITABLE, "too many control items wait")
        else:
            self._talking[session] = None

    def _speech(self, session: Session) -> Delivery:
        """The lane of a session as one write."""
        size = self.tuning.max_batch
        items, session.lane = session.lane, []
        session.lane_bytes = 0
        session.last_write = self._now
        frames = [session.wire.frame(items[at : at + size]) for at in range(0, len(items), size)]
        return Delivery(b"".join(frames), (session,))

    # --- looking in

    def ledger(self, session: Session) -> dict[str, Ledger]:
        """What became of every item, for each subscription of a session; exact at every step."""
        cohort = session.cohort
        if cohort is None:
            return {}
        owed = waiting(cohort)
        if cohort.owes(session):
            owed.update({reader.log.name: count for reader, count in cohort.taken.items()})
        return {
            name: subscription.ledger(reader, owed[name])
            for name, subscription in session.subscriptions.items()
            for reader in (cohort.readers[name],)
        }

    def statistics(self) -> EngineStatistics:
        """A record of everything that is counted; O(subscriptions)."""
        return observe(self)


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
        },
        "reconnect": {"min": tuning.reconnect_min, "max": tuning.reconnect_max},
    }
