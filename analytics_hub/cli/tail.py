"""What `tail` knows and decides, without a socket, a clock or a terminal.

`Tail` is told what happened (`connected`, `receive`, `closed`, `refused`, `failed`); what it wants sent waits in
`data_to_send()`. How the connection ended comes back as a value, and the driver in `follow` acts on it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from ..exceptions import HubError
from ..protocol import CloseCode, Position
from .rows import Item, gap_row, printable, row

# Codes after which the same again would end the same (`docs/protocol.md` §9), with what is wrong.
_FINAL: Final[dict[int, str]] = {
    CloseCode.NORMAL: "the server has ended the connection",
    CloseCode.PROTOCOL_ERROR: "protocol error",
    CloseCode.INVALID_DATA: "invalid data",
    CloseCode.TOO_BIG: "a message is too big",
    CloseCode.MALFORMED: "the server did not understand the commands",
    CloseCode.FORBIDDEN: "the server does not let this token or origin in",
}
_BUSY_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_KNOWN: Final = frozenset({"$hello", "$subscribed", "$unsubscribed", "$gap", "$error", "$expiring", "$drain"})
STEADY: Final = 10.0
"""A connection that lived this long, in seconds, was a success: the next back-off starts from the beginning."""


class NotAHub(HubError):
    """Whatever answers there speaks WebSocket, but not this protocol."""


class Line(NamedTuple):
    """A line to print: an item that was asked for, or a notice about the connection."""

    text: str
    is_item: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """What to do after a connection: try again after `delay` seconds, or give up where that is None.

    `needs_token`: only with another token than the one just used. `is_regular`: nothing went wrong.
    """

    sentence: str
    delay: float | None = None
    needs_token: bool = False
    is_regular: bool = False


_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class _Announced(msgspec.Struct):
    min: _Seconds = 0.5
    max: _Seconds = 30.0


class _Epochs(msgspec.Struct):
    old: str
    new: str


class _Head(msgspec.Struct):
    type: str


class _Control(msgspec.Struct):
    """The fields of all the control items that are looked at; which are there depends on the type."""

    type: str
    timestamp: str = ""
    channels: list[dict[str, Any]] = []
    channel: str = ""
    from_: int | None = msgspec.field(default=None, name="from")
    to: int | None = None
    count: int | None = None
    reason: str = ""
    epoch: _Epochs | None = None
    code: str = ""
    message: str = ""
    after: _Seconds | None = None
    in_: _Seconds | None = msgspec.field(default=None, name="in")
    heartbeat: _Seconds = 20.0
    reconnect: _Announced = msgspec.field(default_factory=_Announced)


_raw_items: Final = msgspec.json.Decoder(list[msgspec.Raw])
_head: Final = msgspec.json.Decoder(_Head)
_item: Final = msgspec.json.Decoder(Item)
_control: Final = msgspec.json.Decoder(_Control)


@dataclass(slots=True)
class Tail:
    """Follows channels across connections: each is resumed where the last one stopped."""

    channels: Sequence[str]
    last: int | None = None
    snapshot: bool = False
    as_json: bool = False
    jitter: Callable[[], float] = random.random
    heartbeat: float = 20.0
    """How often the server writes at least; silence for longer means that it is gone."""
    is_expiring: bool = False
    """The server has said that the token runs out: `renew` it."""
    _positions: dict[str, Position | None] = field(default_factory=dict[str, Position | None])
    _outgoing: list[str] = field(default_factory=list[str])
    _reconnect: _Announced = field(default_factory=_Announced)
    _attempts: int = 0
    _at_least: float = 0.0
    _slot: float | None = None

    def __post_init__(self) -> None:
        self._positions = dict.fromkeys(self.channels)

    def data_to_send(self) -> list[str]:
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def connected(self) -> None:
        """A connection is open: subscribe, each channel from where it was."""
        self.is_expiring = False
        self._slot = None
        self._at_least = 0.0
        self._outgoing.clear()
        selections = [self._select(channel, position) for channel, position in self._positions.items()]
        self._send({"action": "subscribe", "id": 1, "channels": selections})

    def _select(self, channel: str, position: Position | None) -> dict[str, object]:
        if position is not None:
            return {"channel": channel, "since": position}
        if self.last is not None:
            return {"channel": channel, "last": self.last}
        return {"channel": channel, "snapshot": True} if self.snapshot else {"channel": channel}

    def renew(self, token: str | None) -> None:
        """Hand a fresh token to the living connection; None where there is no fresher one."""
        self.is_expiring = False
        if token is not None:
            self._send({"action": "auth", "id": 2, "token": token})

    def _send(self, command: dict[str, object]) -> None:
        self._outgoing.append(msgspec.json.encode(command).decode())

    def receive(self, text: str) -> list[Line]:
        """One message of the server: the lines to print for it. Raises `NotAHub` for anything else."""
        lines: list[Line] = []
        try:
            for raw in _raw_items.decode(text):
                type_ = _head.decode(raw).type
                if type_ in _KNOWN:
                    lines += self._control(_control.decode(raw), raw)
                elif not type_.startswith("$"):  # a control item of a later server concerns later clients
                    lines.append(self._data(_item.decode(raw), raw))
        except (ValueError, RecursionError):
            raise NotAHub(
                "the server sent something that is not an array of items; is this an analytics hub?"
            ) from None
        return lines

    def _data(self, item: Item, raw: msgspec.Raw) -> Line:
        self._move(item.channel, item.seq)
        return Line(bytes(raw).decode() if self.as_json else row(item), is_item=True)

    def _move(self, channel: str, seq: int) -> None:
        position = self._positions.get(channel)
        if position is not None and seq > position.seq:
            self._positions[channel] = Position(position.epoch, seq)

    def _control(self, item: _Control, raw: msgspec.Raw) -> list[Line]:
        match item.type:
            case "$hello":
                self.heartbeat, self._reconnect = item.heartbeat, item.reconnect
            case "$subscribed":
                return [line for answer in item.channels for line in self._subscribed(answer)]
            case "$unsubscribed":
                for answer in item.channels:
                    self._positions.pop(str(answer.get("channel")), None)
                names = ", ".join(str(answer.get("channel")) for answer in item.channels)
                return [_notice(f"the server ended the subscription of {names}: {item.reason}")]
            case "$gap":
                return [self._gap(item, raw)]
            case "$error":
                self._at_least = item.after or 0.0
                return [_notice(f"{item.code}: {item.message}")]
            case "$expiring":
                self.is_expiring = True
            case "$drain":
                self._slot = item.in_
                return [_notice(f"the server drains and asks to come back in {item.in_ or 0:.1f} s")]
        return []

    def _subscribed(self, answer: dict[str, Any]) -> list[Line]:
        channel = str(answer.get("channel"))
        if answer.get("ok") is not True:
            self._positions.pop(channel, None)
            return [_notice(f"{channel} refused, {answer.get('code')}: {answer.get('message')}")]
        before, epoch, seq = self._positions.get(channel), answer.get("epoch"), answer.get("seq")
        if isinstance(epoch, str) and isinstance(seq, int):
            self._positions[channel] = Position(epoch, seq)
        if before is None:
            return []
        outcome = "resumed without loss" if answer.get("recovered") is True else "resumed, but not everything was kept"
        return [_notice(f"{channel} {outcome} after {before.seq}")]

    def _gap(self, item: _Control, raw: msgspec.Raw) -> Line:
        if item.to is not None:
            self._move(item.channel, item.to)
        elif item.epoch is not None:
            self._renumber(item.channel, item.epoch.new)
        if self.as_json:
            return Line(bytes(raw).decode(), is_item=True)
        text = gap_row(item.timestamp, item.channel, item.from_, item.to, item.count, item.reason)
        return Line(text, is_item=True)

    def _renumber(self, channel: str, epoch: str) -> None:
        """The channel counts from a new start; unless `$subscribed` has just said so, everything of it is to come."""
        position = self._positions.get(channel)
        if position is not None and position.epoch != epoch:
            self._positions[channel] = Position(epoch, 0)

    @property
    def is_idle(self) -> bool:
        """Whether every channel was refused or ended, so that nothing can come any more."""
        return not self._positions

    # How a connection ended.

    def closed(self, code: int, reason: str, lived: float) -> Ending:
        """The connection ended with `code`, `lived` seconds after `connected`; 1006 where there was none."""
        if lived >= STEADY:
            self._attempts = 0
        said = printable(f"{code}{f', {reason}' if reason else ''}")
        if code == CloseCode.UNAUTHENTICATED:
            return Ending(f"the server wants another token ({said})", self._back_off(), needs_token=True)
        if code in _FINAL:
            return Ending(f"{_FINAL[code]} ({said})", is_regular=code == CloseCode.NORMAL)
        if self._slot is not None:
            return Ending(f"disconnected ({said})", self._slot)
        return self._again(f"disconnected ({said})")

    def refused(self, status: int, sentence: str, retry_after: float | None) -> Ending:
        """The handshake was answered with an HTTP status other than 101."""
        said = printable(f"HTTP {status}{f', {sentence}' if sentence else ''}")
        if status == 401:
            return Ending(f"the server wants another token ({said})", self._back_off(), needs_token=True)
        if status not in _BUSY_STATUSES:
            return Ending(f"refused ({said})")
        self._at_least = retry_after or 0.0
        return self._again(f"refused for now ({said})")

    def failed(self, reason: str) -> Ending:
        """No connection came about, or it fell silent."""
        return self._again(printable(reason))

    def _again(self, sentence: str) -> Ending:
        return Ending(sentence, max(self._at_least, self._back_off()))

    def _back_off(self) -> float:
        """Full jitter: anything from 0 up to a bound that doubles, so that a thousand followers do not come at once."""
        bound = min(self._reconnect.max, self._reconnect.min * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        return bound * self.jitter()


def _notice(text: str) -> Line:
    return Line(printable(text))
