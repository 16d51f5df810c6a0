"""What a client hands to its user: items, and gaps where items are missing. Events tell of the connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from ..protocol import Position

T = TypeVar("T")


class Item(msgspec.Struct, Generic[T], frozen=True):
    """One item of a channel. `timestamp` is when it was published: RFC 3339, UTC, milliseconds.

    `data` is of the type that was subscribed with; it is None where `deleted` says that the key of a table has gone.
    """

    channel: str
    seq: int
    type: str
    timestamp: str
    data: T
    key: str | None = None
    deleted: bool = False


class Epochs(msgspec.Struct, frozen=True):
    """The life of a channel that the client knew, and the one that it has met."""

    old: str
    new: str


class Gap(msgspec.Struct, frozen=True):
    """Items that were published and will not come, at the place where they are missing.

    `first`, `last` and `count` are None where nobody can count them: `epochs` then tells why, for numbers mean
    something within an epoch only. `reason` is one word (`docs/protocol.md` §5).
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
    """The server has let the client in."""

    node: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection has ended or did not come about; the next attempt is `delay` seconds away."""

    sentence: str
    delay: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """A subscription goes on over a new connection. If it is not `complete`, a `Gap` says what is missing."""

    channel: str
    position: Position
    complete: bool


@dataclass(frozen=True, slots=True)
class Draining:
    """The server shuts down and has given this client a slot to come back in, `delay` seconds from now."""

    delay: float


@dataclass(frozen=True, slots=True)
class Complaint:
    """The server could not carry out something that nobody waits for, such as the refresh of a token."""

    code: str
    message: str


Event = Connected | Disconnected | Resumed | Draining | Complaint
