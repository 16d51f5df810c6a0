"""The wire protocol's vocabulary: commands from clients, control items to them, close codes (`docs/protocol.md`).

Pure functions over bytes. Data items are encoded by the channel logs, framing belongs to the transports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from .channels import MAX_NAME_LENGTH, clip, shorten

VERSION: Final = 1
SUBPROTOCOL_JSON: Final = "analytics-hub.v1.json"
SUBPROTOCOL_MSGPACK: Final = "analytics-hub.v1.msgpack"

MAX_FRAME_BYTES: Final = 256 * 1024
"""What one server frame, and all frames of one write, may hold."""
MAX_COMMANDS: Final = 4096
"""In one frame: more than 64 KiB of the shortest. As much of anything else takes 5 to 10 µs for each two bytes."""
MAX_SEQ: Final = 2**53 - 1
"""JavaScript counts exactly up to here."""

ErrorCode = Literal[
    "bad-request",
    "unknown-action",
    "unknown-channel",
    "forbidden",
    "unauthenticated",
    "rate-limited",
    "too-many-subscriptions",
]


class CloseCode(IntEnum):
    """Why a connection ended, and by that what a client may do next (`docs/protocol.md` §9)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    MALFORMED = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    TIMEOUT = 4408
    TOO_MANY_COMMANDS = 4429
    UNWRITABLE = 4503


# --- commands -------------------------------------------------------------------------------------------------------

CommandId = Annotated[str, msgspec.Meta(max_length=128)] | int | float | None


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a client stopped reading: everything up to `seq` of this `epoch` has been seen."""

    epoch: Annotated[str, msgspec.Meta(max_length=128)]
    seq: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One channel of a subscribe command with its options."""

    channel: str
    snapshot: bool = False
    since: Position | None = None
    last: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)] | None = None
    max_hz: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None

    @property
    def start_options(self) -> int:
        """How many ways to start were named; more than one is an error."""
        return self.snapshot + (self.since is not None) + (self.last is not None)


class _Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="action"):
    id: CommandId = None


class Subscribe(_Command, frozen=True, kw_only=True, tag="subscribe"):
    channels: Annotated[list[str | Selection], msgspec.Meta(min_length=1)]


class Unsubscribe(_Command, frozen=True, kw_only=True, tag="unsubscribe"):
    channels: Annotated[list[str], msgspec.Meta(min_length=1)]


class Auth(_Command, frozen=True, kw_only=True, tag="auth"):
    token: str

    def __repr__(self) -> str:
        return f"Auth(id={self.id!r})"


class Ping(_Command, frozen=True, tag="ping"):
    pass


class Seen(_Command, frozen=True, kw_only=True, tag="seen"):
    """How many frames of this connection the client has received, heartbeats included. It has no answer."""

    frames: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]


@dataclass(frozen=True, slots=True)
class Refused:
    """What a client sent instead of a command, as the `$error` that answers it."""

    code: ErrorCode
    message: str
    id: CommandId = None


Command = Subscribe | Unsubscribe | Auth | Ping | Seen
Parsed = Command | Refused

_ACTIONS: Final = "subscribe, unsubscribe, auth, ping, seen"


_T_co = TypeVar("_T_co", covariant=True)


class _Identified(msgspec.Struct):
    id: CommandId = None


class _Decoder(Protocol[_T_co]):
    """What the decoders of msgspec's formats have in common."""

    def decode(self, buf: Any, /) -> _T_co: ...


class _Decoders(NamedTuple):
    command: _Decoder[Command]
    commands: _Decoder[list[msgspec.Raw]]
    identified: _Decoder[_Identified]


_json: Final = _Decoders(
    msgspec.json.Decoder(Command), msgspec.json.Decoder(list[msgspec.Raw]), msgspec.json.Decoder(_Identified)
)
_msgpack: Final = _Decoders(
    msgspec.msgpack.Decoder(Command), msgspec.msgpack.Decoder(list[msgspec.Raw]), msgspec.msgpack.Decoder(_Identified)
)


def parse_json(data: str | bytes) -> list[Parsed]:
    """The commands of one client frame, in order; whatever is not a command becomes `Refused`. Never raises.

    A frame holds one object or an array of them. JSON sessions speak text: `bytes` is what a transport hands over for
    a binary message, and is refused with a sentence.
    """
    if not isinstance(data, str):
        return [Refused("bad-request", "a binary message on a JSON session; send text")]
    text = data.lstrip(" \t\r\n")
    return _parse_all(text, _json) if text.startswith("[") else [_parse_one(text, _json)]


def parse_msgpack(data: str | bytes) -> list[Parsed]:
    """As `parse_json`, for sessions that speak MessagePack and by that binary messages."""
    if isinstance(data, str):
        return [Refused("bad-request", "a text message on a MessagePack session; send binary")]
    is_array = data[:1] in _MSGPACK_ARRAYS
    return _parse_all(data, _msgpack) if is_array else [_parse_one(data, _msgpack)]


_MSGPACK_ARRAYS: Final = frozenset([bytes([first]) for first in (*range(0x90, 0xA0), 0xDC, 0xDD)])


def _parse_all(data: str | bytes, decoders: _Decoders) -> list[Parsed]:
    try:
        parts = decoders.commands.decode(data)
    except (ValueError, RecursionError) as error:
        return [Refused("bad-request", _explain(error))]
    if len(parts) > MAX_COMMANDS:
        return [Refused("bad-request", f"{len(parts)} commands in one frame; at most {MAX_COMMANDS} are right")]
    if not parts:
        return [Refused("bad-request", "an empty array of commands; send an object with an action")]
    return [_parse_one(part, decoders) for part in parts]


def _parse_one(data: str | bytes | msgspec.Raw, decoders: _Decoders) -> Parsed:
    try:
        return decoders.command.decode(data)
    except msgspec.ValidationError as error:
        message = clip(str(error))
        if str(error).endswith("`$.action`"):
            message = f"{message}; the actions are {_ACTIONS}"
            return Refused("unknown-action", message, _find_id(data, decoders))
        return Refused("bad-request", message, _find_id(data, decoders))
    except (ValueError, RecursionError) as error:
        return Refused("bad-request", _explain(error))


def _find_id(data: str | bytes | msgspec.Raw, decoders: _Decoders) -> CommandId:
    try:
        return decoders.identified.decode(data).id
    except (ValueError, RecursionError):
        return None


def _explain(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the message is nested too deeply"
    if isinstance(error, UnicodeError):
        return "the text is not valid UTF-8"
    return clip(str(error))


# --- items ----------------------------------------------------------------------------------------------------------

encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode


class Timestamps:
    """Formats Unix seconds as RFC 3339, UTC, milliseconds, `Z`; one calendar computation for each new second.

    Any thread may use it: what it remembers is one tuple, read once and replaced whole.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known = (-1, "")

    def format(self, wall: float) -> str:
        second, millisecond = divmod(int(wall * 1000), 1000)
        known, prefix = self._known
        if second != known:
            prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
            self._known = (second, prefix)
        return f"{prefix}{millisecond:03d}Z"


def control(type_: str, timestamp: str, **fields: Any) -> bytes:
    """One encoded control item."""
    return encode({"type": type_, "timestamp": timestamp, **fields})


def name_in_error(name: str) -> str:
    """A channel name as an answer may repeat it: whole where it could be one, else cut."""
    return name if len(name) <= MAX_NAME_LENGTH else shorten(name, MAX_NAME_LENGTH)
