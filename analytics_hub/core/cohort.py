"""A cohort: sessions with the same subscriptions and wire, at the same positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from .bucket import TokenBucket
from .reader import Reader
from .ring import Entry
from .wire import Wire

if TYPE_CHECKING:
    from .session import Session

SLICE: Final = 256
"""Members written in one go. At 8 to 20 µs for each write a slice takes at most 5 ms, then the event loop gets its
turn."""


class Delivery(NamedTuple):
    """`frame` must be written to each of `recipients`, without anything in between."""

    frame: bytes
    recipients: Sequence[Session]


SubscriptionSetKey = tuple[str, tuple[tuple[str, float | None], ...]]


class SubscriptionSet:
    """A wire and a set of subscriptions, such as those of a dashboard. Its cohorts take their turns together.

    `primary` is the cohort that the others join once they are in step with it. `not_before` is one interval after the
    last turn in which a cohort was written: a cohort with a rhythm of its own waits for it once, is then in step, and
    can be joined.
    """

    __slots__ = ("cohorts", "key", "not_before", "primary", "wake_at", "wire")

    def __init__(self, key: SubscriptionSetKey, wire: Wire) -> None:
        self.key = key
        self.wire = wire
        self.cohorts: dict[Cohort, None] = {}
        self.primary: Cohort | None = None
        self.not_before = 0.0
        self.wake_at: float | None = None


class Slice:
    """Members of a cohort that are written together; the part of a flush that cannot be interrupted."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: dict[Session, None] = {}


class Cohort:
    """Sessions that share readers, a token bucket and, at each flush, one frame.

    `dirty` are the readers that have something to come; the others are in the `idle` of their logs. No data is written
    before `not_before`. If it `is_stalled`, its members take nothing until they are resumed, and its readers are in
    neither place. `held_by` is what held items back when its last flush ended, the reason of the next `$gap`.
    """

    __slots__ = (
        "bucket",
        "dirty",
        "frame",
        "held_by",
        "is_stalled",
        "last_write",
        "not_before",
        "owed",
        "queue",
        "readers",
        "resumed_peer",
        "size",
        "slices",
        "stalled_peer",
        "subscription_set",
        "taken",
    )

    def __init__(self, subscription_set: SubscriptionSet, readers: dict[str, Reader], bucket: TokenBucket) -> None:
        self.subscription_set = subscription_set
        self.readers = readers
        for reader in readers.values():
            reader.cohort = self
            reader.log.readers += 1
        self.bucket = bucket
        self.dirty: list[Reader] = []
        self.queue: list[Entry] | None = None  # of a follower: entries that it was handed and has not written yet
        self.slices: list[Slice] = []
        self.size = 0
        self.not_before = 0.0
        self.last_write = 0.0
        self.is_stalled = False
        self.held_by = "rate"
        # Of a flush of several slices that is under way: those not written yet, and how much was taken of each reader.
        self.frame = b""
        self.owed: dict[Slice, None] = {}
        self.taken: dict[Reader, int] = {}
        # The cohorts of members that stalled since the last flush, and of those that were resumed: members that fall
        # behind together stay together, and share frames when they catch up.
        self.stalled_peer: Cohort | None = None
        self.resumed_peer: Cohort | None = None

    # --- members

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

    def owes(self, session: Session) -> bool:
        """Whether a flush under way has taken items for this member and not written them yet."""
        return bool(self.owed) and session.slice in self.owed

    def pop_owed_frame(self, session: Session) -> bytes:
        """The frame that a member is owed, which must now be written to it; it is owed nothing more."""
        self.remove(session)
        if not self.slices or self.slices[-1] in self.owed:
            self.slices.append(Slice())
        self.add(session)
        return self.frame

    # --- readers

    @property
    def is_in_step(self) -> bool:
        """Nothing to come and nothing under way: every reader is at its head. O(subscriptions)."""
        if self.has_work or self.is_stalled or self.owed:
            return False
        if self.queue is not None:
            return all(reader.log.distributed == reader.log.head for reader in self.readers.values())
        return not any(reader.has_more for reader in self.readers.values())

    @property
    def has_work(self) -> bool:
        """Whether the next turn has something to look at."""
        return bool(self.dirty or self.queue)

    def sort_readers(self) -> None:
        """Sort the readers into those that have something to come and those that wait for their log's next entry."""
        self.dirty = []
        for reader in self.readers.values():
            if reader.has_more:
                reader.log.idle.pop(reader, None)
                self.dirty.append(reader)
            else:
                reader.log.idle[reader] = None

    def release_readers(self) -> None:
        """The cohort is no longer used: its logs forget it."""
        for reader in self.readers.values():
            reader.log.idle.pop(reader, None)
            reader.log.followers.pop(self, None)
            reader.log.readers -= 1
            reader.cohort = None
        self.dirty = []
        self.queue = None
