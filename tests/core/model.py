"""The reference: what a channel accepted and what a client must get of it, by the simplest code possible.

Nothing is shared, discarded or computed in advance: a channel is the list of everything that it ever accepted, and a
subscription is the list of what its client received, checked item by item.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from analytics_hub.channels import Channel
from analytics_hub.core.statistics import Ledger
from analytics_hub.tuning import Tuning

from .wire import Fields


def stamp(wall: float) -> str:
    """Unix seconds in the format of the protocol."""
    text = datetime.fromtimestamp(int(wall * 1000) // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{int(wall * 1000) % 1000:03d}Z"


class Item:
    """One accepted item. `order` counts all items of the hub; `fields` is what a client must read."""

    def __init__(self, order: int, fields: Fields) -> None:
        self.order = order
        self.fields = fields
        self.seq: int = fields["seq"]
        self.key: str | None = fields.get("key")
        self.deleted: bool = fields.get("deleted", False)
        self.encoded = msgspec.json.encode(fields)


def make_fields(
    channel: Channel, name: str, seq: int, type_: str | None, at: str, data: object, key: str | None, *, deleted: bool
) -> Fields:
    """A data item with the fields of `docs/protocol.md` §2, in that order."""
    fields: Fields = {"channel": name, "seq": seq}
    if key is not None:
        fields["key"] = key
    fields |= {"type": type_ or channel.type or name, "timestamp": at, "data": data}
    return fields | {"deleted": True} if deleted else fields


@dataclass(eq=False)
class History:
    """One epoch of a channel: everything that it ever accepted, item `seq` at index `seq - 1`."""

    channel: Channel
    name: str
    epoch: str
    tuning: Tuning
    items: list[Item] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each item was accepted."""
    trimmed: int = 0
    """Of a durable channel: the last number that its journal no longer has."""
    reported_trim: int = 0
    """The same, as far as the engine was told."""
    restored: int = 0
    """Of a durable channel: the head at which it was restored. Nothing below was ever in memory."""
    forgotten: int = 0
    """Of a table: the number of the newest deletion that is no longer remembered."""
    deletions: list[Item] = field(default_factory=list)
    _newest: dict[str | None, Item] = field(default_factory=dict)
    _newest_at: int = 0

    @property
    def head(self) -> int:
        return len(self.items)

    @property
    def conflates(self) -> bool:
        return self.channel.mode in ("table", "latest")

    def accept(self, now: float, item: Item) -> None:
        assert item.seq == self.head + 1
        self.items.append(item)
        self.times.append(now)
        self.deletions = [other for other in self.deletions if other.key != item.key]
        if item.deleted:
            self.deletions.append(item)
        while len(self.deletions) > self.channel.max_keys:
            self.forgotten = self.deletions.pop(0).seq

    def floor(self) -> int:
        """The last number that memory no longer has for readers that are behind."""
        burst_items, burst_bytes = self.tuning.burst_items, self.tuning.burst_bytes
        keep_items, keep_bytes = self.channel.keep_items, self.channel.keep_bytes
        if self.channel.mode == "durable":
            return self._tail(keep_items or burst_items, keep_bytes or burst_bytes)
        return self._tail(max(keep_items or 0, burst_items), max(keep_bytes or 0, burst_bytes))

    def _tail(self, most_items: int, most_bytes: int) -> int:
        """The last number below the longest tail within the bounds."""
        items = nbytes = 0
        for item in reversed(self.items[self.restored :]):
            items += 1
            nbytes += len(item.encoded)
            if items > most_items or (nbytes > most_bytes and items > 1):
                return item.seq
        return self.restored

    def lost(self, now: float) -> int:
        """The last number that a new subscription can no longer get, except for superseded items."""
        if self.conflates:
            return self.forgotten
        if self.channel.mode == "durable":
            return min(self.reported_trim, self.floor())
        tuning, channel = self.tuning, self.channel
        kept = self._tail(channel.keep_items or tuning.burst_items, channel.keep_bytes or tuning.burst_bytes)
        seconds = channel.keep_seconds
        old = 0 if seconds is None else sum(now - at >= seconds for at in self.times)
        return max(self.floor(), kept, old)

    def newest(self) -> dict[str | None, Item]:
        """The newest item of each key, deletions among them, in the order of their numbers."""
        if self._newest_at != self.head:  # a cache, to save time
            self._newest_at = self.head
            self._newest = {}
            for item in self.items:
                self._newest.pop(item.key, None)
                self._newest[item.key] = item
        return self._newest

    def live(self, after: int = 0) -> list[Item]:
        """What a reader at `after` must still get of a channel that conflates."""
        return [
            item
            for item in self.newest().values()
            if item.seq > after and not (item.deleted and item not in self.deletions)
        ]

    def present(self) -> list[Item]:
        """The newest items of the keys that exist now."""
        return [item for item in self.live() if not item.deleted]

    # --- where a subscription starts

    def oldest(self, now: float) -> int:
        if self.conflates:
            return min((item.seq - 1 for item in self.present()), default=self.head)
        return self.lost(now)

    def back(self, count: int, now: float) -> int:
        if self.conflates:
            present = self.present()[-count:] if count else []
            return present[0].seq - 1 if present else self.head
        return max(self.lost(now), self.head - count)


