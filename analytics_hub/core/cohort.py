"""A cohort: sessions with the same subscriptions and wire, at the same positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ..protocol import control_item
from .bucket import TokenBucket
from .log import ChannelLog
from .ring import Entry

if TYPE_CHECKING:
    from .registry import SubscriptionSet
    from .session import Session

SLICE: Final = 256
"""Members written in one go. At 8 to 20 microseconds for each write a slice is at most 5 ms, then the event loop gets
its turn."""


class Delivery(NamedTuple):
    """`frame` is to be written to each of `recipients`, without anything in between."""

    frame: bytes
    recipients: Sequence[Session]


class Gap(NamedTuple):
    """Items lost and not yet reported: `lost` of the numbers `first` to `last`."""

    first: int
    last: int
    lost: int


class Reader:
    """A cohort's position in one log, and what it knows of the way there.

    Everything up to `position` is settled: delivered, superseded (`conflated`), lost (`dropped`, of which `gap` is not
    reported yet), or in `carry`, which was taken and not yet written. `carry` is never changed in place, so that
    copies of a reader may share it. `is_fresh` until a snapshot was taken: it needs no deletions. `every` and
    `next_at` pace a subscription with `max_hz`.
    """

    __slots__ = (
        "carry",
        "cohort",
        "conflated",
        "dropped",
        "every",
        "gap",
        "is_fresh",
        "is_plain",
        "log",
        "next_at",
        "position",
    )

    def __init__(self, log: ChannelLog, position: int, every: float = 0.0, *, is_fresh: bool = False) -> None:
        self.log = log
        self.cohort: Cohort | None = None
        self.position = position
        self.dropped = 0
        self.conflated = 0
        self.carry: Sequence[Entry] = ()
        self.gap: Gap | None = None
        self.is_fresh = is_fresh
        self.every = every
        self.next_at = 0.0
        self.is_plain = not (every or is_fresh)

    def copy(self) -> Reader:
        twin = Reader(self.log, self.position, self.every, is_fresh=self.is_fresh)
        twin.dropped = self.dropped
        twin.conflated = self.conflated
        twin.carry = self.carry
        twin.gap = self.gap
        twin.next_at = self.next_at
        twin.is_plain = self.is_plain
        return twin

    @property
    def lost(self) -> int:
        """How many entries above the position are gone. Who has seen no key yet misses no deletion."""
        return 0 if self.is_fresh else self.log.is_lost(self.position)

    def settle(self) -> None:
        """Count what was overwritten before it was read, and go on at what is left.

        Not for logs that conflate: what was lost there is known when everything live is taken (`take_live`).
        """
        lost = self.lost
        if lost:
            self.drop(lost)

    def put_back(self) -> None:
        """Leave to the log again what was taken of it and not written: so the oldest is what is lost first.

        Not for logs that conflate, where the positions of what was taken are gone.
        """
        if self.carry and not self.log.conflates:
            self.position = self.settled
            self.carry = ()
            self.update_plain()

    def conclude(self) -> None:
        """The last word on a reader that ends: what it lost is to be reported, in every mode."""
        lost = self.lost
        if lost and self.log.conflates:
            self._report(self.position + 1, self.log.floor, lost)
        elif lost:
            self.drop(lost)

    def drop(self, count: int) -> None:
        """Pass over the next `count` items as lost, and remember to report them."""
        self._report(self.position + 1, self.position + count, count)
        self.position += count

    def take_live(self) -> list[Entry]:
        """Everything live above the position of a log that conflates; the position moves to the head."""
        log = self.log
        entries = log.after(self.position)
        lost = self.lost
        if lost:
            self._report(self.position + 1, log.floor, lost)
        if self.is_fresh:
            entries = [entry for entry in entries if not entry.deleted]
            self.is_fresh = False
        self.conflated += log.head - self.position - len(entries) - lost
        self.position = log.head
        return entries

    def _report(self, first: int, last: int, count: int) -> None:
        self.gap = Gap(self.gap.first, last, self.gap.lost + count) if self.gap else Gap(first, last, count)
        self.dropped += count
        self.is_plain = False

    def notice(self, held_by: str, timestamp: str) -> Entry:
        """The `$gap` that reports what was lost, which then is reported; it stands where the loss begins."""
        assert self.gap is not None
        first, last, lost = self.gap
        self.gap = None
        reason = "retention" if self.log.channel.mode == "durable" else held_by
        span = {"from": first, "to": last}
        item = control_item("$gap", timestamp, channel=self.log.name, **span, count=lost, reason=reason)
        return Entry(0, first, item, self.log.name)

    def pace(self, every: float) -> None:
        """At most one flush in `every` seconds from now on; 0 for no such limit."""
        self.every = every
        self.next_at = 0.0
        self.update_plain()

    @property
    def settled(self) -> int:
        """The number up to which everything is delivered or accounted for."""
        return self.carry[0].seq - 1 if self.carry else self.position

    @property
    def cursor(self) -> int:
        """After which number a client goes on that has all it was written: a loss it was not told of is still ahead."""
        return min(self.settled, self.gap.first - 1) if self.gap else self.settled

    def update_plain(self) -> None:
        """Whether the short way of a flush will do: nothing but a position to advance."""
        self.is_plain = not (self.every or self.is_fresh or self.carry or self.gap)

    @property
    def has_more(self) -> bool:
        return bool(self.carry) or self.position < self.log.head


class Slice:
    """Members of a cohort that are written together; a part of a flush that cannot be interrupted."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: dict[Session, None] = {}


