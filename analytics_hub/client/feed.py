"""One subscription without I/O: what the server is asked for, where it stands, and what waits for the reader."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ..exceptions import HubError, InvalidItem
from ..protocol import Position
from .decoding import CODECS, Answer, Codec, Control, Data, Decoder
from .values import Epochs, Gap, Item

Value = Item[Any] | Gap | InvalidItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a subscription starts, at most one of the first three, and how often it is flushed."""

    since: Position | None = None
    last: int | None = None
    snapshot: bool = False
    max_hz: float | None = None


@dataclass(slots=True, eq=False)
class Feed:
    """Keeps what came until it is taken, at most `room` values; whoever has more to put must `pause` it.

    `position` is the end of what was put, and moves by nothing else: a resume from there loses nothing. `taken` is
    the end of what the reader has had.
    """

    channel: str
    options: Options
    room: int
    type: Any = Any
    notify: Callable[[], None] = lambda: None
    """Called whenever there is something to take, and when it has begun or ended."""
    has_begun: bool = False
    is_live: bool = False
    """The server sends, on this connection."""
    is_paused: bool = False
    """The reader is behind: the server was asked to stop, until half of the room is free again."""
    was_paused: bool = False
    asked: int | None = None
    """The command that waits for its answer, on this connection."""
    error: HubError | None = None
    """Why it has ended, once what came before was taken."""
    position: Position | None = None
    taken: Position | None = None
    _announced: Position | None = None
    """Where the server goes on after a hole that it has not described yet."""
    _values: deque[tuple[Value, Position]] = field(default_factory=deque[tuple[Value, Position]])
    _decoders: dict[str, Decoder[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.position = self.taken = self.options.since
        self._decoders = {codec.format.name: codec.decoder(self.type) for codec in CODECS}

    # --- what the server is asked

    @property
    def wants_server(self) -> bool:
        """Whether it is to be asked for on a connection where it was not."""
        return not (self.is_live or self.is_paused or self.asked is not None or self.error is not None)

    def selection(self) -> dict[str, Any]:
        """How `subscribe` names it: it goes on where it was, or starts as the user said."""
        wanted: dict[str, Any] = {"channel": self.channel}
        options = self.options
        if self.position is not None:
            wanted["since"] = {"epoch": self.position.epoch, "seq": self.position.seq}
        elif options.last is not None:
            wanted["last"] = options.last
        elif options.snapshot:
            wanted["snapshot"] = True
        if options.max_hz is not None:
            wanted["max_hz"] = options.max_hz
        return wanted

    def disconnected(self) -> None:
        self.is_live = False
        self.asked = None

    def pause(self) -> None:
        self.is_live = False
        self.is_paused = self.was_paused = True

    @property
    def may_go_on(self) -> bool:
        return self.is_paused and len(self._values) <= self.room // 2

    def end(self, error: HubError) -> None:
        self.is_live = False
        self.asked = None
        self.error = self.error or error
        self.notify()

    # --- what comes

    def begin(self, answer: Answer) -> None:
        """The server has accepted the subscription."""
        self.asked = None
        self.is_live = self.has_begun = True
        self.was_paused = False
        start = Position(answer.epoch, answer.seq or 0)
        # After a hole the old position stands until it is told, or it would be forgotten with this connection.
        self._announced = start if self.position is not None and not answer.recovered else None
        self.position = self.position or start
        self.taken = self.taken or start
        self.notify()

    def start_over(self) -> None:
        """The channel ends before the position: the server has lost what was newest. What it keeps is to follow."""
        assert self.position is not None
        hole = Epochs(self.position.epoch, self.position.epoch)
        self._put(Gap(self.channel, None, None, None, "retention", epochs=hole), self.position)
        self.asked = self.position = None
        self.options = Options(snapshot=True, max_hz=self.options.max_hz)

    @property
    def is_full(self) -> bool:
        return len(self._values) >= self.room

    def put_data(self, data: Data, codec: Codec) -> None:
        """A data item; one that came before is passed over."""
        if self._announced is not None:  # a server that tells of no hole has one all the same
            assert self.position is not None
            hole = Epochs(self.position.epoch, self._announced.epoch)
            self._put(Gap(self.channel, None, None, None, "retention", data.timestamp, hole), self._announced)
        assert self.position is not None
        if data.seq > self.position.seq:
            self._put(self._decode(data, codec), Position(self.position.epoch, data.seq))

    def put_gap(self, gap: Control) -> None:
        """A hole; one that was told before is passed over."""
        assert self.position is not None
        start, after = self.position, self.position
        if gap.epoch is not None:
            after = self._announced or (start if gap.epoch.new == start.epoch else Position(gap.epoch.new, 0))
        elif gap.to is not None:
            if self._announced is None and gap.to <= start.seq:
                return
            after = Position(start.epoch, gap.to)
        value = Gap(self.channel, gap.from_, gap.to, gap.count, gap.reason, gap.timestamp, gap.epoch)
        self._put(value, after)

    def _put(self, value: Value, position: Position) -> None:
        self._announced = None
        self.position = position
        self._values.append((value, position))
        self.notify()

    def _decode(self, data: Data, codec: Codec) -> Value:
        content: Any = None
        if not data.deleted:
            try:
                content = self._decoders[codec.format.name].decode(data.data)
            except Exception as error:  # noqa: BLE001 - a type may have code of the application's
                reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                return InvalidItem(f"item {data.seq} of channel {data.channel!r} cannot be read: {reason}")
        return Item(data.channel, data.seq, data.type, data.timestamp, content, data.key, data.deleted)

    # --- what is taken

    @property
    def has_values(self) -> bool:
        return bool(self._values)

    def take(self) -> Value:
        """The next value; there must be one."""
        value, self.taken = self._values.popleft()
        return value


ROOM: Final = 1024
