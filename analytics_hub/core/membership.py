"""Which cohort a session is in: coming, falling behind, catching up, going.

A cohort is defined by its layout, positions and tokens. Members that are held back together stay together; one that
has caught up rejoins the home of its layout as soon as that would let it exceed neither its rate nor its pace.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from .batcher import Batcher
from .bucket import TokenBucket
from .cohort import Cohort, Delivery, Reader
from .fanout import hand_out, place, unfollow
from .log import ChannelLog
from .registry import ChannelRegistry, SubscriptionSet
from .schedule import Schedule
from .session import Session

_ROUNDING: Final = 1e-6


class Detached:
    """What a session takes along when it leaves a cohort."""

    __slots__ = ("bucket", "held_by", "not_before", "readers")

    def __init__(self, readers: dict[str, Reader], bucket: TokenBucket) -> None:
        self.readers = readers
        self.bucket = bucket
        self.not_before = 0.0
        self.held_by = "rate"


class Membership:
    """Moves sessions between cohorts and tells the schedule when layouts want a turn.

    Whoever leaves in the middle of a flush is first written what it is owed: that goes to the `outbox`.
    """

    def __init__(
        self,
        registry: ChannelRegistry,
        batcher: Batcher,
        rate: float | None,
    ) -> None:
        self._registry = registry
        self._batcher = batcher
        self._rate = rate
        self.outbox: deque[Delivery] = deque()
        self.turns: Schedule[SubscriptionSet] = Schedule()
        self.dirty_logs: list[ChannelLog] = []
        self._fresh_logs: list[ChannelLog] = []

    # --- coming and going

    def detach(self, session: Session, now: float) -> Detached:
        """Take a session out of its cohort with all it has; a frame it is owed is written first."""
        cohort = session.cohort
        if cohort is None:
            standing, session.standing = session.standing, None
            return standing if standing is not None else Detached({}, TokenBucket(self._rate, now))
        self.settle(session)
        if cohort.size == 1:
            unfollow(cohort)
            standing = Detached(cohort.readers, cohort.bucket)
        else:
            standing = Detached({name: r.copy() for name, r in cohort.readers.items()}, cohort.bucket.copy())
            if cohort.inbox is not None:
                place(standing.readers, cohort.inbox)
        standing.not_before = cohort.not_before
        standing.held_by = cohort.held_by
        self.remove(session)
        return standing

    def remove(self, session: Session) -> None:
        """Take a session out of its cohort, and the cohort away with its last member."""
        cohort = session.cohort
        if cohort is None:
            return
        session.last_write = session.written_at
        cohort.remove(session)
        if not cohort.size:
            cohort.unwatch()
            self._registry.leave(cohort)

    def settle(self, session: Session) -> bool:
        """Write to a session what a flush under way still owes it, before anything else goes to it; whether it did."""
        cohort = session.cohort
        if cohort is None or not cohort.owes(session):
            return False
        self.outbox.append(Delivery(cohort.settle(session), (session,)))
        return True

    def attach(self, session: Session, standing: Detached, now: float) -> None:
        """Put a session where it belongs. Without a subscription that is nowhere, but it keeps its rate and pace."""
        if not standing.readers:
            session.standing = standing
            return
        layout = self._registry.layout(
            session.wire, [(name, subscription.max_hz) for name, subscription in session.subscriptions.items()]
        )
        cohort = Cohort(layout, standing.readers, standing.bucket)
        cohort.not_before = standing.not_before
        cohort.is_stalled = session.is_stalled
        cohort.held_by = "buffer" if session.is_stalled else standing.held_by
        layout.cohorts[cohort] = None
        cohort.add(session)
        if cohort.is_stalled:
            return
        cohort.watch()
        if cohort.is_in_step:
            cohort.held_by = "rate"  # what held it back has cost nothing
        if cohort.dirty:
            self.wants(cohort, now)
        elif layout.home is None:
            layout.home = cohort
        else:
            self._join(cohort, layout.home, now)

    # --- falling behind and catching up

    def stall(self, session: Session, now: float) -> None:
        """Give a session that takes nothing more positions of its own, just after the frame it took."""
        cohort = session.cohort
        if cohort is None or cohort.is_stalled:
            return
        assert not cohort.owes(session), "only a write can stall a session, and it is written what it is owed first"
        stray = cohort.stray
        if stray is not None and stray.size and stray.is_stalled and stray.last_write == cohort.last_write:
            self.remove(session)
            stray.add(session)
            return
        origin = cohort if cohort.size > 1 else None
        standing = self.detach(session, now)
        last_write = cohort.last_write
        self.attach(session, standing, now)
        placed = session.cohort
        assert placed is not None
        placed.last_write = last_write
        if origin is not None:
            origin.stray = placed

    def resume(self, session: Session, now: float) -> None:
        """Let a stalled session read on from its own positions.

        If a flush was due meanwhile, it has missed it, and loses what it may not wait for. While it was stalled nothing
        was done for it at all: positions cost nothing, and the logs have bounds of their own.
        """
        cohort = session.cohort
        if cohort is None or not cohort.is_stalled:
            return
        back = cohort.back
        if back is not None and back.size and back.last_write == cohort.last_write:
            self.remove(session)
            back.add(session)
            return
        standing = self.detach(session, now)
        if now >= standing.not_before:
            self._batcher.trim(list(standing.readers.values()))
        self.attach(session, standing, now)
        placed = session.cohort
        if placed is not None and placed.size == 1:
            placed.last_write = cohort.last_write
            cohort.back = placed

    def merge(self, layout: SubscriptionSet, now: float) -> None:
        """Bring together the cohorts of a layout that are in step. O(its cohorts x their subscriptions)."""
        if len(layout.cohorts) < 2:
            return
        in_step = [cohort for cohort in layout.cohorts if cohort.is_in_step]
        if not in_step:
            return
        home = layout.home = max(in_step, key=lambda cohort: cohort.size)
        for cohort in in_step:
            if cohort is not home:
                self._join(cohort, home, now)

    def _join(self, cohort: Cohort, home: Cohort, now: float) -> None:
        if not (cohort.is_in_step and home.is_in_step and self._may_join(cohort, home, now)):
            return
        for session in list(cohort.members()):
            for name, subscription in session.subscriptions.items():
                subscription.move(cohort.readers[name], home.readers[name])
            session.last_write = session.written_at
            session.joined_at = now
            cohort.remove(session)
            home.add(session)
        cohort.unwatch()
        self._registry.leave(cohort)

    @staticmethod
    def _may_join(cohort: Cohort, home: Cohort, now: float) -> bool:
        """Whether the members of `cohort` could do at `home` nothing that they could not do here."""
        return (
            cohort.bucket.available(now) + _ROUNDING >= home.bucket.available(now)
            and cohort.not_before <= max(now, home.not_before)
            and all(reader.next_at <= max(now, home.readers[name].next_at) for name, reader in cohort.readers.items())
        )

    # --- turns

    def mark(self, log: ChannelLog) -> None:
        """Remember that a log has entries that its idle readers or its followers have not been told of. O(1).

        Idle readers want to hear of it at once; followers have a turn at every beat anyway.
        """
        if log.idle and not log.is_dirty:
            log.is_dirty = True
            self.dirty_logs.append(log)
        if log.followers and not log.is_fresh:
            log.is_fresh = True
            self._fresh_logs.append(log)

    @property
    def is_told(self) -> bool:
        """Whether everybody knows of everything that was published."""
        return not (self.dirty_logs or self._fresh_logs)

    def propagate(self, now: float) -> None:
        """Tell idle readers that there is something; O(readers that were idle), each at most once a flush."""
        if self._fresh_logs:
            fresh, self._fresh_logs = self._fresh_logs, []
            hand_out(fresh)
        logs, self.dirty_logs = self.dirty_logs, []
        for log in logs:
            log.is_dirty = False
            readers, log.idle = log.idle, {}
            for reader in readers:
                cohort = reader.cohort
                assert cohort is not None
                cohort.dirty.append(reader)
                wake_at = cohort.layout.wake_at
                if wake_at is None or (wake_at > now and wake_at > cohort.not_before):
                    self.wants(cohort, now)

    def wants(self, cohort: Cohort, now: float) -> None:
        """Let the layout of a dirty cohort have a turn as early as the cohort may be flushed."""
        layout = cohort.layout
        at = self._batcher.next_turn(cohort) if cohort.dirty else cohort.not_before
        if at <= now:
            at = now
        elif len(layout.cohorts) > 1:
            at = max(at, layout.not_before)
        if layout.wake_at is None or at < layout.wake_at:
            self.turns.at(layout, at)
