"""What a client returns to the application: items, gaps, and events of the connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from ..protocol import Position

T = TypeVar("T")


class Item(msgspec.Struct, Generic[T], frozen=True):
    """One item of a channel. `timestamp` is when it was published: RFC 3339, UTC, milliseconds.

    `data` has the `type` of the subscription; it is None if `deleted` is set, which means that the key of a table was
    removed.
    """

    channel: str
    seq: int
    type: str
    timestamp: str
    data: T
    key: str | None = None
    deleted: bool = False


class Epochs(msgspec.Struct, frozen=True):
    """The epoch of a channel that the client knew, and the one that it has now."""

    old: str
    new: str


class Gap(msgspec.Struct, frozen=True):
    """Items that were published but will not be delivered, at the position where they are missing.

    `first`, `last` and `count` are None if the items cannot be counted. `epochs` then shows why: sequence numbers are
    comparable only within an epoch. `reason` is one word (`docs/protocol.md` §5).
    """

    channel: str
    first: int | None
    last: int | None
    count: int | None
    reason: str
    timestamp: str = ""
    epochs: Epochs | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """The server has accepted the client."""

    node: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection has ended or could not be established; the next attempt follows in `delay` seconds."""

    reason: str
    delay: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """A subscription continues on a new connection. If it is not `complete`, a `Gap` shows what is missing."""

    channel: str
    position: Position
    complete: bool


@dataclass(frozen=True, slots=True)
class Draining:
    """The server shuts down and has assigned this client a time to reconnect, `delay` seconds from now."""

    delay: float


@dataclass(frozen=True, slots=True)
class CommandFailed:
    """The server could not carry out a command to which no caller awaits an answer, such as the refresh of a token."""

    code: str
    message: str


Event = Connected | Disconnected | Resumed | Draining | CommandFailed
