"""One-time tickets: what a page hands in instead of a token, so that no token need stand in a URL.

A ticket is got with any credential (`POST /ticket`), and is as good as that, once, for `Tuning.ticket_ttl` seconds.
Tickets live in the memory of one process: it is the one that takes them back.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, NamedTuple

from ..exceptions import AuthenticationError, Overloaded
from ..identity import Identity

PREFIX: Final = "ticket."
"""How every ticket begins; what follows may stand in a URL, a header and a subprotocol as it is."""
MAX_TICKETS: Final = 100_000
MAX_FOR_ONE: Final = 16
"""Of one identity; for a further one the oldest goes."""
_BYTES: Final = 24


class _Ticket(NamedTuple):
    identity: Identity
    since: float
    """When it was made, by the clock of the hub."""


def is_ticket(token: str) -> bool:
    """Whether this is for the hub itself, and not for `authenticate`."""
    return token.startswith(PREFIX)


class Tickets:
    """Those that are out. `repr` shows none."""

    def __init__(self, ttl: float, clock: Callable[[], float]) -> None:
        self.ttl: Final = ttl
        self._clock = clock
        self._out: dict[str, _Ticket] = {}  # all live equally long, so the oldest are the first
        self._of: dict[str, dict[str, None]] = {}
        """The tickets of each identity, by its id."""

    def __len__(self) -> int:
        return len(self._out)

    def issue(self, identity: Identity) -> str:
        """A ticket for who has just been found to be `identity`. Raises `Overloaded`."""
        now = self._clock()
        while self._out and self._is_over(oldest := next(iter(self._out)), now):
            self._take(oldest)
        own = self._of.get(identity.id, {})
        if len(own) >= MAX_FOR_ONE:
            self._take(next(iter(own)))
        if len(self._out) >= MAX_TICKETS:
            raise Overloaded(f"{MAX_TICKETS} tickets are out, and there can be no more")
        text = PREFIX + secrets.token_urlsafe(_BYTES)
        self._out[text] = _Ticket(identity, now)
        self._of.setdefault(identity.id, {})[text] = None
        return text

    def redeem(self, text: str) -> tuple[Identity, float]:
        """Whose it is, and when that was found out; raises `AuthenticationError` if it is used, old or unknown."""
        if text not in self._out or self._is_over(text, self._clock()):
            raise AuthenticationError("invalid", "ticket")
        return self._take(text)

    def _is_over(self, text: str, now: float) -> bool:
        return now - self._out[text].since > self.ttl

    def _take(self, text: str) -> _Ticket:
        ticket = self._out.pop(text)
        own = self._of[ticket.identity.id]
        del own[text]
        if not own:
            del self._of[ticket.identity.id]
        return ticket
