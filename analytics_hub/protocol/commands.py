"""Commands of clients: their structs, and parsing them from JSON and MessagePack (`docs/protocol.md` §4). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from ..channels import clip
from ..codes import ErrorCode
from .limits import MAX_COMMANDS, MAX_SEQ

CommandId = Annotated[str, msgspec.Meta(max_length=128)] | int | float | None


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a client stopped reading: it has everything up to `seq` of this `epoch`."""

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
class InvalidCommand:
    """An invalid command, as the `$error` that answers it."""

    code: ErrorCode
    message: str
    id: CommandId = None


Command = Subscribe | Unsubscribe | Auth | Ping | Seen
Parsed = Command | InvalidCommand

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
    """The commands of one client frame, in order; an invalid one becomes `InvalidCommand`. Never raises.

    A frame holds one object or an array of them. JSON sessions use text: `bytes` is a binary message, which is
    refused.
    """
    if not isinstance(data, str):
        return [InvalidCommand("bad-request", "a binary message on a JSON session; send text")]
    text = data.lstrip(" \t\r\n")
    return _parse_all(text, _json) if text.startswith("[") else [_parse_one(text, _json)]


def parse_msgpack(data: str | bytes) -> list[Parsed]:
    """As `parse_json`, for sessions that use MessagePack, and thereby binary messages."""
    if isinstance(data, str):
        return [InvalidCommand("bad-request", "a text message on a MessagePack session; send binary")]
    is_array = data[:1] in _MSGPACK_ARRAYS
    return _parse_all(data, _msgpack) if is_array else [_parse_one(data, _msgpack)]


_MSGPACK_ARRAYS: Final = frozenset([bytes([first]) for first in (*range(0x90, 0xA0), 0xDC, 0xDD)])


def _parse_all(data: str | bytes, decoders: _Decoders) -> list[Parsed]:
    try:
        parts = decoders.commands.decode(data)
    except (ValueError, RecursionError) as error:
        return [InvalidCommand("bad-request", _explain(error))]
    if len(parts) > MAX_COMMANDS:
        return [InvalidCommand("bad-request", f"{len(parts)} commands in one frame; the limit is {MAX_COMMANDS}")]
    if not parts:
        return [InvalidCommand("bad-request", "an empty array of commands; send an object with an action")]
    return [_parse_one(part, decoders) for part in parts]


def _parse_one(data: str | bytes | msgspec.Raw, decoders: _Decoders) -> Parsed:
    try:
        return decoders.command.decode(data)
    except msgspec.ValidationError as error:
        message = clip(str(error))
        if str(error).endswith("`$.action`"):
            message = f"{message}; the actions are {_ACTIONS}"
            return InvalidCommand("unknown-action", message, _find_id(data, decoders))
        return InvalidCommand("bad-request", message, _find_id(data, decoders))
    except (ValueError, RecursionError) as error:
        return InvalidCommand("bad-request", _explain(error))


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
