"""What a transport, an authenticator and a journal promise the hub, and what the hub promises them.

Contracts only: small, in one place, with the rules a type cannot say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from .exceptions import AuthenticationError
from .identity import Identity


class Transport(Protocol):
    """One client as the hub sees it. Every method returns at once and raises nothing because of the peer."""

    def write(self, frame: bytes) -> bool:
        """Take `frame` whole (256 KiB of JSON and its headers at most) and keep what the peer cannot take yet.

        False: taken, but nothing more until the transport has called `hub.resumed(session)`; the hub keeps to that.
        After `close` or once the peer has gone it does nothing and returns True.
        """
        ...

    def close(self, code: int, reason: str) -> None:
        """Send what was written, then the close code, then end the connection. The hub calls it at most once."""

    def pause_reading(self) -> None:
        """Give the hub no more data of this client, so that its sender feels it, until `resume_reading`."""

    def resume_reading(self) -> None: ...

    def confirmed(self, frames: int) -> None:
        """The client says that it has received `frames` frames of this connection (`seen`); nobody has checked it.

        For transports that cannot see what the peer has not taken yet. The others have nothing to do.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What is known of a peer before it is let in. `headers` have lower-case names; the token is not among them.

    `repr` never shows the token.
    """

    token: str | None = field(default=None, repr=False)
    transport: str = "memory"
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    origin: str | None = None
    client: str | None = None
    """The peer's address as text, or None where there is none."""
    scope: Mapping[str, Any] | None = field(default=None, repr=False)
    """The ASGI scope, where there is one: what the host's middleware has put there (`session`, `user`)."""
    asked_at: float | None = field(default=None, init=False, repr=False, compare=False)
    """When the hub asked who this is, by its clock; its own note, for revocations that come after."""


Authenticate = Callable[[Handshake], "Identity | Awaitable[Identity]"]
"""Returns who the peer is; raises `AuthenticationError` (401, 4401) or `PermissionDenied` (403, 4403)."""

Action = Literal["subscribe", "publish"]
Authorize = Callable[[Identity, Action, str], "bool | Awaitable[bool]"]
"""Whether an identity may do that with a channel, asked after the roles of the channel have admitted it."""


ANONYMOUS: Final = Identity(id="anonymous")
"""Everybody: the one identity that many share, so that its connections are not counted."""


def anonymous(handshake: Handshake) -> Identity:
    """`authenticate` for hubs that everyone may read: it must be written out, never is a default."""
    return ANONYMOUS


@dataclass(frozen=True, slots=True)
class JournalState:
    """Where a durable channel stands: `oldest` is the first sequence number still kept, `head` the last given."""

    epoch: str
    oldest: int
    head: int


class Journal(Protocol):
    """Keeps the items of durable channels. Calls for one channel never overlap; each may raise `JournalError`."""

    async def open(self, channel: str, epoch: str) -> JournalState:
        """The state of `channel`; where the journal does not know it yet, it begins with `epoch` at head 0."""
        ...

    async def append(self, channel: str, first: int, items: Sequence[bytes]) -> int:
        """Keep encoded `items` with the numbers `first`, `first + 1`, ...; return the oldest number still kept.

        When it returns, the items survive what the journal promises to survive; when it raises, none was kept.
        """
        ...

    async def read(self, channel: str, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """At most `limit` kept items above `after`, in order, with their numbers."""
        ...


__all__ = [
    "ANONYMOUS",
    "Action",
    "Authenticate",
    "AuthenticationError",
    "Authorize",
    "Handshake",
    "Journal",
    "JournalState",
    "Transport",
    "anonymous",
]
