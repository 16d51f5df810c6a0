"""Asks the application who a peer is; whatever the application raises stays here.

Tickets are the hub's own, and what was revoked is refused, whatever the application says.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import anyio

from ..auth import TOKEN_DETAILS, redact
from ..channels import MAX_NAME_LENGTH, shorten
from ..contracts import Authenticate, Handshake
from ..core.commands import Refusal
from ..exceptions import AuthenticationError, HubError, Overloaded, PermissionDenied, TooManyRequests
from ..hooks import ask
from ..identity import Identity
from ..telemetry import ThrottledLogger
from .limits import ConnectionLimits
from .revocation import Revocations, RevokedError
from .tickets import Tickets, is_ticket

_DETAILS: Final = TOKEN_DETAILS | {"no-session", "revoked", "ticket"}
"""What is counted by name of why a token is invalid; whatever else an application says is `other`."""


class AuthResult(NamedTuple):
    """Who somebody is, or why not; `after` so many seconds that may have changed, and `sentence` is for the peer."""

    result: Identity | Refusal
    after: float | None = None
    sentence: str | None = None


class Authentication:
    """`authenticate`, sync or async, bounded in time, counted and logged without tokens."""

    def __init__(
        self,
        authenticate: Authenticate,
        timeout: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        count: Callable[[str], None],
        muffler: ThrottledLogger,
        doorkeeper: ConnectionLimits,
        revocations: Revocations,
        tickets: Tickets,
    ) -> None:
        self._authenticate = authenticate
        self._timeout = timeout
        self._clock = clock
        self._wall_clock = wall_clock
        self._count = count
        self._muffler = muffler
        self._doorkeeper = doorkeeper
        self._revocations = revocations
        self._tickets = tickets

    async def run(self) -> None:
        """What `authenticate` does in the background, if anything. If it fails nothing else does."""
        run = getattr(self._authenticate, "run", None)
        if run is None:
            return
        try:
            await ask(run)
        except Exception as error:  # noqa: BLE001 - the application's, as below
            self._count("authenticate-run-failed")
            sentence = "what authenticate does in the background has failed, and does it no more: %s"
            self._muffler.log(logging.ERROR, "authenticate-run", sentence, redact(repr(error)))

    async def check(self, handshake: Handshake) -> Identity:
        """Raises `AuthenticationError`, `PermissionDenied` or `TooManyRequests`; `HubError` if nobody can tell."""
        since = self._note_time(handshake)
        handshake = self._doorkeeper.resolve(handshake)
        self._doorkeeper.check_failures(handshake)
        try:
            return await self._ask(handshake, since)
        except Exception as error:  # noqa: BLE001 - authenticate is the application's: it may raise anything
            refusal = self._refusal(error, handshake)
        raise refusal  # outside of `except`, or it would carry along its cause, which may hold the token

    async def admit(self, handshake: Handshake) -> Identity | None:
        """As `check`, for a new connection; None for a peer that may send a token as its first message.

        Raises `Overloaded` too.
        """
        since = self._note_time(handshake)
        handshake = self._doorkeeper.resolve(handshake)
        self._doorkeeper.check_load()
        self._doorkeeper.check_room(handshake)
        self._doorkeeper.check_failures(handshake)
        try:
            identity = await self._ask(handshake, since)
        except Exception as error:  # noqa: BLE001 - as above
            if (
                handshake.token is None
                and isinstance(error, AuthenticationError)
                and not isinstance(error, RevokedError)
            ):
                return None
            refusal = self._refusal(error, handshake)
        else:
            self._doorkeeper.check_identity(identity)
            return identity
        raise refusal

    def _note_time(self, handshake: Handshake) -> float:
        """What is revoked from now on concerns this peer, however long the application takes to tell who it is."""
        now = self._clock()
        object.__setattr__(handshake, "asked_at", now)
        return now

    async def _ask(self, handshake: Handshake, since: float) -> Identity:
        if handshake.token is not None and is_ticket(handshake.token):
            identity, since = self._tickets.redeem(handshake.token)
        else:
            with anyio.fail_after(self._timeout):
                identity = await ask(self._authenticate, handshake)
            _check_identity(identity)
        if identity.expires is not None and identity.expires <= self._wall_clock():
            raise RevokedError("expired", "expired")
        return self._revocations.settle(identity, since)

    def _refusal(self, error: Exception, handshake: Handshake) -> HubError:
        """Count and log why somebody is not let in; returns what they may be told."""
        if isinstance(error, AuthenticationError | PermissionDenied):
            self._doorkeeper.failed(handshake)
        if isinstance(error, AuthenticationError):
            self._count(f"token-{error.fault}")
            detail = error.detail if error.detail in _DETAILS else "other"
            if error.fault == "invalid":
                self._count(f"invalid-{detail}")
            if detail == "other" and error.detail:
                detail = shorten(redact(error.detail))
            self._muffler.log(logging.WARNING, "token", "a token was refused: %s (%s)", error.fault, detail)
            return error
        if isinstance(error, PermissionDenied):
            self._count("token-forbidden")
            return error
        if isinstance(error, TooManyRequests | Overloaded):
            self._count("authenticate-limited")
            return error
        self._count("authenticate-failed")
        self._muffler.log(logging.ERROR, "authenticate", "authenticate failed: %s", type(error).__name__)
        return HubError("tokens cannot be checked now")

    async def judge(self, handshake: Handshake, *, is_new: bool) -> AuthResult:
        """As `check`, as a value; `is_new`: nobody was let in yet."""
        try:
            if is_new:
                self._doorkeeper.check_load()
            identity = await self.check(handshake)
            if is_new:
                self._doorkeeper.check_identity(identity)
        except AuthenticationError as error:
            return AuthResult(error.fault)
        except PermissionDenied:
            return AuthResult("forbidden")
        except TooManyRequests as error:
            return AuthResult("limited", error.after, str(error))
        except Overloaded as error:
            return AuthResult("overloaded", None, str(error))
        except HubError:
            return AuthResult("unavailable")
        return AuthResult(identity)


def _check_identity(identity: object) -> None:
    """Raise `TypeError` for what the core would stumble over, or an operator: ids appear in logs."""
    if not isinstance(identity, Identity):
        raise TypeError(f"authenticate returned {type(identity).__name__}, not Identity")
    if not (isinstance(identity.id, str) and 0 < len(identity.id) <= MAX_NAME_LENGTH):
        raise TypeError(f"Identity.id must be a text of 1 to {MAX_NAME_LENGTH} characters")
    if not isinstance(identity.roles, AbstractSet):
        raise TypeError("Identity.roles must be a set")
    if identity.expires is not None and not math.isfinite(identity.expires):
        raise TypeError("Identity.expires must be a number, or None for never")
    if identity.issued is not None and not math.isfinite(identity.issued):
        raise TypeError("Identity.issued must be a number, or None")
    if not (identity.token_id is None or isinstance(identity.token_id, str)):
        raise TypeError("Identity.token_id must be a text, or None")
    if not (identity.channels is None or isinstance(identity.channels, tuple)):
        raise TypeError("Identity.channels must be a tuple")
