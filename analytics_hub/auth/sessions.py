"""Authentication by a session of the host application: by what its middleware has put into the ASGI scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ..contracts import Authenticate, Handshake
from ..exceptions import AuthenticationError
from ..hooks import call_nested_hook
from ..identity import Identity

Identify = Callable[[Mapping[str, Any]], "Identity | Awaitable[Identity | None] | None"]
"""The identity of a user that is logged in, from `scope["session"]`, `scope["user"]` or a cookie; None for no user."""


class SessionAuthenticator:
    """An `authenticate` for `Hub` that accepts the session of the host application: `identify(scope)`.

    `otherwise`, an authenticator such as `JWTAuthenticator`, is called for peers that send a token or have no session.
    Without `otherwise` tokens are refused, except tickets, which the hub redeems itself. A session is read once, when a
    client connects: call `Hub.revoke` at logout, and give the identity an `expires` if the session has one. If the
    session is stored in its cookie alone, store in it when it began, and return that as the `issued` of the identity;
    then a revocation covers copies of the cookie too.
    """

    def __init__(self, identify: Identify, otherwise: Authenticate | None = None) -> None:
        self._identify = identify
        self._otherwise = otherwise

    async def __call__(self, handshake: Handshake) -> Identity:
        if handshake.token is None and handshake.scope is not None:
            identity = await call_nested_hook(self._identify, handshake.scope)
            if identity is not None:
                return identity
        if self._otherwise is not None:
            return await call_nested_hook(self._otherwise, handshake)
        raise AuthenticationError("missing" if handshake.token is None else "invalid", "no-session")

    async def run(self) -> None:
        """The background task of `otherwise`, if it has one. The hub runs it as long as it is open."""
        run = getattr(self._otherwise, "run", None)
        if run is not None:
            await run()
