"""What the hub expects of a transport, an authenticator and a journal, and what a transport may call on the hub.

Contracts only: small, in one place, with the rules that a type cannot express.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

from .channels import Channel
from .core.transport import Transport
from .exceptions import AuthenticationError
from .identity import ANONYMOUS, Identity
from .protocol import Selection
from .protocol.credentials import find_token, strip_headers
from .tuning import Tuning

if TYPE_CHECKING:
    from .core.session import Session
    from .core.wire import Wire

HookT = TypeVar("HookT", bound=Callable[..., object])

# --- clients


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What is known of a peer before it is admitted. `headers` have lower-case names; the token is not among them.

    `repr` never includes the token.
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

    @classmethod
    def from_headers(
        cls,
        headers: Mapping[str, str],
        *,
        transport: str,
        path: str,
        query: str = "",
        subprotocols: Iterable[str] = (),
        client: str | None = None,
        scope: Mapping[str, Any] | None = None,
    ) -> Self:
        """The handshake of an HTTP request; its token is taken out of the headers (`docs/protocol.md` §8)."""
        found = find_token(headers, query, subprotocols)
        return cls(
            token=found and found.token,
            transport=transport,
            path=path,
            headers=strip_headers(headers),
            origin=headers.get("origin"),
            client=client,
            scope=scope,
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that `Gateway.admit` or `Gateway.authenticate` has accepted.

    `handshake.client` is the address behind trusted proxies. `identity` is None for a peer that may send a token as its
    first message. Revocations from `checked_at` on, on the hub's monotonic clock, concern it; None is now.
    """

    handshake: Handshake
    identity: Identity | None = None
    checked_at: float | None = None


class Gateway(Protocol):
    """What a transport may call on the hub, on the thread of its event loop (`Hub.gateway`).

    A transport asks `admit`, then calls `connect`; from then on it passes on what the client sends, and calls
    `disconnect` when the peer has gone.
    """

    channels: Sequence[Channel]
    tuning: Tuning

    @property
    def is_open(self) -> bool:
        """Whether the hub was entered, and accepts clients and items."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether its shutdown has begun."""
        ...

    @property
    def life(self) -> int:
        """How often the hub was entered: a transport makes anew for each life what belongs to one event loop."""
        ...

    # Before a peer is identified: `client` is the address that the transport sees.

    def check_address(self, client: str | None) -> None:
        """Raise `TooManyRequests` if there is no room for a connection that was just accepted."""

    def connection_pending(self, client: str | None) -> str | None:
        """Count an accepted connection until `pending_ended` is called with the key that this returns."""
        ...

    def pending_ended(self, key: str | None) -> None:
        """A pending connection was admitted or has ended."""

    def address_key(self, client: str | None) -> str | None:
        """What is counted as one address: an IPv4 address, or the /64 of an IPv6 one; None if it is not counted."""
        ...

    def check_load(self) -> None:
        """Raise `Overloaded` if the hub takes no new work."""

    # Authentication. Both are bounded in time by `Tuning.auth_timeout`.

    async def authenticate(self, handshake: Handshake) -> Peer:
        """The peer with its identity.

        Raises `AuthenticationError`, `PermissionDenied`, `TooManyRequests` or `AuthenticationUnavailable`.
        """
        ...

    async def admit(self, handshake: Handshake) -> Peer:
        """As `authenticate`, for a peer that wants to connect; its identity is None if it may send a token first.

        Raises `Overloaded` too.
        """
        ...

    def current_identity(self, peer: Peer) -> Identity:
        """The identity after revocations and role changes since the check; raises `AuthenticationError`."""
        ...

    # Sessions.

    def connect(self, transport: Transport, wire: Wire, peer: Peer, *, max_message: int | None = None) -> Session:
        """A session for `peer`, that may send `max_message` bytes at once; raises `HubClosed`.

        A session over a limit, or revoked since its check, is closed after this has returned.
        """
        ...

    def receive_data(self, session: Session, data: str | bytes) -> None:
        """One client frame: text as `str`, binary as `bytes`."""

    def subscribe(self, session: Session, selections: Sequence[Selection]) -> None:
        """Carry out a subscribe command that came in another form than a client frame."""

    def resumed(self, session: Session) -> None:
        """The transport of this session, after its `write` returned False, has room again."""

    def disconnect(self, session: Session) -> None:
        """The peer has gone. Harmless if the session has ended already."""

    def find_session(self, id: str) -> Session | None:
        """The open session with this `id`, which its `$hello` contains."""
        ...

    # Requests of peers without a session.

    def declaration(self, channel: str, /) -> Channel:
        """The declared channel or pattern of `channel`; raises `UnknownChannel` or `InvalidChannel`."""
        ...

    async def authorize_publish(self, identity: Identity, channels: Iterable[str]) -> dict[str, bool | None]:
        """The answer of `authorize` for publishing to each of `channels`; None where it failed."""
        ...

    def submit(self, channel: str, data: object, *, type: str | None = None, key: object = None) -> Submitted:
        """Publish; raises what `Hub.publish` does. What waits for a journal is to be awaited."""
        ...

    def remove(self, channel: str, key: str) -> Receipt | None:
        """Delete the key of a table; None if it was not there. Raises what `Hub.delete` does."""
        ...

    def issue_ticket(self, identity: Identity) -> str:
        """A one-time ticket (`docs/protocol.md` §8); raises `Overloaded`."""
        ...

    # Telemetry.

    def count(self, name: str, number: int = 1) -> None:
        """Count something that happened. `name` is one of `telemetry.COUNTERS`."""

    def note(self, kind: str, message: str, *args: object) -> None:
        """Count it and log it, at most once a second for each `kind`. What a peer sent must be escaped."""

    def add_gauge(self, gauge: Callable[[], int]) -> None:
        """Count the bytes that wait in this transport because of clients: `gauge`, a bound method, returns them.

        Only a weak reference is kept: the gauge goes with its object.
        """


# --- what an application passes in

Authenticate = Callable[[Handshake], "Identity | Awaitable[Identity]"]
"""Returns the identity of a peer; raises `AuthenticationError` (401, 4401) or `PermissionDenied` (403, 4403).

A function that is not a coroutine function is called in a worker thread, unless it is marked as `cheap`.
"""

Action = Literal["subscribe", "publish"]
Authorize = Callable[[Identity, Action, str], "bool | Awaitable[bool]"]
"""Whether an identity may do that with a channel, called after the roles of the channel have admitted it.

As for `Authenticate`, a function that is neither a coroutine function nor `cheap` is called in a worker thread.
"""


def cheap(function: HookT) -> HookT:
    """Mark a synchronous `authenticate`, `authorize` or `identify` that neither waits nor computes for long.

    The hub calls it in its event loop, not in a worker thread: some 0.2 ms less a call, and one thread at a time.
    """
    function.is_cheap = True  # type: ignore[attr-defined]
    return function


@cheap
def anonymous(handshake: Handshake) -> Identity:
    """`authenticate` for hubs that everyone may read: it must be written out, never is a default."""
    return ANONYMOUS


# --- journals


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a confirmed item stands in its channel."""

    epoch: str
    seq: int


class Confirmation(Protocol):
    """An item on its way to the journal."""

    async def wait(self) -> Receipt:
        """Where the item stands once the journal has it; raises `JournalError` if it refused the item."""
        ...


Submitted = Receipt | Confirmation


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
    "Confirmation",
    "Gateway",
    "Handshake",
    "Journal",
    "JournalState",
    "Peer",
    "Receipt",
    "Submitted",
    "Transport",
    "anonymous",
]
