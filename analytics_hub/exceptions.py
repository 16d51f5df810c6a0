"""Every exception of the package, under one base, each with the codes that a peer is answered with.

A programming mistake raises in the caller's frame. A peer's mistake never raises out of the hub: it becomes an answer
with the codes of its class, which `docs/protocol.md` §15 lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from http import HTTPStatus
from typing import ClassVar, Literal, get_args

from .codes import CloseCode

TokenFault = Literal["missing", "invalid", "expired"]


class HubError(Exception):
    """The base of everything below.

    The class attributes are what a peer is answered with: the status and code of an HTTP answer, the code that closes a
    connection, and the code of an `$error` item. `retry_after` are seconds, None if trying again is of no use.
    `counter` is what a transport counts when it refuses a peer with it, None if the hub has counted it.
    """

    http_status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    http_code: ClassVar[str] = "internal-error"
    close_code: ClassVar[CloseCode] = CloseCode.INTERNAL_ERROR
    error_code: ClassVar[str] = "internal-error"
    counter: ClassVar[str | None] = None
    retry_after: float | None = None

    @property
    def public_message(self) -> str:
        """The message for a peer."""
        return str(self)

    @property
    def log_message(self) -> str:
        """The message for the operator."""
        return f"a client was refused: {self}"


class InvalidChannel(HubError, ValueError):
    """A channel declaration or a channel name breaks the rules of `docs/protocol.md` §3."""

    http_status = HTTPStatus.BAD_REQUEST
    http_code = error_code = "bad-request"


class UnknownChannel(HubError, LookupError):
    """No declared channel or pattern has this name."""

    http_status = HTTPStatus.NOT_FOUND
    http_code = error_code = "unknown-channel"


class ChannelLimitReached(HubError):
    """A pattern already has its maximum number of members."""

    http_status = HTTPStatus.CONFLICT
    http_code = "too-many-channels"
    error_code = "unknown-channel"


class InvalidItem(HubError, ValueError):
    """The published data, type or key cannot become an item."""

    http_status = HTTPStatus.BAD_REQUEST
    http_code = error_code = "bad-request"


class ItemTooLarge(InvalidItem):
    """The whole encoded item is longer than `Tuning.max_item_bytes`."""

    http_status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    http_code = "too-large"


class TableFull(HubError):
    """A `table` channel already holds `max_keys` keys."""

    http_status = HTTPStatus.CONFLICT
    http_code = "table-full"


class HubClosed(HubError, RuntimeError):
    """The hub has not been entered yet, or has been shut down."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    http_code = "unavailable"
    close_code = CloseCode.SERVICE_RESTART
    retry_after = 1.0


class HubOverloaded(HubError):
    """The inbox for other threads is full: its items or bytes are not drained fast enough."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    http_code = "unavailable"
    close_code = CloseCode.TRY_AGAIN_LATER
    retry_after = 1.0


class JournalError(HubError):
    """The journal of a durable channel did not accept or return items."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    http_code = "journal-failed"
    retry_after = 1.0


class AuthenticationError(HubError):
    """There is no valid token. A peer gets no more than `fault`; `detail` is for the operator's counters.

    `is_genuine`: the token was issued here and is refused all the same, so it does not count against its address. It is
    True for an expired token, unless given.
    """

    http_status = HTTPStatus.UNAUTHORIZED
    http_code = error_code = "unauthenticated"
    close_code = CloseCode.UNAUTHENTICATED

    def __init__(self, fault: TokenFault, detail: str = "", *, is_genuine: bool | None = None) -> None:
        if fault not in get_args(TokenFault):
            raise ValueError(f"fault is {fault!r}; it must be missing, invalid or expired (the rest belongs in detail)")
        super().__init__(f"{fault} token")
        self.fault: TokenFault = fault
        self.detail = detail
        self.is_genuine = fault == "expired" if is_genuine is None else is_genuine


class RevokedError(AuthenticationError):
    """The application knows the identity, but its credential has expired or been revoked."""

    def __init__(self, fault: TokenFault, detail: str = "") -> None:
        super().__init__(fault, detail, is_genuine=True)


