"""Fan-out on write: busy cohorts get their entries without looking at each log themselves.

A cohort reads its logs from its positions. Cohorts that have something to write at every turn would all look at the
same few logs, each time: with 1000 cohorts of 20 channels that is most of the cost of a flush. So a busy cohort
*follows* its logs: once a turn every log with new entries appends them to the `queue` of each follower, in publish
order, and a flush is a join over the queue (`benchmarks`, row `own sets`). Positions are then implied: what a follower
has not been handed yet is above `distributed` of each log, and what it was handed and has not written is its queue.

Nothing else changes: whatever holds a cohort back makes it stop following and read from its positions again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final

from .cohort import Cohort
from .log import ChannelLog
from .reader import Reader
from .ring import Entry, by_channel

MAX_PER_TURN: Final = 1024
"""If a log has more new entries in one turn, its followers stop following: a long backlog is cheaper as a position, and
can be dropped."""

_by_first: Final = itemgetter(0)


def follow(cohort: Cohort) -> None:
    """Let a cohort that is in step follow its logs, if they and its wire allow it. O(subscriptions)."""
    if cohort.subscription_set.wire.has_cursor:
        return  # it needs its positions at each frame
    readers = cohort.readers.values()
    for reader in readers:
        log = reader.log
        if not reader.is_plain or log.conflates or reader.position != log.head:
            return
        if log.followers and log.distributed != log.head:
            return  # the others still have to be handed something; perhaps after the next flush
    queue: list[Entry] = []
    for reader in readers:
        log = reader.log
        log.idle.pop(reader, None)
        log.distributed = log.head
        log.followers[cohort] = queue.append
    cohort.queue = queue


def unfollow(cohort: Cohort) -> None:
    """Let a cohort read from its positions again. O(subscriptions and queued entries)."""
    queue = cohort.queue
    if queue is None:
        return
    cohort.queue = None
    for reader in cohort.readers.values():
        reader.log.followers.pop(cohort, None)
    set_positions(cohort.readers, queue)
    cohort.sort_readers()


def set_positions(readers: dict[str, Reader], queue: Iterable[Entry]) -> None:
    """Give the readers of a follower, or copies of them, the positions that its queue implies."""
    for reader in readers.values():
        reader.position = reader.log.distributed
    oldest: dict[str, int] = {}
    for entry in queue:
        oldest.setdefault(entry.channel, entry.seq)
    for name, first in oldest.items():
        reader = readers[name]
        reader.position = first - 1


def count_queued(cohort: Cohort) -> Counter[str]:
    """How many entries of each channel a follower has not written yet; its positions are brought up to date."""
    if cohort.queue is None:
        return Counter()
    for reader in cohort.readers.values():
        reader.position = reader.log.distributed
    return Counter(map(by_channel, cohort.queue))


def distribute(logs: Sequence[ChannelLog]) -> None:
    """Hand the new entries of `logs` to their followers, in publish order; O(entries x followers of their log)."""
    # First of all, because a cohort that stops following needs to know what each log has distributed.
    for log in logs:
        if log.distributed < log.floor or log.head - log.distributed > MAX_PER_TURN:
            for cohort in list(log.followers):
                unfollow(cohort)
        elif log.is_queue_check_due():
            for cohort in [each for each in log.followers if log.is_queue_long(each.queue)]:
                unfollow(cohort)
    entries: list[tuple[int, Entry, ChannelLog]] = []
    for log in logs:
        log.is_undistributed = False
        if log.followers:
            entries += [(entry.order, entry, log) for entry in log.after(log.distributed)]
        log.distributed = log.head
    entries.sort(key=_by_first)
    for _, entry, log in entries:
        for append in log.followers.values():
            append(entry)
