"""Decoding of server messages and encoding of commands, in both formats.

Decoding is more lenient than `analytics_hub.protocol`, which describes what this version of the hub writes: types and
fields that a later hub adds must not break an older client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from ..protocol import MAX_SEQ
from ..protocol.formats import JSON, MSGPACK, Format
from .exceptions import NotAHub
from .values import Epochs

T_co = TypeVar("T_co", covariant=True)

_Seq = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class DataItem(msgspec.Struct):
    """A data item. Its `data` is not decoded yet."""

    channel: str
    seq: _Seq
    type: str
    data: msgspec.Raw
    timestamp: str = ""
    key: str | None = None
    deleted: bool = False


class ChannelAnswer(msgspec.Struct):
    """One channel of a `$subscribed` or `$unsubscribed`."""

    channel: str
    ok: bool = False
    epoch: str = ""
    seq: _Seq | None = None
    recovered: bool | None = None
    code: str = ""
    message: str = ""


class ReconnectBounds(msgspec.Struct):
    min: _Seconds = 0.5
    max: _Seconds = 30.0


class ControlItem(msgspec.Struct):
    """The fields that the client uses of all kinds of control items; which of them are set depends on `type`."""

    type: str
    id: str | int | float | None = None
    timestamp: str = ""
    channels: list[ChannelAnswer] = []
    channel: str = ""
    from_: _Seq | None = msgspec.field(default=None, name="from")
    to: _Seq | None = None
    count: int | None = None
    reason: str = ""
    epoch: Epochs | None = None
    code: str = ""
    message: str = ""
    after: _Seconds | None = None
    in_: _Seconds | None = msgspec.field(default=None, name="in")
    node: str = ""
    heartbeat: _Seconds = 20.0
    reconnect: ReconnectBounds = msgspec.field(default_factory=ReconnectBounds)


class _Head(msgspec.Struct):
    type: str


_KNOWN: Final = frozenset(
    {"$hello", "$subscribed", "$unsubscribed", "$gap", "$error", "$authenticated", "$expiring", "$drain"}
)


class Decoder(Protocol[T_co]):
    """The common interface of msgspec's decoders."""

    def decode(self, buf: Any, /) -> T_co: ...


class Codec(NamedTuple):
    """One format, as the client uses it."""

    format: Format
    items: Decoder[list[msgspec.Raw]]
    head: Decoder[_Head]
    data: Decoder[DataItem]
    control: Decoder[ControlItem]
    new_decoder: Callable[[Any], Decoder[Any]]
    """Creates a decoder for a type."""
    encode: Callable[[object], bytes]

    def decode_items(self, message: str | bytes) -> list[DataItem | ControlItem]:
        """The items of a message, without control items of unknown types. Raises `NotAHub` if it cannot be decoded."""
        if isinstance(message, bytes) is not self.format.is_binary:
            raise NotAHub(f"the server sent {'text' if self.format.is_binary else 'binary data'}; {_HINT}")
        found: list[DataItem | ControlItem] = []
        try:
            for raw in self.items.decode(message):
                type_ = self.head.decode(raw).type
                if type_ in _KNOWN:
                    found.append(self.control.decode(raw))
                elif not type_.startswith("$"):
                    found.append(self.data.decode(raw))
        except (ValueError, RecursionError):
            raise NotAHub(f"the server sent something that is not an array of items; {_HINT}") from None
        return found

    def encode_command(self, command: dict[str, Any]) -> str | bytes:
        encoded = self.encode(command)
        return encoded if self.format.is_binary else encoded.decode()


_HINT: Final = "is this an analytics hub?"


def _new_codec(wire: Format, new_decoder: Callable[[Any], Decoder[Any]], encode: Callable[[object], bytes]) -> Codec:
    items, head, data, control = map(new_decoder, (list[msgspec.Raw], _Head, DataItem, ControlItem))
    return Codec(wire, items, head, data, control, new_decoder, encode)


JSON_CODEC: Final = _new_codec(JSON, msgspec.json.Decoder, msgspec.json.Encoder().encode)
MSGPACK_CODEC: Final = _new_codec(MSGPACK, msgspec.msgpack.Decoder, msgspec.msgpack.Encoder().encode)
CODECS: Final = (JSON_CODEC, MSGPACK_CODEC)
