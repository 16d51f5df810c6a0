"""Who a peer is by a session of the host application: what its middleware has put into the ASGI scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ..contracts import Authenticate, Handshake
from ..exceptions import AuthenticationError
from ..hooks import call_hook
from ..identity import Identity

Identify = Callable[[Mapping[str, Any]], "Identity | Awaitable[Identity | None] | None"]
"""Who is logged in, by `scope["session"]`, `scope["user"]` or a cookie in `scope["headers"]`; None if nobody is."""


class SessionAuthenticator:
    """An `authenticate` for `Hub` that believes the session of the host application: `identify(scope)`.

    Whoever hands in a token is judged by `otherwise`, an authenticator such as `JWTAuthenticator`, whatever the
    session says; so is who has no session. Without `otherwise` tokens are refused, but for tickets, which are the hub's
    own. A session is looked at when a client connects: end its connections with `Hub.revoke` when somebody logs out,
    and give the identity an `expires` if the session has one. Where the session lives in a cookie alone, let it say
    when it began, as the `issued` of the identity: then a revocation holds for copies of the cookie too.
    """

    def __init__(self, identify: Identify, otherwise: Authenticate | None = None) -> None:
        self._identify = identify
        self._otherwise = otherwise

    async def __call__(self, handshake: Handshake) -> Identity:
        if handshake.token is None and handshake.scope is not None:
            identity = await call_hook(self._identify, handshake.scope)
            if identity is not None:
                return identity
        if self._otherwise is not None:
            return await call_hook(self._otherwise, handshake)
        raise AuthenticationError("missing" if handshake.token is None else "invalid", "no-session")

    async def run(self) -> None:
        """What `otherwise` does in the background, if anything. The hub runs it for as long as it lives."""
        run = getattr(self._otherwise, "run", None)
        if run is not None:
            await run()
