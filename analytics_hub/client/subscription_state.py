"""One subscription without I/O: what to request from the server, its position, and the values not yet read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ..exceptions import HubError, InvalidItem
from ..protocol import Position
from .decoding import CODECS, ChannelAnswer, Codec, ControlItem, DataItem, Decoder
from .text import printable
from .values import Epochs, Gap, Item

Value = Item[Any] | Gap | InvalidItem

BUFFER: Final = 1024
"""Values that a subscription holds by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where a subscription starts (at most one of the first three), and how often it is flushed."""

    since: Position | None = None
    last: int | None = None
    snapshot: bool = False
    max_hz: float | None = None


@dataclass(slots=True, eq=False)
class SubscriptionState:
    """Holds values until they are read, at most `capacity`; the caller must `pause` it when it is full.

    `position` follows the values that were added, and nothing else moves it, so resuming from it loses nothing.
    `read_position` follows the values that were read.
    """

    channel: str
    options: Options
    capacity: int
    type: Any = Any
    on_change: Callable[[], None] = lambda: None
    """Called when there is a value to read, and when the server has accepted or ended the subscription."""
    was_accepted: bool = False
    is_live: bool = False
    """The server sends items, on this connection."""
    is_paused: bool = False
    """The buffer was full and the server was asked to stop. Resumed when half of the buffer is free."""
    was_paused: bool = False
    command_id: int | None = None
    """The id of the unanswered `subscribe`, on this connection."""
    notice: str | None = None
    """What the server said about a subscription that it accepted."""
    error: HubError | None = None
    """Why the subscription has ended; raised after the values that were received before."""
    position: Position | None = None
    read_position: Position | None = None
    _position_after_gap: Position | None = None
    """Where the server continues after a gap that it has not described yet."""
    _values: deque[tuple[Value, Position]] = field(default_factory=deque[tuple[Value, Position]])
    _decoders: dict[str, Decoder[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.position = self.read_position = self.options.since
        self._decoders = {codec.format.name: codec.new_decoder(self.type) for codec in CODECS}

    # --- what to request from the server

    @property
    def needs_subscribe(self) -> bool:
        return not (self.is_live or self.is_paused or self.command_id is not None or self.error is not None)

    def selection(self) -> dict[str, Any]:
        """The entry for a `subscribe` command: resumes at the position, or starts as the options say."""
        selection: dict[str, Any] = {"channel": self.channel}
        options = self.options
        if self.position is not None:
            selection["since"] = {"epoch": self.position.epoch, "seq": self.position.seq}
        elif options.last is not None:
            selection["last"] = options.last
        elif options.snapshot:
            selection["snapshot"] = True
        if options.max_hz is not None:
            selection["max_hz"] = options.max_hz
        return selection

    def connection_lost(self) -> None:
        self.is_live = False
        self.command_id = None

    def pause(self) -> None:
        self.is_live = False
        self.is_paused = self.was_paused = True

    @property
    def can_resume(self) -> bool:
        return self.is_paused and len(self._values) <= self.capacity // 2

    def end(self, error: HubError) -> None:
        self.is_live = False
        self.command_id = None
        self.error = self.error or error
        self.on_change()

    # --- what the server sends

    def subscribed(self, answer: ChannelAnswer) -> None:
        """The server has accepted the subscription."""
        self.command_id = None
        self.is_live = self.was_accepted = True
        self.was_paused = False
        self.notice = printable(answer.message) or None
        start = Position(answer.epoch, answer.seq or 0)
        # The old position stays until the gap is described: otherwise the gap would be lost with this connection.
        self._position_after_gap = start if self.position is not None and not answer.recovered else None
        self.position = self.position or start
        self.read_position = self.read_position or start
        self.on_change()

    def restart(self) -> None:
        """The channel ends before the position, because the server has lost the newest items: begin with a snapshot."""
        assert self.position is not None
        epochs = Epochs(self.position.epoch, self.position.epoch)
        self._add(Gap(self.channel, None, None, None, "retention", epochs=epochs), self.position)
        self.command_id = self.position = None
        self.options = Options(snapshot=True, max_hz=self.options.max_hz)

    @property
    def is_full(self) -> bool:
        return len(self._values) >= self.capacity

    def add_item(self, data: DataItem, codec: Codec) -> None:
        """A data item. One at or below the position is a duplicate, and is ignored."""
        if self._position_after_gap is not None:  # the server has not described the gap, but there is one
            assert self.position is not None
            epochs = Epochs(self.position.epoch, self._position_after_gap.epoch)
            gap = Gap(self.channel, None, None, None, "retention", data.timestamp, epochs)
            self._add(gap, self._position_after_gap)
        assert self.position is not None
        if data.seq > self.position.seq:
            self._add(self._decode(data, codec), Position(self.position.epoch, data.seq))

    def add_gap(self, gap: ControlItem) -> None:
        """A `$gap`. One at or below the position is a duplicate, and is ignored."""
        assert self.position is not None
        start, after = self.position, self.position
        if gap.epoch is not None:
            new = start if gap.epoch.new == start.epoch else Position(gap.epoch.new, 0)
            after = self._position_after_gap or new
        elif gap.to is not None:
            if self._position_after_gap is None and gap.to <= start.seq:
                return
            after = Position(start.epoch, gap.to)
        value = Gap(self.channel, gap.from_, gap.to, gap.count, gap.reason, gap.timestamp, gap.epoch)
        self._add(value, after)

    def _add(self, value: Value, position: Position) -> None:
        self._position_after_gap = None
        self.position = position
        self._values.append((value, position))
        self.on_change()

    def _decode(self, data: DataItem, codec: Codec) -> Value:
        content: Any = None
        if not data.deleted:
            try:
                content = self._decoders[codec.format.name].decode(data.data)
            except Exception as error:  # noqa: BLE001 - a type may run code of the application
                reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                return InvalidItem(f"item {data.seq} of channel {data.channel!r} cannot be decoded: {reason}")
        return Item(data.channel, data.seq, data.type, data.timestamp, content, data.key, data.deleted)

    # --- what the application reads

    @property
    def has_values(self) -> bool:
        return bool(self._values)

    def pop(self) -> Value:
        """Remove and return the oldest value; there must be one."""
        value, self.read_position = self._values.popleft()
        return value
