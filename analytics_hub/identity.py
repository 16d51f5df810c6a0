"""The identity of a peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The result of `authenticate`.

    `expires` is Unix time in seconds, None for never. `channels`, when given, narrows what the roles allow to these
    names and patterns (`user:*`). `token_id` is the `jti` claim and `issued` the `iat` claim, Unix time in seconds, for
    revocation. An identity from a session of the host has no `issued`.
    """

    id: str
    roles: frozenset[str] = frozenset()
    expires: float | None = None
    account: str | None = None
    channels: tuple[str, ...] | None = None
    token_id: str | None = None
    issued: float | None = None


ANONYMOUS: Final = Identity(id="anonymous")
"""The one identity that many clients share, so that its connections are not counted."""
