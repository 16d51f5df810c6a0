"""Revoked tokens and identities, and roles that replace those of a token: remembered while such tokens may live.

A token is known by its id. A decision about an identity concerns the tokens that were issued to it up to then; an
identity without `Identity.issued` was found by the application itself, so for it the time of that check counts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from ..channels import MAX_NAME_LENGTH, shorten
from ..clock import Clock
from ..exceptions import RevokedError
from ..identity import Identity
from ..telemetry import Telemetry

MAX_REMEMBERED: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A decision that hubs share: `Hub(on_revoke=...)` is called with it, `Hub.apply_revocation` applies it.

    It is about one `identity` or one `token_id`. `at` is Unix time in seconds. With `roles` nothing is revoked: the
    identity has these roles, whatever those of its tokens. Raises `ValueError` for anything else.
    """

    identity: str | None = None
    token_id: str | None = None
    at: float
    roles: Collection[str] | None = None

    def __post_init__(self) -> None:
        if (self.identity is None) == (self.token_id is None):
            raise ValueError("a revocation needs either identity or token_id, and not both")
        if self.roles is not None:
            if self.identity is None:
                raise ValueError("roles belong to an identity; token_id must be None")
            object.__setattr__(self, "roles", _check_roles(self.roles))
        for what, text in (("identity", self.identity), ("token_id", self.token_id)):
            if text is not None and not (isinstance(text, str) and 0 < len(text) <= MAX_NAME_LENGTH):
                raise ValueError(f"{what} is {shorten(text)}; it must be a text of 1 to {MAX_NAME_LENGTH} characters")

    def concerns(self, identity: Identity) -> bool:
        """Whether it is about this identity, or its token."""
        return identity.id == self.identity if self.identity is not None else identity.token_id == self.token_id


def _check_roles(roles: Collection[str]) -> frozenset[str]:
    names = None if isinstance(roles, str) else frozenset(roles)
    if names is None or not all(isinstance(name, str) for name in names):
        raise ValueError(f"roles is {roles!r}; it must be a set of texts")
    return names


class _Decision(NamedTuple):
    at: float
    noted: float
    """The same on the monotonic clock of the hub."""
    until: float
    roles: frozenset[str]

    def precedes(self, identity: Identity, since: float) -> bool:
        """Whether this identity is newer: issued, or found at `since`, after the decision."""
        return since > self.noted if identity.issued is None else identity.issued > self.at


class Revocations:
    """The decisions of the last `memory` seconds; at most the newest `MAX_REMEMBERED`."""

    def __init__(self, memory: float, clock: Clock, telemetry: Telemetry) -> None:
        self._memory = memory
        self._clock = clock
        self._telemetry = telemetry
        self._entries: dict[tuple[str, str], _Decision] = {}  # all are remembered equally long, so the oldest are first

    def knows(self, revocation: Revocation) -> bool:
        """Whether it, or a newer one, was added."""
        known = self._find(*_key(revocation))
        return known is not None and known.at >= revocation.at

    def add(self, revocation: Revocation) -> None:
        """Remember it, together with what was known: the time of day may have been set back."""
        key = _key(revocation)
        at, now = revocation.at, self._clock.monotonic()
        noted = now - max(0.0, self._clock.wall() - at)
        if (known := self._find(*key)) is not None:
            at, noted = max(at, known.at), max(noted, known.noted)
        self._entries.pop(key, None)
        self._entries[key] = _Decision(at, noted, now + self._memory, frozenset(revocation.roles or ()))
        self._forget(now)

    def _find(self, kind: str, subject: str | None) -> _Decision | None:
        entry = self._entries.get((kind, subject)) if subject is not None else None
        return entry if entry is not None and entry.until > self._clock.monotonic() else None

    def _forget(self, now: float) -> None:
        while True:
            oldest = next(iter(self._entries))
            if self._entries[oldest].until <= now:
                del self._entries[oldest]
            elif len(self._entries) > MAX_REMEMBERED:
                del self._entries[oldest]
                self._telemetry.count("revocation-forgotten")
            else:
                return

    def outdates(self, revocation: Revocation, identity: Identity, since: float) -> bool:
        """Whether a revocation that was just added, and concerns an identity found at `since`, is not older than it."""
        return revocation.token_id is not None or not self._entries[_key(revocation)].precedes(identity, since)

    def apply(self, identity: Identity, since: float) -> Identity:
        """The identity, found at `since`, with its current roles; raises `RevokedError` if it is revoked."""
        if not self._entries:
            return identity
        revoked = self._find("identity", identity.id)
        if self._find("token", identity.token_id) or (revoked and not revoked.precedes(identity, since)):
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
