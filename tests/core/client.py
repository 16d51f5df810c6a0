"""A client: everything that it receives is checked, item by item."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from analytics_hub.core.session import Session
from analytics_hub.identity import Identity
from analytics_hub.protocol import MAX_FRAME_BYTES

from .answers import TOLERANCE, Bucket, ExpectedAnswers
from .model import Item, Stream
from .publishing import Publishing
from .wire import Fields, LineWire, read_frames


class Drain:
    """All clients were told to reconnect within `grace` seconds, each in a slot of its own."""

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.slots: set[float] = set()

    def check(self, slot: float) -> None:
        assert 0 <= slot <= self.grace
        assert slot not in self.slots or not self.grace, f"two clients reconnect after {slot} s"
        self.slots.add(slot)


class Client(ExpectedAnswers):
    def __init__(
        self, world: Publishing, number: int, session: Session, wire: LineWire, identity: Identity | None
    ) -> None:
        super().__init__(world, session, identity)
        self.number = number
        self.wire = wire
        self.since = world.now
        self.is_stalled = False
        self.stalled_at = world.now
        self.was_stalled = False
        """Since data was last written to it."""
        self.was_held = False
        """The same, and something was pending when it was resumed."""
        self.heard_at = world.now
        self.is_gone = False
        self.is_paused = False
        self.is_cut_off = False
        self.closed: int | None = None
        """The code with which it was closed."""
        self.tokens = Bucket(world.tuning.rate, world.now)
        self.wrote_at = world.now
        self.flushed_at = float("-inf")
        self.dropped: dict[Stream, int] = {}
        """The counts of the ledgers after the previous step."""
        self.drains: list[Drain] = []
        self.warned: Identity | None = None

    @property
    def is_live(self) -> bool:
        return not self.is_gone and self.closed is None and not self.session.is_closed

    def receive(self, write: bytes, flushed_at: float) -> None:
        """The client receives `write`, taken from the logs at `flushed_at`."""
        if self.is_gone:
            return
        assert self.closed is None, f"client {self.number} was closed"
        assert not self.is_stalled, f"client {self.number} is stalled, and received {write!r}"
        assert len(write) <= MAX_FRAME_BYTES + 4096, f"one write of {len(write)} bytes"
        self.wrote_at = self.world.engine_now
        data: list[Item] = []
        for frame in read_frames(write):
            assert len(frame) <= self.world.tuning.max_batch, f"{len(frame)} items in one frame"
            for fields in frame:
                if fields["type"].startswith("$"):
                    self._read_control(fields)
                else:
                    data.append(self._read_data(fields, flushed_at))
        if data:
            self._check_pace(data, flushed_at)
            self._prepay()
            self.was_stalled = self.was_held = False

    def _read_data(self, fields: Fields, flushed_at: float) -> Item:
        stream = self.streams.get(fields["channel"])
        assert stream is not None, f"client {self.number} did not subscribe to {fields['channel']}: {fields}"
        item = stream.receive(fields)
        assert item.seq > stream.above, f"item {item.seq} is not above the {stream.above} of $subscribed"
        if stream.allowed_until is not None:
            assert item.order <= stream.allowed_until, f"{fields} was sent to a client that may not see it"
        self._check_tokens(stream, flushed_at)
        return item

    def _check_tokens(self, stream: Stream, flushed_at: float) -> None:
        """Never more than `rate` items a second and one second of burst, except for the debt of a table."""
        tokens = self.tokens.refill(flushed_at)
        if stream.prepaid:
            stream.prepaid -= 1
            return
        if stream.history.conflates:
            assert tokens > -2 * self.world.setup.max_keys - TOLERANCE, f"a debt of {tokens} tokens"
        else:
            assert tokens > 1 - TOLERANCE, f"an item of {stream.name} with {tokens} tokens"
        self.tokens.spend()

    def _prepay(self) -> None:
        """Items of a table that did not fit the write are paid for already."""
        cohort = self.session.cohort
        for name, stream in self.streams.items():
            if cohort is not None and self.subscribed.get(name) is stream and stream.history.conflates:
                carried = len(cohort.readers[name].carry)
                while stream.prepaid < carried:
                    self.tokens.spend()
                    stream.prepaid += 1

    def _check_pace(self, data: list[Item], flushed_at: float) -> None:
        tuning = self.world.tuning
        assert flushed_at >= self.flushed_at + tuning.interval - TOLERANCE * tuning.interval, (
            f"client {self.number} received data at {self.flushed_at} and {flushed_at}"
        )
        self.flushed_at = flushed_at
        if tuning.max_frames is not None:
            assert len(data) <= tuning.max_frames * tuning.max_batch, f"{len(data)} items in one flush"
        for name in {item.fields["channel"] for item in data} & set(self.streams):
            self.streams[name].check_pace(flushed_at)
        in_memory = [item for item in data if item not in self.world.replayed]
        for one, other in pairwise(in_memory):
            assert one.order < other.order, f"{one.fields} before {other.fields}"

    def _check_reason(self, stream: Stream, reason: str) -> None:
        """`buffer` if it was stalled when its previous flush ended; a flush without items is not visible here."""
        assert reason != "buffer" or self.was_stalled, f"{stream.name}: lost because of its buffer, but never stalled"
        is_unlimited = self.world.tuning.rate is None and not any(
            other.every or other.history.channel.mode == "durable" for other in self.streams.values()
        )
        assert reason != "rate" or not (self.was_held and is_unlimited), f"{stream.name}: lost because of its rate"

    def _read_control(self, fields: Fields) -> None:
        assert "timestamp" in fields
        match fields["type"]:
            case "$gap":
                stream = self.streams[fields["channel"]]
                self._check_reason(stream, fields["reason"])
                stream.receive_gap(fields)
            case "$expiring":
                self._read_expiring(fields)
            case "$drain":
                self.drains.pop(0).check(fields["in"])
            case _:
                self._read_expected(fields)

    def _read_expiring(self, fields: Fields) -> None:
        assert 0 < fields["in"] <= self.world.tuning.expiry_warning + TOLERANCE
        if any(expected.fields["type"] == "$authenticated" for expected in self.expected):
            return  # the warning was about the previous token
        assert self.identity is not None
        assert self.identity.expires is not None
        assert self.identity is not self.warned, "a client is warned once for each token"
        self.warned = self.identity

    def _read_expected(self, fields: Fields) -> None:
        assert self.expected, f"client {self.number} did not expect {fields}"
        expected = self.expected.popleft()
        assert is_part(expected.fields, fields), f"client {self.number} expected {expected.fields}, not {fields}"
        assert ("id" in fields) == ("id" in expected.fields), fields
        if expected.then is not None:
            expected.then(fields)


def is_part(part: Any, whole: Any) -> bool:
    """Whether `whole` has everything that is in `part`."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and is_part(value, whole[name]) for name, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(is_part, part, whole))
    return bool(part == whole)
