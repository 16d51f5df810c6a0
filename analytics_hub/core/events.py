"""What the engine asks of its driver, or tells it. The driver answers with the verb of the engine named in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..identity import Identity
from .log import Draft
from .session import Session


@dataclass(frozen=True, slots=True)
class CheckToken:
    """A client sent `auth`. Answer: `authenticated(session, identity or HubError)`."""

    session: Session
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AskAuthorize:
    """Roles admit the identity to `channels`, the application may still object.

    Answer: `authorized(session, allowed)`.
    """

    session: Session
    identity: Identity
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Append:
    """Items for the journal, numbered from `first`. Answer: `committed(channel, oldest)` or `rejected(channel)`."""

    channel: str
    first: int
    items: Sequence[bytes]
    drafts: Sequence[Draft]


@dataclass(frozen=True, slots=True)
class Read:
    """A reader is behind the memory of a durable channel. Answer: `journal_read(channel, after, items)`."""

    channel: str
    after: int
    limit: int


@dataclass(frozen=True, slots=True)
class Close:
    """The session has ended: close its connection after everything that was yielded for it. No answer."""

    session: Session
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """If `paused`, too many commands wait: stop reading from this client; else read on. No answer."""

    session: Session
    paused: bool


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The client says how many frames of its connection it has received. No answer."""

    session: Session
    frames: int


@dataclass(frozen=True, slots=True)
class DemandChanged:
    """What is watched of a declared channel or pattern has changed, while it is in `registry.observed`. No answer."""

    channel: str


Event = CheckToken | AskAuthorize | Append | Read | Close | Pause | Confirmed | DemandChanged
