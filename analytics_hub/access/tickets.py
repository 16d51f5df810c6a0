"""One-time tickets: a page sends one instead of a token, so that no token has to stand in a URL.

A ticket is issued for any credential (`POST /ticket`), and replaces it once, within `Tuning.ticket_ttl` seconds.
Tickets live in the memory of one process: only the process that issued a ticket redeems it.
"""

from __future__ import annotations

import secrets
from typing import Final, NamedTuple

from ..clock import Clock
from ..exceptions import AuthenticationError, Overloaded
from ..identity import Identity

PREFIX: Final = "ticket."
"""The rest of a ticket needs no escaping in a URL, a header or a subprotocol."""
MAX_TICKETS: Final = 100_000
MAX_PER_IDENTITY: Final = 16
"""For a further one the oldest is dropped."""
_BYTES: Final = 24


class _Ticket(NamedTuple):
    identity: Identity
    since: float
    """When it was issued, by the monotonic clock of the hub."""


def is_ticket(token: str) -> bool:
    """Whether this credential is redeemed by the hub itself, and not passed to `authenticate`."""
    return token.startswith(PREFIX)


class Tickets:
    """The tickets that are not redeemed yet. `repr` shows none."""

    def __init__(self, ttl: float, clock: Clock) -> None:
        self.ttl: Final = ttl
        self._now = clock.monotonic
        self._open: dict[str, _Ticket] = {}  # all have the same lifetime, so the oldest are the first
        self._of_identity: dict[str, dict[str, None]] = {}
        """The tickets of each identity, by its id."""

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, identity: Identity) -> str:
        """A ticket for a peer that was just identified. Raises `Overloaded`."""
        now = self._now()
        while self._open and self._is_expired(oldest := next(iter(self._open)), now):
            self._remove(oldest)
        own = self._of_identity.get(identity.id, {})
        if len(own) >= MAX_PER_IDENTITY:
            self._remove(next(iter(own)))
        if len(self._open) >= MAX_TICKETS:
            raise Overloaded(f"{MAX_TICKETS} tickets are open; no more can be issued for now")
        text = PREFIX + secrets.token_urlsafe(_BYTES)
        self._open[text] = _Ticket(identity, now)
        self._of_identity.setdefault(identity.id, {})[text] = None
        return text

    def redeem(self, text: str) -> tuple[Identity, float]:
        """Its identity, and when it was issued; raises `AuthenticationError` if it is used, expired or unknown."""
        if text not in self._open or self._is_expired(text, self._now()):
            raise AuthenticationError("invalid", "ticket")
        return self._remove(text)

    def _is_expired(self, text: str, now: float) -> bool:
        return now - self._open[text].since > self.ttl

    def _remove(self, text: str) -> _Ticket:
        ticket = self._open.pop(text)
        own = self._of_identity[ticket.identity.id]
        del own[text]
        if not own:
            del self._of_identity[ticket.identity.id]
        return ticket
