"""Asks the application who a peer is and what it may see; whatever the application raises stays here."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

import anyio

from .channels import MAX_NAME_LENGTH
from .contracts import Authenticate, Authorize, Handshake
from .core.dialogue import Refusal
from .exceptions import AuthenticationError, HubError, PermissionDenied
from .identity import Identity
from .observability import Muffler


class Admission:
    """`authenticate` and `authorize`, sync or async, bounded in time, counted and logged without tokens."""

    def __init__(
        self,
        authenticate: Authenticate,
        authorize: Authorize | None,
        timeout: float,
        wall_clock: Callable[[], float],
        count: Callable[[str], None],
        muffler: Muffler,
    ) -> None:
        self._authenticate = authenticate
        self._authorize = authorize
        self._timeout = timeout
        self._wall_clock = wall_clock
        self._count = count
        self._muffler = muffler

    async def check(self, handshake: Handshake) -> Identity:
        """Raises `AuthenticationError` or `PermissionDenied`; `HubError` if the application failed to answer."""
        try:
            return await self._ask(handshake)
        except Exception as error:  # noqa: BLE001 - authenticate is the application's: it may raise anything
            refusal = self._refusal(error)
        raise refusal  # outside of `except`, or it would carry along its cause, which may hold the token

    async def admit(self, handshake: Handshake) -> Identity | None:
        """As `check`, but None for a peer without a token, which may send one as its first message."""
        try:
            return await self._ask(handshake)
        except Exception as error:  # noqa: BLE001 - as above
            if handshake.token is None and isinstance(error, AuthenticationError):
                return None
            refusal = self._refusal(error)
        raise refusal

    async def _ask(self, handshake: Handshake) -> Identity:
        with anyio.fail_after(self._timeout):
            found = self._authenticate(handshake)
            identity = await found if inspect.isawaitable(found) else found
        _check_identity(identity)
        if identity.expires is not None and identity.expires <= self._wall_clock():
            raise AuthenticationError("expired")
        return identity

    def _refusal(self, error: Exception) -> HubError:
        """Count and log why somebody is not let in; returns what they may be told."""
        if isinstance(error, AuthenticationError):
            self._count(f"token-{error.fault}")
            detail = error.detail or "no detail"
            self._muffler.log(logging.WARNING, "token", "a token was refused: %s (%s)", error.fault, detail)
            return error
        if isinstance(error, PermissionDenied):
            self._count("token-forbidden")
            return error
        self._count("authenticate-failed")
        self._muffler.log(logging.ERROR, "authenticate", "authenticate failed: %s", type(error).__name__)
        return HubError("tokens cannot be checked now")

    async def judge(self, handshake: Handshake) -> Identity | Refusal:
        """As `check`, as a value."""
        try:
            return await self.check(handshake)
        except AuthenticationError as error:
            return error.fault
        except PermissionDenied:
            return "forbidden"
        except HubError:
            return "unavailable"

    async def authorize(self, identity: Identity, channels: Iterable[str]) -> list[str]:
        """Those of `channels` that the application allows; one that it fails to judge is not."""
        assert self._authorize is not None
        allowed = []
        with anyio.move_on_after(self._timeout) as scope:
            for channel in channels:
                try:
                    verdict = self._authorize(identity, channel)
                    if inspect.isawaitable(verdict):
                        verdict = await verdict
                except Exception as error:  # noqa: BLE001 - authorize is the application's too
                    self._count("authorize-failed")
                    self._muffler.log(logging.ERROR, "authorize", "authorize failed for %s: %r", channel, error)
                    continue
                if verdict is True:
                    allowed.append(channel)
        if scope.cancelled_caught:
            self._count("authorize-failed")
            self._muffler.log(logging.ERROR, "authorize", "authorize took longer than %g s", self._timeout)
        return allowed


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
    if not (identity.channels is None or isinstance(identity.channels, tuple)):
        raise TypeError("Identity.channels must be a tuple")