class Cohort:
    """Sessions that share readers, a token bucket and, at each flush, one frame.

    `dirty` are the readers that have something to come; the others lie in the `idle` of their logs. No data before
    `not_before`. `is_stalled`: its members take nothing until they are resumed, and its readers are in neither place.
    `held_by` is what kept items back when its last flush ended, the reason of the next `$gap`.
    """

    __slots__ = (
        "back",
        "bucket",
        "dirty",
        "frame",
        "held_by",
        "inbox",
        "is_stalled",
        "last_write",
        "layout",
        "not_before",
        "owed",
        "readers",
        "size",
        "slices",
        "stray",
        "taken",
    )

    def __init__(self, layout: SubscriptionSet, readers: dict[str, Reader], bucket: TokenBucket) -> None:
        self.layout = layout
        self.readers = readers
        for reader in readers.values():
            reader.cohort = self
        self.bucket = bucket
        self.dirty: list[Reader] = []
        self.inbox: list[Entry] | None = None  # of a follower: what it was handed and has not written yet
        self.slices: list[Slice] = []
        self.size = 0
        self.not_before = 0.0
        self.last_write = 0.0
        self.is_stalled = False
        self.held_by = "rate"
        # A flush of several slices that is under way: who has not been written yet, and what it took of each reader.
        self.frame = b""
        self.owed: dict[Slice, None] = {}
        self.taken: dict[Reader, int] = {}
        # Where members that stalled since the last flush went, and where those that are resumed go: those that fall
        # behind together stay together, and share frames when they catch up.
        self.stray: Cohort | None = None
        self.back: Cohort | None = None

    def add(self, session: Session) -> None:
        if not self.slices or len(self.slices[-1].members) >= SLICE:
            self.slices.append(Slice())
        part = self.slices[-1]
        part.members[session] = None
        session.cohort = self
        session.slice = part
        self.size += 1

    def remove(self, session: Session) -> None:
        part = session.slice
        assert part is not None
        del part.members[session]
        if not part.members:
            self.slices.remove(part)
            self.owed.pop(part, None)
        session.cohort = None
        session.slice = None
        self.size -= 1

    def members(self) -> Iterator[Session]:
        for part in self.slices:
            yield from part.members

    def settle(self, session: Session) -> bytes:
        """Count a member that is owed the frame of the flush under way as served; returns that frame to be written."""
        self.remove(session)
        if not self.slices or self.slices[-1] in self.owed:
            self.slices.append(Slice())
        self.add(session)
        return self.frame

    def owes(self, session: Session) -> bool:
        """Whether a flush under way has taken items for this member and not written them yet."""
        return bool(self.owed) and session.slice in self.owed

    @property
    def is_in_step(self) -> bool:
        """Nothing to come, nothing under way: every reader is at its head. O(subscriptions)."""
        if self.has_work or self.is_stalled or self.owed:
            return False
        if self.inbox is not None:
            return all(reader.log.told == reader.log.head for reader in self.readers.values())
        return not any(reader.has_more or reader.gap for reader in self.readers.values())

    @property
    def has_work(self) -> bool:
        """Whether there is something to look at in the next turn."""
        return bool(self.dirty or self.inbox)

    def watch(self) -> None:
        """Sort the readers into those with something to come and those that wait for their log's next entry."""
        self.dirty = []
        for reader in self.readers.values():
            if reader.has_more:
                reader.log.idle.pop(reader, None)
                self.dirty.append(reader)
            else:
                reader.log.idle[reader] = None

    def unwatch(self) -> None:
        for reader in self.readers.values():
            reader.log.idle.pop(reader, None)
            reader.log.followers.pop(self, None)
            reader.cohort = None
        self.dirty = []
        self.inbox = None
