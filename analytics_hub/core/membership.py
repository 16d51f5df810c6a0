"""Which cohort a session is in: subscribing, falling behind, catching up, leaving.

A cohort is defined by its subscription set, positions and tokens. Members that are held back together stay together; a
cohort that has caught up joins the primary cohort of its subscription set as soon as that lets it exceed neither its
rate nor its pace.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from .batcher import Batcher
from .bucket import TokenBucket
from .cohort import Cohort, Delivery, SubscriptionSet
from .context import Context
from .fanout import set_positions, unfollow
from .reader import Detached
from .scheduler import Scheduler
from .session import Session

_ROUNDING: Final = 1e-6


class Membership:
    """Moves sessions between cohorts.

    A session that leaves its cohort in the middle of a flush is first written what it is owed: that goes to `outbox`.
    """

    def __init__(self, context: Context, scheduler: Scheduler, batcher: Batcher) -> None:
        self._registry = context.registry
        self._rate = context.tuning.rate
        self._scheduler = scheduler
        self._batcher = batcher
        self.outbox: deque[Delivery] = deque()

    # --- joining and leaving

    def detach(self, session: Session, now: float) -> Detached:
        """Take a session out of its cohort, with its readers, rate and pace. A frame that it is owed is sent first."""
        cohort = session.cohort
        if cohort is None:
            detached, session.detached = session.detached, None
            return detached if detached is not None else Detached({}, TokenBucket(self._rate, now))
        self.send_owed(session)
        if cohort.size == 1:
            unfollow(cohort)
            detached = Detached(cohort.readers, cohort.bucket)
        else:
            detached = Detached({name: r.copy() for name, r in cohort.readers.items()}, cohort.bucket.copy())
            if cohort.queue is not None:
                set_positions(detached.readers, cohort.queue)
        detached.not_before = cohort.not_before
        detached.held_by = cohort.held_by
        self.remove(session)
        return detached

    def remove(self, session: Session) -> None:
        """Take a session out of its cohort, and drop the cohort if it was the last member."""
        cohort = session.cohort
        if cohort is None:
            return
        session.last_write = session.written_at
        cohort.remove(session)
        if not cohort.size:
            self._drop(cohort)

    def _drop(self, cohort: Cohort) -> None:
        """Drop a cohort without members, and its subscription set with the last one."""
        cohort.release_readers()
        self._registry.remove_cohort(cohort)
        if not cohort.subscription_set.cohorts:
            self._scheduler.turns.cancel(cohort.subscription_set)

    def send_owed(self, session: Session) -> bool:
        """Send the frame that a flush under way owes a session, before anything else is sent to it; False if none."""
        cohort = session.cohort
        if cohort is None or not cohort.owes(session):
            return False
        self.outbox.append(Delivery(cohort.pop_owed_frame(session), (session,)))
        return True

    def attach(self, session: Session, detached: Detached, now: float) -> None:
        """Put a session into a cohort. Without a subscription it is in none, but keeps its rate and pace."""
        if not detached.readers:
            session.detached = detached
            return
        subscription_set = self._registry.find_subscription_set(
            session.wire, [(name, subscription.max_hz) for name, subscription in session.subscriptions.items()]
        )
        cohort = Cohort(subscription_set, detached.readers, detached.bucket)
        cohort.not_before = detached.not_before
        cohort.is_stalled = session.is_stalled
        cohort.held_by = "buffer" if session.is_stalled else detached.held_by
        subscription_set.cohorts[cohort] = None
        cohort.add(session)
        if cohort.is_stalled:
            return
        cohort.sort_readers()
        if cohort.is_in_step:
            cohort.held_by = "rate"  # what held it back has cost it nothing
        if cohort.dirty:
            self._scheduler.request_turn(cohort, now)
        elif subscription_set.primary is None:
            subscription_set.primary = cohort
        else:
            self._join(cohort, subscription_set.primary, now)

    # --- falling behind and catching up

    def stall(self, session: Session, now: float) -> None:
        """Give a session that takes nothing more positions of its own, just after the frame that it took."""
        cohort = session.cohort
        if cohort is None or cohort.is_stalled:
            return
        assert not cohort.owes(session), "only a write can stall a session, and what it is owed is written first"
        peer = cohort.stalled_peer
        if peer is not None and peer.size and peer.is_stalled and peer.last_write == cohort.last_write:
            self.remove(session)
            peer.add(session)
            return
        origin = cohort if cohort.size > 1 else None
        detached = self.detach(session, now)
        last_write = cohort.last_write
        self.attach(session, detached, now)
        attached = session.cohort
        assert attached is not None
        attached.last_write = last_write
        if origin is not None:
            origin.stalled_peer = attached

    def resume(self, session: Session, now: float) -> None:
        """Let a stalled session read on from its own positions.

        If a flush was due meanwhile, the session has missed it and loses what exceeds its buffer. While it was stalled
        nothing was done for it: positions cost nothing, and the logs have bounds of their own.
        """
        cohort = session.cohort
        if cohort is None or not cohort.is_stalled:
            return
        peer = cohort.resumed_peer
        if peer is not None and peer.size and peer.last_write == cohort.last_write:
            self.remove(session)
            peer.add(session)
            return
        detached = self.detach(session, now)
        if now >= detached.not_before:
            self._batcher.trim(list(detached.readers.values()))
        self.attach(session, detached, now)
        attached = session.cohort
        if attached is not None and attached.size == 1:
            attached.last_write = cohort.last_write
            cohort.resumed_peer = attached

    def merge(self, subscription_set: SubscriptionSet, now: float) -> None:
        """Join the cohorts of a subscription set that are in step. O(its cohorts x their subscriptions)."""
        if len(subscription_set.cohorts) < 2:
            return
        in_step = [cohort for cohort in subscription_set.cohorts if cohort.is_in_step]
        if not in_step:
            return
        primary = subscription_set.primary = max(in_step, key=lambda cohort: cohort.size)
        for cohort in in_step:
            if cohort is not primary:
                self._join(cohort, primary, now)

    def _join(self, cohort: Cohort, primary: Cohort, now: float) -> None:
        if not (cohort.is_in_step and primary.is_in_step and self._may_join(cohort, primary, now)):
            return
        for session in list(cohort.members()):
            for name, subscription in session.subscriptions.items():
                subscription.move(cohort.readers[name], primary.readers[name])
            session.last_write = session.written_at
            session.joined_at = now
            cohort.remove(session)
            primary.add(session)
        self._drop(cohort)

    @staticmethod
    def _may_join(cohort: Cohort, primary: Cohort, now: float) -> bool:
        """Whether the members of `cohort` would exceed neither their rate nor their pace in `primary`."""
        return (
            cohort.bucket.available(now) + _ROUNDING >= primary.bucket.available(now)
            and cohort.not_before <= max(now, primary.not_before)
            and all(r.next_at <= max(now, primary.readers[name].next_at) for name, r in cohort.readers.items())
        )
