"""Decides which peers are admitted: the limits, then the check of the credential, counted and logged."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

from ..auth import TOKEN_DETAILS
from ..channels import shorten
from ..clock import Clock
from ..contracts import Authenticate, Authorize, Handshake, Peer
from ..exceptions import (
    AuthenticationError,
    AuthenticationUnavailable,
    HubError,
    Overloaded,
    PermissionDenied,
    RevokedError,
    TooManyRequests,
)
from ..faults import describe_fault, hide_secrets, secrets_of
from ..hooks import HookThreads
from ..identity import Identity
from ..telemetry import Telemetry
from ..tuning import Tuning
from .authentication import Authentication
from .authorization import Authorization
from .limits import ConnectionLimits
from .proxies import TrustedProxies
from .revocation import Revocations
from .tickets import Tickets
from .token_budget import TokenBudget

_DETAILS: Final = TOKEN_DETAILS | {"no-session", "revoked", "ticket"}
"""The details of an invalid token that have a counter; the application's own are counted as `other`."""


class Access:
    """What the hub knows about credentials, addresses and permissions. Whatever the application raises stays here."""

    def __init__(
        self,
        tuning: Tuning,
        clock: Clock,
        telemetry: Telemetry,
        revocations: Revocations,
        *,
        authenticate: Authenticate,
        authorize: Authorize | None,
        proxies: Collection[str],
    ) -> None:
        self._telemetry = telemetry
        self.proxies: Final = TrustedProxies(proxies)
        self.limits: Final = ConnectionLimits(tuning, clock, telemetry, self.proxies)
        self._token_budget = TokenBudget(tuning, clock, telemetry, self.proxies)
        self.revocations: Final = revocations
        self.tickets: Final = Tickets(tuning.ticket_ttl, clock)
        threads = HookThreads()
        self.authorization: Final = Authorization(authorize, threads, tuning, clock, telemetry)
        self._authenticate = authenticate
        self._authentication = Authentication(
            authenticate, threads, self.revocations, self.tickets, clock, tuning.auth_timeout
        )

    async def run(self) -> None:
        """Run the background task of the application's `authenticate`, if it has one."""
        await self._authentication.run(self._telemetry)

    async def authenticate(self, handshake: Handshake) -> Peer:
        """The peer with its identity, its address resolved.

        Raises `AuthenticationError`, `PermissionDenied`, `TooManyRequests`, `Overloaded` if the application does, and
        `AuthenticationUnavailable`.
        """
        handshake = self.proxies.resolve(handshake)
        self._check_budget(handshake)
        try:
            peer = await self._authentication.identify(handshake)
        except Exception as error:  # noqa: BLE001 - authenticate is the application's: it may raise anything
            refusal = self._report(error, handshake)
        else:
            self._token_budget.token_accepted(handshake)
            return peer
        raise refusal  # outside of `except`, otherwise its cause, which may hold the token, would go along

    async def admit(self, handshake: Handshake) -> Peer:
        """As `authenticate`, for a new connection; without an identity if a token may come as the first message."""
        handshake = self.proxies.resolve(handshake)
        self.limits.check_load()
        self.limits.check_address(handshake)
        self._check_budget(handshake)
        try:
            peer = await self._authentication.identify(handshake)
        except Exception as error:  # noqa: BLE001 - as above
            is_missing = isinstance(error, AuthenticationError) and not isinstance(error, RevokedError)
            if handshake.token is None and is_missing:
                return Peer(handshake)
            refusal = self._report(error, handshake)
        else:
            assert peer.identity is not None
            self._token_budget.token_accepted(handshake)
            self.limits.check_identity(peer.identity)
            return peer
        raise refusal

    async def check_token(self, handshake: Handshake, *, is_new: bool) -> Identity | HubError:
        """The identity of the token that a session has sent, or the reason to refuse it.

        `is_new`: the session has no identity of its own yet, so the limits of new connections apply.
        """
        try:
            if is_new:
                self.limits.check_load()
            identity = (await self.authenticate(handshake)).identity
            assert identity is not None
            if is_new:
                self.limits.check_identity(identity)
        except HubError as error:
            return error
        return identity

    def _check_budget(self, handshake: Handshake) -> None:
        """Raise the refusal of a token that is not to be checked."""
        refusal = self._token_budget.find_refusal(handshake)
        if refusal is None:
            return
        if isinstance(refusal, AuthenticationError):
            self._telemetry.count(f"token-{refusal.fault}")
        elif isinstance(refusal, PermissionDenied):
            self._telemetry.count("token-forbidden")
        raise refusal

    def _report(self, error: Exception, handshake: Handshake) -> HubError:
        """Count and log why a peer is refused; returns the exception that the peer is answered with."""
        if isinstance(error, AuthenticationError | PermissionDenied):
            self._token_budget.token_refused(handshake, error)
        if isinstance(error, AuthenticationError):
            self._telemetry.count(f"token-{error.fault}")
            detail = error.detail if error.detail in _DETAILS else "other"
            if error.fault == "invalid":
                self._telemetry.count(f"invalid-{detail}")
            if detail == "other" and error.detail:
                detail = shorten(hide_secrets(error.detail, secrets_of(handshake)))
            self._telemetry.log(logging.WARNING, "token", "a token was refused: %s (%s)", error.fault, detail)
            return AuthenticationError(error.fault, error.detail)
        if isinstance(error, PermissionDenied):
            self._telemetry.count("token-forbidden")
            return PermissionDenied("this identity is not allowed to connect")
        if isinstance(error, TooManyRequests | Overloaded):
            self._telemetry.count("authenticate-limited")
            return error
        fault = describe_fault(error, self._authenticate, secrets=secrets_of(handshake))
        self._telemetry.fault("authenticate-failed", "authenticate failed: %s", fault)
        return AuthenticationUnavailable()
