"""Control items as a client receives them, typed (`docs/protocol.md` §5).

The hub writes them field by field (`control_item`); these structs describe the result, for the published schemas and
for clients. `tests/asyncapi/test_items.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ..channels import MAX_NAME_LENGTH, Mode, shorten
from ..codes import ErrorCode
from .commands import CommandId
from .limits import MAX_SEQ

Seq = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Timestamp = Annotated[
    str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", description="RFC 3339, UTC, milliseconds")
]

# msgspec cannot express this: an answer has the fields of an acceptance or those of a refusal.
_ANSWERS: Final[dict[str, Any]] = {
    "oneOf": [
        {"properties": {"ok": {"const": True}}, "required": ["mode", "epoch", "seq", "keeps"]},
        {"properties": {"ok": {"const": False}}, "required": ["code", "message"]},
    ]
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub allows each client: items and commands a second, bytes of a message, connections of one identity.

    Null where there is no limit.
    """

    subscriptions: Count
    batch: Count
    buffer: Count
    rate: float | None
    commands: float | None
    connections: Count | None
    message: Count | None


class Reconnect(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of a client's back-off."""

    min: Seconds
    max: Seconds


class Keeps(msgspec.Struct, frozen=True, kw_only=True):
    """How far back a client may resume; null where nothing bounds it."""

    items: Count | None
    bytes: Count | None
    seconds: Seconds | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one channel of a subscribe command; every item that follows is above `seq`.

    `pattern` is set for a member of one; with `ok`, there is a `message` if nothing was published to it yet.
    """

    channel: str
    ok: bool
    mode: Mode | UnsetType = UNSET
    epoch: str | UnsetType = UNSET
    seq: Seq | UnsetType = UNSET
    recovered: bool | UnsetType = UNSET
    keeps: Keeps | UnsetType = UNSET
    pattern: str | UnsetType = UNSET
    code: ErrorCode | UnsetType = UNSET
    message: str | UnsetType = UNSET


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """How a subscription ended; `seq` is the last one delivered, null if there was no such subscription."""

    channel: str
    seq: Seq | None
    abandoned: Count


class Epochs(msgspec.Struct, frozen=True, kw_only=True):
    """The epoch of a channel that a client knew, and the present one."""

    old: str
    new: str


class _Control(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    timestamp: Timestamp


class Hello(_Control, frozen=True, kw_only=True, tag="$hello"):
    """The first item of a connection, once it is authenticated; `expires` is in Unix seconds."""

    session: str
    protocol: int
    node: str
    heartbeat: Seconds
    expires: float | None
    limits: Limits
    reconnect: Reconnect


class Subscribed(_Control, frozen=True, kw_only=True, tag="$subscribed"):
    """The answer to `subscribe`."""

    id: CommandId | UnsetType = UNSET
    channels: list[Annotated[Answer, Meta(extra_json_schema=_ANSWERS)]]


class Unsubscribed(_Control, frozen=True, kw_only=True, tag="$unsubscribed"):
    """The answer to `unsubscribe`, or the end of subscriptions for another reason; nothing of the channels follows."""

    id: CommandId | UnsetType = UNSET
    channels: list[Account]
    reason: Literal["asked", "restarted", "forbidden"]


class Error(_Control, frozen=True, kw_only=True, tag="$error"):
    """A command that could not be carried out; with `after` it may be sent again in this many seconds."""

    id: CommandId | UnsetType = UNSET
    code: ErrorCode
    message: str
    retry: Literal["never", "later"]
    after: Seconds | UnsetType = UNSET


class Gap(_Control, frozen=True, kw_only=True, tag="$gap"):
    """Exactly the items that this client did not get; where they cannot be counted there are nulls and `epoch`."""

    channel: str
    from_: Seq | None = msgspec.field(name="from")
    to: Seq | None
    count: Count | None
    reason: Literal["buffer", "rate", "retention", "broker"]
    epoch: Epochs | UnsetType = UNSET


class Pong(_Control, frozen=True, kw_only=True, tag="$pong"):
    """The answer to `ping`."""

    id: CommandId


class Authenticated(_Control, frozen=True, kw_only=True, tag="$authenticated"):
    """The answer to `auth`; `expires` is in Unix seconds."""

    id: CommandId | UnsetType = UNSET
    expires: float | None


class Expiring(_Control, frozen=True, kw_only=True, tag="$expiring"):
    """The token expires in this many seconds."""

    in_: Seconds = msgspec.field(name="in")


class Drain(_Control, frozen=True, kw_only=True, tag="$drain"):
    """The client shall reconnect in this many seconds, a slot of its own; the connection is closed with 1012."""

    in_: Seconds = msgspec.field(name="in")


class Close(_Control, frozen=True, kw_only=True, tag="$close"):
    """The last item where the transport has no close codes."""

    code: int
    reason: str


ControlItem = Hello | Subscribed | Unsubscribed | Error | Gap | Pong | Authenticated | Expiring | Drain | Close


encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode


class Timestamps:
    """Formats Unix seconds as RFC 3339, UTC, milliseconds, `Z`; one calendar computation for each new second.

    Any thread may use it: the cache is one tuple, read once and replaced as a whole.
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


def control_item(type_: str, timestamp: str, **fields: Any) -> bytes:
    """One encoded control item."""
    return encode({"type": type_, "timestamp": timestamp, **fields})


def name_in_error(name: str) -> str:
    """A channel name for an answer: as it is if it could be one, else shortened."""
    return name if len(name) <= MAX_NAME_LENGTH else shorten(name, MAX_NAME_LENGTH)