@dataclass(eq=False)
class Stream:
    """One subscription as its client sees it.

    `start` is where its ledger begins; `seen` is the last number that was read or named in a gap.
    `resumes`: the client had read everything up to `start`, so it must learn of deletions.
    """

    history: History
    start: int
    resumes: bool = False
    is_broken: bool = False
    """The hole before the first item cannot be counted; a gap that reports it is still to come."""
    has_hole: bool = False
    """The resume had lost items already; the first gap reports them."""
    hole_end: int = 0
    """The last number that the resume had lost."""
    every: float = 0.0
    """The seconds between two flushes, at least."""
    prepaid: int = 0
    """Items of a table that were paid for together with earlier ones."""
    paced_since: float = 0.0
    paced_at: float = float("-inf")
    above: int = 0
    """The position in `$subscribed`: every item is above it."""
    end: int | None = None
    """The head when the subscription ended."""
    final: Ledger | None = None
    """Its closed account; None as long as it is unknown."""
    seen: int = 0
    delivered_seq: int = 0
    delivered: int = 0
    announced: int = 0
    table: dict[str | None, Item] = field(default_factory=dict)
    gaps: list[range] = field(default_factory=list)
    allowed_until: int | None = None
    """The order of the newest item when the identity lost its right to the channel."""

    def __post_init__(self) -> None:
        self.seen = self.start

    @property
    def name(self) -> str:
        return self.history.name

    def receive(self, fields: Fields) -> Item:
        """The client received a data item."""
        seq: int = fields["seq"]
        assert 0 < seq <= self.history.head, f"{self.name}: item {seq} was never accepted"
        item = self.history.items[seq - 1]
        assert fields == item.fields, f"{self.name}: {fields} differs from what was published: {item.fields}"
        assert not self.is_broken, f"{self.name}: item {seq} came before the gap that breaks the epochs"
        assert seq > self.seen, f"{self.name}: item {seq} after {self.seen}"
        if self.history.conflates:
            newest = self.history.newest()
            for skipped in self.history.items[self.seen : seq - 1]:
                self._check_skipped(skipped, newest)
        else:
            assert seq == self.seen + 1, f"{self.name}: {self.seen + 1} to {seq - 1} are missing without a gap"
        self.seen = self.delivered_seq = seq
        self.delivered += 1
        self.table[item.key] = item
        return item

    def _check_skipped(self, item: Item, newest: dict[str | None, Item]) -> None:
        is_superseded = newest[item.key].seq > item.seq
        is_reported = any(item.seq in span for span in self.gaps)
        is_needless = item.deleted and not self.resumes and item.key not in self.table
        assert is_superseded or is_reported or is_needless, f"{self.name}: {item.fields} was skipped and is the newest"

    def receive_gap(self, fields: Fields) -> None:
        """The client received a `$gap`."""
        first, last, count = fields["from"], fields["to"], fields["count"]
        if first is None:
            assert self.is_broken, f"{self.name}: a hole that cannot be counted, without a change of epoch"
            assert last is None and count is None and fields["reason"] == "retention", fields
            assert fields["epoch"]["new"] == self.history.epoch, fields
            self.is_broken = False
            return
        assert first <= last <= self.history.head, fields
        is_durable = self.history.channel.mode == "durable"
        assert (fields["reason"] == "retention") == (is_durable or self.has_hole), fields
        self.has_hole = False
        if self.history.conflates:
            assert first > self.seen and count == last - first + 1, (fields, self.seen)
            assert last <= self.history.forgotten, f"{self.name}: {fields}, but all deletions are remembered"
            self.gaps.append(range(first, last + 1))
            if self.end is None:  # else it may stand above items that are abandoned
                newest = self.history.newest()
                for skipped in self.history.items[self.seen : first - 1]:
                    self._check_skipped(skipped, newest)
        else:
            assert first == self.seen + 1 and count == last - first + 1, (fields, self.seen)
            if is_durable:
                assert last <= self.history.trimmed, f"{self.name}: {fields}, but the journal still has them"
        self.seen = last
        self.announced += count

    def check_pace(self, flushed_at: float) -> None:
        """The client received items that were taken from the log at this time."""
        if self.every and flushed_at > self.paced_since:
            last = self.paced_at if self.paced_at > self.paced_since else float("-inf")
            assert flushed_at >= last + self.every * 0.999, f"{self.name} was flushed at {last} and {flushed_at}"
            self.paced_at = flushed_at

    def check_end(self, account: Fields) -> None:
        """The client received `$unsubscribed`: nothing of this subscription follows."""
        assert self.end is not None
        # In a table, the last gaps may stand between items that were abandoned.
        assert account["seq"] >= self.delivered_seq if self.history.conflates else account["seq"] == self.seen, (
            account,
            self.seen,
        )
        published = self.end - self.start
        abandoned: int = account["abandoned"]
        conflated = published - self.delivered - self.announced - abandoned
        final = Ledger(published, self.delivered, conflated, self.announced, abandoned)
        assert conflated >= 0 if self.history.conflates else conflated == 0, (final, self)
        assert self.final in (final, None), (final, self)
        self.final = final

    def check_closed(self) -> None:
        """The client was closed, and has read everything that was written to it."""
        final = self.final
        assert self.end is not None
        assert final is not None
        assert final.is_balanced and final.pending == 0, (final, self)
        assert final.published == self.end - self.start, (final, self)
        assert final.delivered == self.delivered, (final, self)
        assert final.dropped >= self.announced, (final, self)
        assert self.history.conflates or final.conflated == 0, (final, self)

    def check_complete(self) -> None:
        """Nothing is pending: the client has everything, except what was reported as lost."""
        newest = self.history.newest()
        if not self.history.conflates:
            return
        for skipped in self.history.items[self.seen :]:
            self._check_skipped(skipped, newest)
        for key, item in self.table.items():
            if newest[key].seq > item.seq:  # possible only for a deletion that was lost
                assert any(newest[key].seq in span for span in self.gaps), f"{self.name}: {key} is stale"
