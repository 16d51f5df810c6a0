"""What a message of the server holds, in either format; and commands as the client writes them.

Reading is more lenient than `analytics_hub.control`, which says what this version of the hub writes: words and fields
that a later hub adds must not stop a client that was installed earlier.
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


class Data(msgspec.Struct):
    """A data item whose `data` is still encoded."""

    channel: str
    seq: _Seq
    type: str
    data: msgspec.Raw
    timestamp: str = ""
    key: str | None = None
    deleted: bool = False


class Answer(msgspec.Struct):
    """What `$subscribed` or `$unsubscribed` says of one channel."""

    channel: str
    ok: bool = False
    epoch: str = ""
    seq: _Seq | None = None
    recovered: bool | None = None
    code: str = ""
    message: str = ""


class Announced(msgspec.Struct):
    """The bounds of the back-off."""

    min: _Seconds = 0.5
    max: _Seconds = 30.0


class Control(msgspec.Struct):
    """The fields of all the control items that are looked at; which are there depends on the type."""

    type: str
    id: str | int | float | None = None
    timestamp: str = ""
    channels: list[Answer] = []
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
    reconnect: Announced = msgspec.field(default_factory=Announced)


class _Head(msgspec.Struct):
    type: str


_KNOWN: Final = frozenset(
    {"$hello", "$subscribed", "$unsubscribed", "$gap", "$error", "$authenticated", "$expiring", "$drain"}
)


class Decoder(Protocol[T_co]):
    """What the decoders of msgspec's formats have in common."""

    def decode(self, buf: Any, /) -> T_co: ...


class Codec(NamedTuple):
    """One format, from the client's side."""

    format: Format
    items: Decoder[list[msgspec.Raw]]
    head: Decoder[_Head]
    data: Decoder[Data]
    control: Decoder[Control]
    decoder: Callable[[Any], Decoder[Any]]
    """Makes a decoder for a type."""
    pack: Callable[[object], bytes]

    def read(self, message: str | bytes) -> list[Data | Control]:
        """The items of one message that concern this version of the client. Raises `NotAHub` if there are none such."""
        if isinstance(message, bytes) is not self.format.is_binary:
            raise NotAHub(f"the server sent {'text' if self.format.is_binary else 'binary data'}; {_DOUBT}")
        found: list[Data | Control] = []
        try:
            for raw in self.items.decode(message):
                type_ = self.head.decode(raw).type
                if type_ in _KNOWN:
                    found.append(self.control.decode(raw))
                elif not type_.startswith("$"):  # a control item of a later server concerns later clients
                    found.append(self.data.decode(raw))
        except (ValueError, RecursionError):
            raise NotAHub(f"the server sent something that is not an array of items; {_DOUBT}") from None
        return found

    def write(self, command: dict[str, Any]) -> str | bytes:
        packed = self.pack(command)
        return packed if self.format.is_binary else packed.decode()


_DOUBT: Final = "is this an analytics hub?"

JSON_CODEC: Final = Codec(
    JSON,
    msgspec.json.Decoder(list[msgspec.Raw]),
    msgspec.json.Decoder(_Head),
    msgspec.json.Decoder(Data),
    msgspec.json.Decoder(Control),
    msgspec.json.Decoder,
    msgspec.json.Encoder().encode,
)
MSGPACK_CODEC: Final = Codec(
    MSGPACK,
    msgspec.msgpack.Decoder(list[msgspec.Raw]),
    msgspec.msgpack.Decoder(_Head),
    msgspec.msgpack.Decoder(Data),
    msgspec.msgpack.Decoder(Control),
    msgspec.msgpack.Decoder,
    msgspec.msgpack.Encoder().encode,
)
CODECS: Final = (JSON_CODEC, MSGPACK_CODEC)
