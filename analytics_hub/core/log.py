"""A channel is a log: what it keeps in each mode, and what a position in it still waits for.

A log knows nothing of clients but who wants to hear of its next entry (`idle`). Publishing appends one entry: O(1),
whatever the number of readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..channels import Channel
from ..exceptions import InvalidItem, TableFull
from ..protocol import encode
from ..tuning import Tuning
from .ledger import Ledger
from .ring import Entry, RingBuffer

if TYPE_CHECKING:
    from .cohort import Cohort, Reader


class ChannelLog:
    """What all modes have in common.

    `head` is the newest sequence number, `floor` the last one that is gone from memory. `after(position)` lists what
    is live above a position. `idle` holds the readers that have nothing to come: the first new entry marks them.
    `followers` are busy cohorts, which were handed everything up to `told` (`following.py`).
    """

    conflates: ClassVar[bool] = False

    __slots__ = (
        "channel",
        "closed",
        "epoch",
        "floor",
        "followers",
        "head",
        "idle",
        "is_dirty",
        "is_fresh",
        "is_member",
        "name",
        "prefix",
        "published_at",
        "told",
        "types",
        "wake_at",
        "watchers",
    )

    def __init__(self, channel: Channel, name: str, epoch: str) -> None:
        self.channel = channel
        self.name = name
        self.epoch = epoch
        self.head = 0
        self.floor = 0
        self.idle: dict[Reader, None] = {}
        self.followers: dict[Cohort, Callable[[Entry], None]] = {}  # and how to hand them one
        self.told = 0
        self.is_dirty = False
        self.is_fresh = False
        self.is_member = channel.is_pattern
        self.watchers = 0
        self.closed = Ledger()  # of the subscriptions that have ended, summed
        self.published_at = 0.0
        self.wake_at: float | None = None
        self.prefix = b'{"channel":%b,"seq":' % encode(name)
        self.types: dict[str, bytes] = {}

    def encoded_type(self, type_: str | None) -> bytes:
        """The JSON of an item's type, remembered: types are few."""
        known = self.types.get(type_ or "")
        if known is None:
            if len(self.types) >= 256:
                self.types.clear()
            known = self.types[type_ or ""] = encode(type_ or self.channel.type or self.name)
        return known

    def item(self, seq: int, type_: str | None, stamp: str, data: bytes, key: str | None, deleted: bool) -> bytes:
        """The encoded data item (`docs/protocol.md` §2)."""
        if key is None:
            return b'%b%d,"type":%b,"timestamp":"%b","data":%b}' % (
                self.prefix,
                seq,
                self.types.get(type_ or "") or self.encoded_type(type_),
                stamp.encode(),
                data,
            )
        return b'%b%d,"key":%b,"type":%b,"timestamp":"%b","data":%b%b}' % (
            self.prefix,
            seq,
            encode(key),
            self.encoded_type(type_),
            stamp.encode(),
            data,
            b',"deleted":true' if deleted else b"",
        )

    def check(self, key: str | None, deleted: bool) -> None:
        """Raise what `publish` would raise for this key; reads only, so that any thread may ask."""
        if key is not None:
            raise InvalidItem(f"key {key!r} on channel {self.name!r}, whose mode {self.channel.mode!r} has no keys")
        if deleted:
            raise InvalidItem(f"delete on channel {self.name!r}, whose mode {self.channel.mode!r} has no keys")

    def append(self, entry: Entry) -> None:
        raise NotImplementedError  # pragma: no cover - each mode has its own

    def after(self, position: int) -> list[Entry]:
        raise NotImplementedError  # pragma: no cover - each mode has its own

    def some_after(self, position: int, limit: int) -> list[Entry]:
        """At most `limit` of what `after` lists."""
        raise NotImplementedError  # pragma: no cover - asked of logs of which a part may go

    def is_lost(self, position: int) -> int:
        """How many entries above `position` will never be delivered from there, supersession aside."""
        return max(0, self.floor - position)

    def pending(self, position: int, fresh: bool) -> int:
        """How many entries above `position` are still to be delivered; to a `fresh` reader no deletions are."""
        return self.head - position - self.is_lost(position)

    def oldest(self) -> int:
        """The position before the oldest entry that can still be delivered: where a snapshot starts."""
        return self.floor

    def back(self, count: int) -> int:
        """The position `count` deliverable entries before the head."""
        return max(self.oldest(), self.head - count)

    @property
    def largest(self) -> int:
        """Bytes of the largest item there ever was."""
        raise NotImplementedError  # pragma: no cover - asked of `events` only

    @property
    def keeps(self) -> dict[str, float | None]:
        """The bounds of what is kept, as the acknowledgement of a subscription states them."""
        raise NotImplementedError  # pragma: no cover - each mode has its own

    @property
    def is_empty(self) -> bool:
        return self.head == self.floor

    def _seconds(self) -> float | None:
        return self.channel.keep_seconds if self.is_member else None


class EventLog(ChannelLog):
    """`events`: every item, the oldest overwritten."""

    __slots__ = ("after", "ring", "some_after")

    def __init__(self, channel: Channel, name: str, epoch: str, tuning: Tuning, head: int = 0) -> None:
        super().__init__(channel, name, epoch)
        self.ring = RingBuffer(channel.keep_items or tuning.burst_items, channel.keep_bytes or tuning.burst_bytes, head)
        self.head = self.floor = head
        self.after = self.ring.after  # type: ignore[method-assign]  # one call less on the hot path
        self.some_after = self.ring.some_after  # type: ignore[method-assign]

    def append(self, entry: Entry) -> None:
        ring = self.ring
        ring.append(entry)
        self.head = ring.head
        self.floor = ring.floor

    @property
    def largest(self) -> int:
        return self.ring.largest

    @property
    def keeps(self) -> dict[str, float | None]:
        return {"items": self.ring.max_items, "bytes": self.ring.max_bytes, "seconds": self._seconds()}


