"""Every exception the package raises, under one base.

A programming mistake raises in the caller's frame; a peer's mistake never raises out of the hub: it becomes an
`$error` item or a close code (`docs/protocol.md`).
"""

from __future__ import annotations

from typing import Literal, get_args

TokenFault = Literal["missing", "invalid", "expired"]


class HubError(Exception):
    """The base of everything below."""


class InvalidChannel(HubError, ValueError):
    """A channel declaration or a channel name breaks the rules of `docs/protocol.md` §3."""


class UnknownChannel(HubError, LookupError):
    """No declared channel or pattern has this name."""


class ChannelLimitReached(HubError):
    """A pattern already has as many members as it may have."""


class InvalidItem(HubError, ValueError):
    """The published data, type or key cannot become an item."""


class ItemTooLarge(InvalidItem):
    """The whole encoded item is longer than `Tuning.max_item_bytes`."""


class TableFull(HubError):
    """A `table` channel already holds `max_keys` keys."""


class HubClosed(HubError, RuntimeError):
    """The hub has not been entered yet, or has been shut down."""


class HubOverloaded(HubError):
    """The inbox for other threads is full: its items or bytes are not drained fast enough."""


class JournalError(HubError):
    """The journal of a durable channel did not accept or return items."""


class AuthenticationError(HubError):
    """There is no valid token. `fault` is all that a peer is ever told; `detail` is for the operator's counters."""

    def __init__(self, fault: TokenFault, detail: str = "") -> None:
        if fault not in get_args(TokenFault):
            raise ValueError("the fault of a token is missing, invalid or expired; the rest is for its detail")
        super().__init__(f"{fault} token")
        self.fault: TokenFault = fault
        self.detail = detail


class PermissionDenied(HubError):
    """The peer is known and may not come in (HTTP 403, close code 4403)."""


KeySetFault = Literal[
    "timeout", "connection", "tls", "status", "protocol", "too-large", "not-json", "too-many-keys", "no-usable-key",
    "fetch-failed", "not-running",
]  # fmt: skip


class KeySetError(HubError):
    """A set of public keys (JWKS) could not be fetched, or is of no use; `fault` is for counters."""

    def __init__(self, fault: KeySetFault, sentence: str) -> None:
        super().__init__(sentence)
        self.fault: KeySetFault = fault


class TooManyRequests(HubError):
    """A limit for one address or one identity is reached (HTTP 429, close code 4429); `after` in seconds."""

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = after


class Overloaded(HubError):
    """The hub takes no new work for now; those connected live on (HTTP 503, close code 1013)."""
