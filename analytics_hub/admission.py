"""Asks the application who a peer is and what it may see; whatever the application raises stays here."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable

import anyio

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
            identity = await self._ask(handshake)
        except AuthenticationError as error:
            self._count(f"token-{error.fault}")
            self._muffler.log(
                logging.WARNING, "token", "a token was refused: %s (%s)", error.fault, error.detail or "no detail"
            )
            raise
        except PermissionDenied:
            self._count("token-forbidden")
            raise
        except Exception as error:  # noqa: BLE001 - authenticate is the application's: it may raise anything
            self._count("authenticate-failed")
            self._muffler.log(logging.ERROR, "authenticate", "authenticate failed: %s", type(error).__name__)
            raise HubError("tokens cannot be checked now") from None  # the cause may hold the token
        return identity

    async def _ask(self, handshake: Handshake) -> Identity:
        with anyio.fail_after(self._timeout):
            found = self._authenticate(handshake)
            identity = await found if inspect.isawaitable(found) else found
        if not isinstance(identity, Identity):
            raise TypeError(f"authenticate returned {type(identity).__name__}, not Identity")
        if identity.expires is not None and identity.expires <= self._wall_clock():
            raise AuthenticationError("expired")
        return identity

    async def admit(self, handshake: Handshake) -> Identity | None:
        """As `check`, but None for a peer without a token, which may send one as its first message."""
        if handshake.token is not None:
            return await self.check(handshake)
        try:
            return await self._ask(handshake)
        except AuthenticationError:
            return None
        except Exception:  # noqa: BLE001 - as above; `check` counts and translates it
            return await self.check(handshake)

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
        for channel in channels:
            try:
                with anyio.fail_after(self._timeout):
                    verdict = self._authorize(identity, channel)
                    if inspect.isawaitable(verdict):
                        verdict = await verdict
            except Exception as error:  # noqa: BLE001 - authorize is the application's too
                self._count("authorize-failed")
                self._muffler.log(logging.ERROR, "authorize", "authorize failed for %s: %r", channel, error)
                continue
            if verdict is True:
                allowed.append(channel)
        return allowed
