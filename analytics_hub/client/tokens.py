"""Where a client has its tokens from: a text, or a function that gives out fresh ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ..hooks import call_hook
from .target import check_token

Token: TypeAlias = str | Callable[[], str | Awaitable[str | None] | None] | None


class TokenSource:
    """Asked before each connection, and when a token is about to expire."""

    def __init__(self, token: Token) -> None:
        self._token = token
        self.used: str | None = None
        """What the server was shown last."""
        self.opened: str | None = None
        """What the connection was opened with. If the server ends it for its token, that one was at fault: a fresher
        one may have been on its way, or the server could not check it just then."""

    @property
    def is_renewable(self) -> bool:
        return callable(self._token)

    async def ask(self) -> str | None:
        """A token, fresh if there is a function for it; raises what that raises."""
        token = await call_hook(self._token) if callable(self._token) else self._token
        return None if token is None else check_token(token)
