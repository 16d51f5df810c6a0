"""Who was sent away, and who has other roles than its token says: remembered while such tokens may live.

A token is known by its id. What is decided about an identity concerns the tokens that were issued to it up to then; an
identity without `Identity.issued` was found out by the application itself, so for it the time of that check counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from ..channels import MAX_NAME_LENGTH, shorten
from ..exceptions import AuthenticationError
from ..identity import Identity

MAX_REMEMBERED: Final = 100_000


class RevokedError(AuthenticationError):
    """The application knows who this is, but what it knows it by counts no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What hubs tell each other: `Hub(on_revoke=...)` is called with one, `Hub.apply_revocation` takes it.

    It is about one `identity` or one `token_id`. `at` is Unix time in seconds. With `roles` nobody is sent away: the
    identity has these roles, whatever its tokens say. Raises `ValueError` for anything else.
    """

    identity: str | None = None
    token_id: str | None = None
    at: float
    roles: Collection[str] | None = None

    def __post_init__(self) -> None:
        if (self.identity is None) == (self.token_id is None):
            raise ValueError("a revocation is about an identity or about a token id, and not about both")
        if self.roles is not None:
            if self.identity is None:
                raise ValueError("roles are those of an identity, not of a token id")
            object.__setattr__(self, "roles", _check_roles(self.roles))
        for what, text in (("identity", self.identity), ("token_id", self.token_id)):
            if text is not None and not (isinstance(text, str) and 0 < len(text) <= MAX_NAME_LENGTH):
                raise ValueError(f"{what} is {shorten(text)}; it must be a text of 1 to {MAX_NAME_LENGTH} characters")

    def meets(self, identity: Identity) -> bool:
        """Whether it is about this identity, or its token."""
        return identity.id == self.identity if self.identity is not None else identity.token_id == self.token_id


def _check_roles(roles: Collection[str]) -> frozenset[str]:
    names = None if isinstance(roles, str) else frozenset(roles)
    if names is None or not all(isinstance(name, str) for name in names):
        raise ValueError(f"roles is {roles!r}; it must be a set of texts")
    return names


class _Entry(NamedTuple):
    at: float
    noted: float
    """The same on the clock of the hub, which nobody sets."""
    until: float
    roles: frozenset[str]

    def precedes(self, identity: Identity, since: float) -> bool:
        """Whether this identity is newer: issued, or found out `since`, after what was decided."""
        return since > self.noted if identity.issued is None else identity.issued > self.at


class Revocations:
    """What was decided in the last `memory` seconds; the newest of it, if it is more than `MAX_REMEMBERED`."""

    def __init__(
        self,
        memory: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        count: Callable[[str], None],
    ) -> None:
        self._memory = memory
        self._clock = clock
        self._wall_clock = wall_clock
        self._count = count
        self._entries: dict[tuple[str, str], _Entry] = {}  # all are remembered equally long, so the oldest are first

    def knows(self, revocation: Revocation) -> bool:
        """Whether it, or a newer one, was added."""
        known = self._find(*_key(revocation))
        return known is not None and known.at >= revocation.at

    def add(self, revocation: Revocation) -> None:
        """Remember it from now on, and with it what was known: a clock on the wall may have been set back."""
        key = _key(revocation)
        at, now = revocation.at, self._clock()
        noted = now - max(0.0, self._wall_clock() - at)
        if (known := self._find(*key)) is not None:
            at, noted = max(at, known.at), max(noted, known.noted)
        self._entries.pop(key, None)
        self._entries[key] = _Entry(at, noted, now + self._memory, frozenset(revocation.roles or ()))
        self._forget(now)

    def _find(self, kind: str, subject: str | None) -> _Entry | None:
        entry = self._entries.get((kind, subject)) if subject is not None else None
        return entry if entry is not None and entry.until > self._clock() else None

    def _forget(self, now: float) -> None:
        while True:
            oldest = next(iter(self._entries))
            if self._entries[oldest].until <= now:
                del self._entries[oldest]
            elif len(self._entries) > MAX_REMEMBERED:
                del self._entries[oldest]
                self._count("revocation-forgotten")
            else:
                return

    def concerns(self, revocation: Revocation, identity: Identity, since: float) -> bool:
        """Whether one that was just added, and meets an identity that was found out `since`, is not older than that."""
        return revocation.token_id is not None or not self._entries[_key(revocation)].precedes(identity, since)

    def settle(self, identity: Identity, since: float) -> Identity:
        """The identity with the roles that it has by now; raises `RevokedError` if it is revoked."""
        if not self._entries:
            return identity
        away = self._find("identity", identity.id)
        if self._find("token", identity.token_id) or (away and not away.precedes(identity, since)):
            raise RevokedError("invalid", "revoked")
        changed = self._find("roles", identity.id)
        return (
            identity if changed is None or changed.precedes(identity, since) else replace(identity, roles=changed.roles)
        )


def _key(revocation: Revocation) -> tuple[str, str]:
    if revocation.token_id is not None:
        return "token", revocation.token_id
    assert revocation.identity is not None
    return "identity" if revocation.roles is None else "roles", revocation.identity
