"""When cohorts are due: from an entry that was published to the turn in which its readers are flushed."""

from __future__ import annotations

from collections import deque

from .cohort import Cohort, SubscriptionSet
from .fanout import distribute, unfollow
from .log import ChannelLog
from .schedule import Schedule


class Scheduler:
    """Decides when each cohort may be flushed.

    `publish` marks a log; `propagate` tells its readers, and their cohorts request a turn of their subscription set; in
    its turn, the cohorts that may be flushed become `due`, and the others request another turn. The cohorts of one
    subscription set take their turns together. After its turn, those of a set in `crowded` may be merged.
    """

    def __init__(self) -> None:
        self.turns: Schedule[SubscriptionSet] = Schedule()
        self.due: deque[Cohort] = deque()
        self.crowded: dict[SubscriptionSet, None] = {}
        self.dirty_logs: list[ChannelLog] = []
        self._undistributed_logs: list[ChannelLog] = []

    def mark(self, log: ChannelLog) -> None:
        """Remember that a log has entries that its idle readers or its followers do not know of. O(1).

        Idle readers want to know at once; followers have a turn in every interval anyway.
        """
        if log.idle and not log.is_dirty:
            log.is_dirty = True
            self.dirty_logs.append(log)
        if log.followers and not log.is_undistributed:
            log.is_undistributed = True
            self._undistributed_logs.append(log)

    @property
    def is_propagated(self) -> bool:
        """Whether all readers know of everything that was published."""
        return not (self.dirty_logs or self._undistributed_logs)

    def propagate(self, now: float) -> None:
        """Tell idle readers that there is something; O(readers that were idle), each at most once a flush."""
        for log in dict.fromkeys([*self._undistributed_logs, *self.dirty_logs]):
            log.release_read()
        if self._undistributed_logs:
            undistributed, self._undistributed_logs = self._undistributed_logs, []
            distribute(undistributed)
        logs, self.dirty_logs = self.dirty_logs, []
        for log in logs:
            log.is_dirty = False
            readers, log.idle = log.idle, {}
            for reader in readers:
                cohort: Cohort = reader.cohort
                cohort.dirty.append(reader)
                wake_at = cohort.subscription_set.wake_at
                if wake_at is None or (wake_at > now and wake_at > cohort.not_before):
                    self.request_turn(cohort, now)

    def request_turn(self, cohort: Cohort, now: float) -> None:
        """Give the subscription set of a cohort a turn as early as the cohort may be flushed."""
        subscription_set = cohort.subscription_set
        at = self.next_turn(cohort) if cohort.dirty else cohort.not_before
        if at <= now:
            at = now
        elif len(subscription_set.cohorts) > 1:
            at = max(at, subscription_set.not_before)
        if subscription_set.wake_at is None or at < subscription_set.wake_at:
            self.turns.at(subscription_set, at)

    @staticmethod
    def next_turn(cohort: Cohort) -> float:
        """When the dirty readers of a cohort may be flushed."""
        return max(cohort.not_before, min([reader.next_at for reader in cohort.dirty], default=0.0))

    def handle_timer(self, now: float) -> None:
        self.propagate(now)
        for subscription_set in self.turns.due(now):
            self.take_turn(subscription_set, now)

    def take_turn(self, subscription_set: SubscriptionSet, now: float) -> None:
        """Find the cohorts that are due, and let the others have another turn."""
        later = []
        for cohort in list(subscription_set.cohorts):
            if cohort.queue is not None:
                if not cohort.queue:
                    unfollow(cohort)  # nothing for a whole interval: its next item must go at once
                elif cohort.not_before <= now:
                    self.due.append(cohort)
                    continue
            if cohort.has_work:
                if self.next_turn(cohort) > now:
                    later.append(cohort)
                else:
                    self.due.append(cohort)
        if len(subscription_set.cohorts) > 1:
            self.crowded[subscription_set] = None
        for cohort in later:
            self.request_turn(cohort, now)
