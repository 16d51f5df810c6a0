"""How busy cohorts get their entries without looking at each log themselves.

A cohort reads its logs from its positions. One that has something to write at every beat would look at the same few
logs as all the others, each time: with 1000 cohorts of 20 channels that is most of what a flush costs. So a busy
cohort *follows*: once a turn every log with new entries hands them to the `inbox` of each follower, in publish order,
and a flush is a join over the inbox (`benchmarks`, row `subscription-sets`). Positions are then implied: what a
follower has not got yet is above `told` of each log, and what it has got and not written yet is its inbox.

Nothing else changes: whatever holds a cohort back makes it stop following and read from its positions again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Final

from .cohort import Cohort, Reader
from .log import ChannelLog
from .ring import Entry

MAX_INBOX: Final = 1024
"""More entries of a log in one turn are not handed out: a long backlog is cheaper, and can be dropped, as positions."""

_by_order: Final = itemgetter(0)
_by_channel: Final = attrgetter("channel")


def follow(cohort: Cohort) -> None:
    """Let a cohort that is in step follow its logs, if they and its wire allow it. O(subscriptions)."""
    if cohort.layout.wire.has_cursor:
        return  # it must know its positions at each frame
    readers = cohort.readers.values()
    for reader in readers:
        log = reader.log
        if not reader.is_plain or log.conflates or reader.position != log.head:
            return
        if log.followers and log.told != log.head:
            return  # something is still to be handed out to the others; perhaps after the next flush
    inbox: list[Entry] = []
    for reader in readers:
        log = reader.log
        log.idle.pop(reader, None)
        log.told = log.head
        log.followers[cohort] = inbox.append
    cohort.inbox = inbox


def unfollow(cohort: Cohort) -> None:
    """Let a cohort read from its positions again. O(subscriptions and what is in the inbox)."""
    inbox = cohort.inbox
    if inbox is None:
        return
    cohort.inbox = None
    for reader in cohort.readers.values():
        reader.log.followers.pop(cohort, None)
    place(cohort.readers, inbox)
    cohort.watch()


def place(readers: dict[str, Reader], inbox: Iterable[Entry]) -> None:
    """Give the readers of a follower, or copies of them, the positions that its inbox implies."""
    for reader in readers.values():
        reader.position = reader.log.told
    waiting: dict[str, list[Entry]] = {}
    for entry in inbox:
        waiting.setdefault(entry.channel, []).append(entry)
    for name, entries in waiting.items():
        reader = readers[name]
        before = entries[0].seq - 1
        if before >= reader.log.floor:
            reader.position = before
        else:  # overwritten since, but it has them
            reader.carry = entries
            reader.update_plain()


def waiting(cohort: Cohort) -> Counter[str]:
    """How many entries of each channel a follower has not written yet; its positions are brought up to date."""
    if cohort.inbox is None:
        return Counter()
    for reader in cohort.readers.values():
        reader.position = reader.log.told
    return Counter(map(_by_channel, cohort.inbox))


def hand_out(logs: Sequence[ChannelLog]) -> None:
    """Give the new entries of `logs` to their followers, in publish order; O(entries x followers of their log)."""
    # First of all: who stops following needs to know how far each log has handed its entries out.
    for log in logs:
        if log.told < log.floor or log.head - log.told > MAX_INBOX:
            for cohort in list(log.followers):
                unfollow(cohort)
    news: list[tuple[int, Entry, ChannelLog]] = []
    for log in logs:
        log.is_fresh = False
        if log.followers:
            news += [(entry.order, entry, log) for entry in log.after(log.told)]
        log.told = log.head
    news.sort(key=_by_order)
    for _, entry, log in news:
        for give in log.followers.values():
            give(entry)
