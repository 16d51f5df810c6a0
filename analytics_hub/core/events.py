"""What the engine asks of its driver, or tells it. The driver answers with the engine's verb named in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..identity import Identity
from .log import Draft
from .session import Session


@dataclass(frozen=True, slots=True)
class CheckToken:
    """A client sent `auth`. Answer: `authenticated(session, identity or refusal)`."""

    session: Session
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AskAuthorize:
    """Roles admit the identity to `channels`; the application has a say too. Answer: `authorized(session, allowed)`."""

    session: Session
    identity: Identity
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Append:
    """Items for the journal, numbered from `first`. Answer: `committed(channel, kept)` or `rejected(channel)`."""

    channel: str
    first: int
    items: Sequence[bytes]
    drafts: Sequence[Draft]


@dataclass(frozen=True, slots=True)
class Read:
    """Somebody is behind the memory of a durable channel. Answer: `journal_read(channel, after, items)`."""

    channel: str
    after: int
    limit: int


@dataclass(frozen=True, slots=True)
class Interest:
    """The first session subscribed to a channel, or the last one left it."""

    channel: str
    gained: bool


@dataclass(frozen=True, slots=True)
class Close:
    """The session has ended; after what was yielded for it, its connection must. No answer."""

    session: Session
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """More commands wait than may: read no more of this client (`paused`), or go on."""

    session: Session
    paused: bool


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The client says how many frames of its connection it has received. No answer."""

    session: Session
    frames: int


Event = CheckToken | AskAuthorize | Append | Read | Interest | Close | Pause | Confirmed