class AuthenticationUnavailable(HubError):
    """`authenticate` failed or took too long; the credential may be good."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    http_code = "unavailable"
    error_code = "unauthenticated"
    close_code = CloseCode.INTERNAL_ERROR
    retry_after = 1.0

    def __init__(self, message: str = "tokens cannot be checked now") -> None:
        super().__init__(message)


class PermissionDenied(HubError):
    """The peer is known and is not allowed to do this."""

    http_status = HTTPStatus.FORBIDDEN
    http_code = error_code = "forbidden"
    close_code = CloseCode.FORBIDDEN


class AuthorizationUnavailable(HubError):
    """`authorize` failed or took too long; the identity may be allowed."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    http_code = "unavailable"
    error_code = "forbidden"
    retry_after = 1.0


KeySetFault = Literal[
    "timeout", "connection", "tls", "status", "protocol", "too-large", "not-json", "too-many-keys", "no-usable-key",
    "fetch-failed", "not-running",
]  # fmt: skip


class KeySetError(HubError):
    """A set of public keys (JWKS) could not be fetched or has no usable key; `fault` is for counters."""

    def __init__(self, fault: KeySetFault, message: str) -> None:
        super().__init__(message)
        self.fault: KeySetFault = fault


class TooManyRequests(HubError):
    """A limit for one address or one identity is reached; `after` in seconds."""

    http_status = HTTPStatus.TOO_MANY_REQUESTS
    http_code = error_code = "rate-limited"
    close_code = CloseCode.TOO_MANY_COMMANDS

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = self.retry_after = after

    @property
    def public_message(self) -> str:
        return f"{self}; try again in {max(1, math.ceil(self.after))} s"


class Overloaded(HubError):
    """The hub takes no new work for now; established connections go on."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    http_code = "unavailable"
    error_code = "rate-limited"
    close_code = CloseCode.TRY_AGAIN_LATER
    retry_after = 1.0


# --- raised by transports before a peer reaches the hub


class OriginNotAllowed(PermissionDenied):
    """The page is of an origin that may not connect, or has none where one is required."""

    counter = "refused-origin"

    def __init__(self, log_message: str = "a page was refused for its origin") -> None:
        super().__init__("this origin is not allowed")
        self._log_message = log_message

    @property
    def log_message(self) -> str:
        return self._log_message


class TicketNotExchangeable(PermissionDenied):
    """A ticket was offered for another ticket."""

    counter = "refused-ticket"

    def __init__(self) -> None:
        super().__init__("a ticket cannot be exchanged for another ticket")


class HubDraining(HubClosed):
    """The hub is shutting down."""

    counter = "refused-draining"

    def __init__(self) -> None:
        super().__init__("the hub is shutting down")


class HubNotRunning(HubClosed):
    """The application has not entered its hub."""

    close_code = CloseCode.TRY_AGAIN_LATER
    counter = "refused-closed"

    def __init__(self) -> None:
        super().__init__("the hub is not running")


class TransportFull(Overloaded):
    """The transport has reached its limit of clients."""

    counter = "refused-full"

    def __init__(self, max_clients: int) -> None:
        super().__init__(f"more than {max_clients} connections")


class InvalidHandshake(HubError, ValueError):
    """The request cannot become a connection."""

    http_status = HTTPStatus.BAD_REQUEST
    http_code = "bad-request"
    close_code = CloseCode.PROTOCOL_ERROR
    counter = "refused-request"


class PathNotFound(InvalidHandshake):
    """Nothing is served at this path."""

    http_status = HTTPStatus.NOT_FOUND
    http_code = "not-found"

    def __init__(self) -> None:
        super().__init__("nothing is served at this path")


def find_error(code: str, candidates: Iterable[type[HubError]]) -> type[HubError]:
    """The class among `candidates` with this code; `HubError` if there is none."""
    if code == HubError.http_code:  # a class that has no code of its own merely inherits this one
        return HubError
    found = [each for each in candidates if code in (each.http_code, each.error_code)]
    return min(found, key=lambda each: each.http_code != code, default=HubError)  # some `error_code` are less exact
