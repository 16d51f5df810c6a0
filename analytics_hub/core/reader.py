"""A reader: the position of a cohort in one log, and what a session takes with it when it leaves its cohort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..protocol import control_item
from .bucket import TokenBucket
from .log import ChannelLog
from .ring import Entry


class Gap(NamedTuple):
    """Items lost and not reported yet: all of the numbers `first` to `last`.

    Nothing that may still be delivered is in it or below it, so that `last` is a position from which a client resumes.
    """

    first: int
    last: int


class Reader:
    """A position in one log, shared by the members of a `cohort`.

    Each item up to `position` was delivered, superseded (`conflated`), lost (`dropped`; `gaps` are those not reported
    yet), or is in `carry`, taken from the log and not written yet. `carry` is never changed in place, so that copies of
    a reader may share it. `is_fresh` until a snapshot was taken: until then it needs no deletions. `period` and
    `next_at` pace a subscription with `max_hz`. `is_plain`: nothing but the position must be advanced in a flush.
    """

    __slots__ = (
        "carry",
        "cohort",
        "conflated",
        "dropped",
        "gaps",
        "is_fresh",
        "is_plain",
        "log",
        "next_at",
        "period",
        "position",
    )

    def __init__(self, log: ChannelLog, position: int, period: float = 0.0, *, is_fresh: bool = False) -> None:
        self.log = log
        self.cohort: Any = None  # a `Cohort` or None; its module imports this one
        self.position = position
        self.dropped = 0
        self.conflated = 0
        self.carry: Sequence[Entry] = ()
        self.gaps: tuple[Gap, ...] = ()  # several only in logs that conflate, with live entries between them
        self.is_fresh = is_fresh
        self.period = period
        self.next_at = 0.0
        self.is_plain = not (period or is_fresh)

    def copy(self) -> Reader:
        twin = Reader(self.log, self.position, self.period, is_fresh=self.is_fresh)
        twin.dropped = self.dropped
        twin.conflated = self.conflated
        twin.carry = self.carry
        twin.gaps = self.gaps
        twin.next_at = self.next_at
        twin.is_plain = self.is_plain
        return twin

    @property
    def lost(self) -> int:
        """How many entries above the position are gone. A reader that knows no key yet misses no deletion."""
        return 0 if self.is_fresh else self.log.count_lost(self.position)

    @property
    def has_more(self) -> bool:
        return bool(self.carry or self.gaps) or self.position < self.log.head

    @property
    def written_position(self) -> int:
        """The number up to which each item was written or accounted for."""
        return self.carry[0].seq - 1 if self.carry else self.position

    @property
    def resume_position(self) -> int:
        """The number after which a client resumes that has read what was written; a loss that was not reported to it is
        still ahead."""
        return min(self.written_position, self.gaps[0].first - 1) if self.gaps else self.written_position

    def update_plain(self) -> None:
        self.is_plain = not (self.period or self.is_fresh or self.carry or self.gaps)

    def set_pace(self, period: float) -> None:
        """At most one flush every `period` seconds from now on; 0 for no limit."""
        self.period = period
        self.next_at = 0.0
        self.update_plain()

    # --- taking

    def read_live(self) -> list[Entry]:
        """Everything live above the position in a log that conflates; the position moves to the head."""
        log = self.log
        entries = log.after(self.position)
        lost = self.lost
        if lost:
            self._add_losses(entries)
        if self.is_fresh:
            entries = [entry for entry in entries if not entry.deleted]
            self.is_fresh = False
        self.conflated += log.head - self.position - len(entries) - lost
        self.position = log.head
        return entries

    def put_back(self) -> None:
        """Return `carry` to the log, so that the oldest items are lost first.

        Not for logs that conflate, where the positions of items that were taken are gone.
        """
        if self.carry and not self.log.conflates:
            self.position = self.written_position
            self.carry = ()
            self.update_plain()

    # --- losses

    def skip_overwritten(self) -> None:
        """Count what was overwritten before it was read, and continue at what is left.

        Not for logs that conflate: there `read_live` finds out what was lost.
        """
        lost = self.lost
        if lost:
            self.drop(lost)

    def drop(self, count: int) -> None:
        """Skip the next `count` items as lost, to be reported."""
        first = self.gaps[0].first if self.gaps else self.position + 1
        self.position += count
        self.gaps = (Gap(first, self.position),)
        self.dropped += count
        self.is_plain = False

    def count_final_loss(self) -> None:
        """Before the subscription ends: count what it has lost, in every mode."""
        lost = self.lost
        if lost and self.log.conflates:
            self._add_losses(self.log.after(self.position))
        elif lost:
            self.drop(lost)

    def _add_losses(self, live: Sequence[Entry]) -> None:
        """In a log that conflates: what is not live up to its floor is lost, and stands between what is."""
        floor = self.log.floor
        gaps = [*self.gaps]
        first = self.position + 1
        for seq in [*[entry.seq for entry in live if entry.seq <= floor], floor + 1]:
            if first < seq:
                gaps.append(Gap(first, seq - 1))
                self.dropped += seq - first
            first = seq + 1
        self.gaps = tuple(gaps)
        self.is_plain = False

    def has_gap_before(self, seq: int) -> bool:
        """Whether a gap must be reported before the item with this number."""
        return bool(self.gaps) and self.gaps[0].first < seq

    def report_gap(self, held_by: str, timestamp: str) -> Entry:
        """The `$gap` that reports the first of the gaps, which is thereby done. Its `seq` is where the loss begins."""
        (first, last), self.gaps = self.gaps[0], self.gaps[1:]
        reason = "retention" if self.log.channel.mode == "durable" else held_by
        span = {"from": first, "to": last}
        item = control_item("$gap", timestamp, channel=self.log.name, **span, count=last - first + 1, reason=reason)
        return Entry(0, first, item, self.log.name)


class Detached:
    """The readers, rate and pace of a session that is in no cohort."""

    __slots__ = ("bucket", "held_by", "not_before", "readers")

    def __init__(self, readers: dict[str, Reader], bucket: TokenBucket) -> None:
        self.readers = readers
        self.bucket = bucket
        self.not_before = 0.0
        self.held_by = "rate"
