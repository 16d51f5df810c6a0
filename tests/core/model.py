"""The reference: what a channel accepted and what a client must get of it, by the plainest code that can say so.

Nothing here is ever forgotten, shared or computed ahead: a channel is a list of everything it ever accepted, and a
subscription is the list of what its client was handed, checked item by item.
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
    """Unix seconds as the protocol writes them."""
    text = datetime.fromtimestamp(int(wall * 1000) // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{int(wall * 1000) % 1000:03d}Z"


class Item:
    """One accepted item. `order` counts all items of the hub, `fields` is what a client must read."""

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
    """A data item as `docs/protocol.md` §2 has it, in that order."""
    fields: Fields = {"channel": name, "seq": seq}
    if key is not None:
        fields["key"] = key
    fields |= {"type": type_ or channel.type or name, "timestamp": at, "data": data}
    return fields | {"deleted": True} if deleted else fields


@dataclass(eq=False)
class Life:
    """One epoch of a channel: everything it ever accepted, item `seq` at index `seq - 1`."""

    channel: Channel
    name: str
    epoch: str
    tuning: Tuning
    items: list[Item] = field(default_factory=list)
    trimmed: int = 0
    """Of a durable channel: the last number its journal no longer has."""
    told: int = 0
    """The same as far as the engine can know."""
    restored: int = 0
    """Of a durable channel: the head it was restored at. What is below was never in memory."""
    forgotten: int = 0
    """Of a table: the number of the newest deletion that nobody remembers."""
    deletions: list[Item] = field(default_factory=list)
    _newest: dict[str | None, Item] = field(default_factory=dict)
    _newest_at: int = 0

    @property
    def head(self) -> int:
        return len(self.items)

    @property
    def conflates(self) -> bool:
        return self.channel.mode in ("table", "latest")

    def accept(self, item: Item) -> None:
        assert item.seq == self.head + 1
        self.items.append(item)
        self.deletions = [other for other in self.deletions if other.key != item.key]
        if item.deleted:
            self.deletions.append(item)
        while len(self.deletions) > self.channel.max_keys:
            self.forgotten = self.deletions.pop(0).seq

    def floor(self) -> int:
        """The last number that memory has no more: what is above it is the longest tail within the bounds."""
        most_items = self.channel.keep_items or self.tuning.burst_items
        most_bytes = self.channel.keep_bytes or self.tuning.burst_bytes
        items = nbytes = 0
        for item in reversed(self.items[self.restored :]):
            items += 1
            nbytes += len(item.encoded)
            if items > most_items or (nbytes > most_bytes and items > 1):
                return item.seq
        return self.restored

    def lost(self) -> int:
        """The last number that nobody can have any more, supersession aside."""
        if self.conflates:
            return self.forgotten
        return min(self.told, self.floor()) if self.channel.mode == "durable" else self.floor()

    def newest(self) -> dict[str | None, Item]:
        """The newest item of each key, deletions among them, in the order of their numbers."""
        if self._newest_at != self.head:  # nothing but a saving of time
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
        """The keys there are now."""
        return [item for item in self.live() if not item.deleted]

    # --- where a subscription starts

    def oldest(self) -> int:
        if self.conflates:
            return min((item.seq - 1 for item in self.present()), default=self.head)
        return self.lost()

    def back(self, count: int) -> int:
        if self.conflates:
            present = self.present()[-count:] if count else []
            return present[0].seq - 1 if present else self.head
        return max(self.lost(), self.head - count)


@dataclass(eq=False)
class Stream:
    """One subscription as its client sees it.

    `start` is where its ledger begins; `seen` is the last number that is settled: read, or named in a gap.
    `resumes`: the client had read everything up to `start`, so it must learn of deletions.
    """

    life: Life
    start: int
    resumes: bool = False
    is_broken: bool = False
    """The hole before the first item cannot be counted; a gap that says so is still to come."""
    has_hole: bool = False
    """The resume had lost items already; the first gap says so."""
    every: float = 0.0
    """Its pace: at least so many seconds between two flushes."""
    prepaid: int = 0
    """Items whose tokens were spent when others of the same table went."""
    paced_since: float = 0.0
    paced_at: float = float("-inf")
    above: int = 0
    """What `$subscribed` said: every item is above it."""
    end: int | None = None
    """The head when the subscription ended."""
    final: Ledger | None = None
    """Its account, closed; None while nobody has heard of it."""
    seen: int = 0
    delivered: int = 0
    announced: int = 0
    table: dict[str | None, Item] = field(default_factory=dict)
    gaps: list[range] = field(default_factory=list)
    allowed_until: int | None = None
    """The identity lost its right to the channel when this was the order of the newest item."""

    def __post_init__(self) -> None:
        self.seen = self.start

    @property
    def name(self) -> str:
        return self.life.name

    def take(self, fields: Fields) -> Item:
        """The client was handed a data item."""
        seq: int = fields["seq"]
        assert 0 < seq <= self.life.head, f"{self.name}: item {seq} was never accepted"
        item = self.life.items[seq - 1]
        assert fields == item.fields, f"{self.name}: {fields} is not what was published: {item.fields}"
        assert not self.is_broken, f"{self.name}: item {seq} came before the gap that breaks the epochs"
        assert seq > self.seen, f"{self.name}: item {seq} after {self.seen}"
        if self.life.conflates:
            newest = self.life.newest()
            for skipped in self.life.items[self.seen : seq - 1]:
                self._check_skipped(skipped, newest)
        else:
            assert seq == self.seen + 1, f"{self.name}: {self.seen + 1} to {seq - 1} are missing without a gap"
        self.seen = seq
        self.delivered += 1
        self.table[item.key] = item
        return item

    def _check_skipped(self, item: Item, newest: dict[str | None, Item]) -> None:
        is_superseded = newest[item.key].seq > item.seq
        is_told = any(item.seq in span for span in self.gaps)
        is_needless = item.deleted and not self.resumes and item.key not in self.table
        assert is_superseded or is_told or is_needless, f"{self.name}: {item.fields} was skipped and is the newest"

    def take_gap(self, fields: Fields) -> None:
        """The client was told of a loss."""
        first, last, count = fields["from"], fields["to"], fields["count"]
        if first is None:
            assert self.is_broken, f"{self.name}: a hole that cannot be counted, without a change of epoch"
            assert last is None and count is None and fields["reason"] == "retention", fields
            assert fields["epoch"]["new"] == self.life.epoch, fields
            self.is_broken = False
            return
        assert first <= last <= self.life.head, fields
        is_durable = self.life.channel.mode == "durable"
        assert (fields["reason"] == "retention") == (is_durable or self.has_hole), fields
        self.has_hole = False
        if self.life.conflates:
            assert first > self.seen and 1 <= count <= last - first + 1, (fields, self.seen)
            assert last <= self.life.forgotten, f"{self.name}: lost {fields} of a table that forgot no deletion"
            self.gaps.append(range(first, last + 1))
        else:
            assert first == self.seen + 1 and count == last - first + 1, (fields, self.seen)
            if is_durable:
                assert last <= self.life.trimmed, f"{self.name}: lost {fields}, which the journal still has"
            self.seen = last
        self.announced += count

    def check_pace(self, flushed_at: float) -> None:
        """The client was handed items that were taken at this time."""
        if self.every and flushed_at > self.paced_since:
            last = self.paced_at if self.paced_at > self.paced_since else float("-inf")
            assert flushed_at >= last + self.every * 0.999, f"{self.name} was flushed at {last} and {flushed_at}"
            self.paced_at = flushed_at

    def check_end(self, account: Fields) -> None:
        """The client read `$unsubscribed`: all it will ever get of this subscription it has got."""
        assert self.end is not None
        assert account["seq"] >= self.seen if self.life.conflates else account["seq"] == self.seen, (account, self.seen)
        published = self.end - self.start
        abandoned: int = account["abandoned"]
        conflated = published - self.delivered - self.announced - abandoned
        told = Ledger(published, self.delivered, conflated, self.announced, abandoned)
        assert conflated >= 0 if self.life.conflates else conflated == 0, (told, self)
        assert self.final in (told, None), (told, self)
        self.final = told

    def check_closed(self) -> None:
        """The client was closed, and has read all that was written to it."""
        final = self.final
        assert self.end is not None
        assert final is not None
        assert final.is_balanced and final.pending == 0, (final, self)
        assert final.published == self.end - self.start, (final, self)
        assert final.delivered == self.delivered, (final, self)
        assert final.dropped >= self.announced, (final, self)
        assert self.life.conflates or final.conflated == 0, (final, self)

    def check_complete(self) -> None:
        """Nothing is pending any more: the client has all there is, but for what it was told."""
        newest = self.life.newest()
        if not self.life.conflates:
            return
        for skipped in self.life.items[self.seen :]:
            self._check_skipped(skipped, newest)
        for key, item in self.table.items():
            if newest[key].seq > item.seq:  # possible only for a deletion that was lost
                assert any(newest[key].seq in span for span in self.gaps), f"{self.name}: {key} is stale"