class KeyedLog(ChannelLog):
    """`table` and `latest`: the newest item of every key; of the one key there is, for `latest`.

    A deleted key stays as a tombstone, so that readers who are behind learn of it, while there are at most `max_keys`
    tombstones; `floor` is the newest one that had to go.
    """

    conflates: ClassVar[bool] = True

    __slots__ = ("_live", "_tombstones")

    def __init__(self, channel: Channel, name: str, epoch: str) -> None:
        super().__init__(channel, name, epoch)
        self._live: dict[str | None, Entry] = {}  # in the order of their numbers
        self._tombstones: dict[str | None, None] = {}  # in the order of their deletion

    @property
    def is_keyed(self) -> bool:
        return self.channel.mode == "table"

    def check(self, key: str | None, deleted: bool) -> None:
        if not self.is_keyed:
            return super().check(key, deleted)
        if not key:
            raise InvalidItem(f"channel {self.name!r} is a table: an item needs a key, a text that is not empty")
        entry = self._live.get(key)
        keys = len(self._live) - len(self._tombstones)
        if not deleted and (entry is None or entry.deleted) and keys >= self.channel.max_keys:
            raise TableFull(
                f"key {key!r} would be one more than the {self.channel.max_keys} that channel {self.name!r} may hold"
            )

    def holds(self, key: str) -> bool:
        entry = self._live.get(key)
        return entry is not None and not entry.deleted

    def append(self, entry: Entry) -> None:
        key = entry.key
        live = self._live
        live.pop(key, None)
        live[key] = entry
        self.head = entry.seq
        if entry.deleted:
            self._tombstones[key] = None
            if len(self._tombstones) > self.channel.max_keys:
                oldest = next(iter(self._tombstones))
                del self._tombstones[oldest]
                self.floor = live.pop(oldest).seq
        elif self._tombstones:
            self._tombstones.pop(key, None)

    def after(self, position: int) -> list[Entry]:
        if self.head <= position:
            return []
        found: list[Entry] = []
        for entry in reversed(self._live.values()):
            if entry.seq <= position:
                break
            found.append(entry)
        found.reverse()
        return found

    @property
    def has_tombstones(self) -> bool:
        return bool(self._tombstones)

    def is_lost(self, position: int) -> int:
        """Below `floor` nobody knows any more what was superseded and what was a deletion: all of it counts as lost
        but for what is still live and will come."""
        if position >= self.floor:
            return 0
        kept = sum(entry.seq <= self.floor for entry in self.after(position))
        return self.floor - position - kept

    def pending(self, position: int, fresh: bool) -> int:
        live = self._live
        if live and position < next(iter(live.values())).seq:  # all of it, as after each start with a snapshot
            return len(live) - len(self._tombstones) if fresh else len(live)
        entries = self.after(position)
        return sum(not entry.deleted for entry in entries) if fresh else len(entries)

    def oldest(self) -> int:
        for entry in self._live.values():
            if not entry.deleted:
                return entry.seq - 1
        return self.head

    def back(self, count: int) -> int:
        position = self.head
        for entry in reversed(self._live.values()):
            if count == 0:
                break
            if not entry.deleted:
                position = entry.seq - 1
                count -= 1
        return position

    @property
    def keeps(self) -> dict[str, float | None]:
        return {
            "items": self.channel.max_keys if self.is_keyed else 1,
            "bytes": None,
            "seconds": self._seconds(),
        }

    @property
    def is_empty(self) -> bool:
        return len(self._live) == len(self._tombstones)


@dataclass(slots=True)
class Draft:
    """An item of a durable channel on its way to the journal; `waiter` is whatever the driver hung on it."""

    type: str | None
    stamp: str
    data: bytes
    waiter: object = None


class DurableLog(EventLog):
    """`durable`: an item has a number, and readers, only once the journal has it.

    At most one batch is with the journal; what is published meanwhile waits in `drafts` and goes as the next batch
    (group commit). Memory keeps a window, and the journal answers for what is older than `floor` but above `kept`.
    """

    __slots__ = ("batch", "drafts", "kept", "reading")

    def __init__(self, channel: Channel, name: str, epoch: str, tuning: Tuning, head: int = 0, kept: int = 0) -> None:
        super().__init__(channel, name, epoch, tuning, head)
        self.kept = kept
        self.drafts: list[Draft] = []
        self.batch: list[Draft] = []
        self.reading: dict[int, list[Reader]] = {}  # who waits for the journal's items above a position

    def encode_batch(self) -> list[bytes]:
        """Make the drafts the batch; their items with the numbers they will have."""
        self.batch, self.drafts = self.drafts, []
        return [
            self.item(self.head + i, draft.type, draft.stamp, draft.data, None, False)
            for i, draft in enumerate(self.batch, 1)
        ]

    def is_lost(self, position: int) -> int:
        return max(0, self.oldest() - position)

    def oldest(self) -> int:
        return min(self.kept, self.floor)  # what the journal has forgotten may still be in memory


def entries_of(name: str, items: Sequence[tuple[int, bytes]]) -> list[Entry]:
    """Items read back from a journal as entries. They are older than anything in memory, so `order` 0 sorts first."""
    return [Entry(0, seq, data, name) for seq, data in items]
