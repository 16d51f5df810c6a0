"""The tokens of a client: one text, or a function that returns a fresh one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from ..hooks import call_hook
from .target import validate_token

Token: TypeAlias = str | Callable[[], str | Awaitable[str | None] | None] | None


class TokenSource:
    """Returns a token before each connection, and when the current one is about to expire."""

    def __init__(self, token: Token, sent_in: Literal["header", "message"]) -> None:
        self._token = token
        self.sent_in: Literal["header", "message"] = sent_in
        self.last_sent: str | None = None
        """The token that the server got last."""
        self.opened_with: str | None = None
        """The token that the connection was opened with. If the server closes the connection because of its token, that
        one was rejected: a newer one may have been on its way, or could not be checked at the time."""

    @property
    def is_renewable(self) -> bool:
        return callable(self._token)

    async def get(self) -> str | None:
        """A token, fresh if there is a function for it; raises what the function raises."""
        token = await call_hook(self._token) if callable(self._token) else self._token
        return None if token is None else validate_token(token)
