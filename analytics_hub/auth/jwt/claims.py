"""The claims of a token."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from ...channels import check_name
from ...exceptions import InvalidChannel

MAX_TEXT: Final = 255

# The year 9999. This refuses a common mistake, `exp` in milliseconds: a token for fifty thousand years.
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]


class Claims(msgspec.Struct):
    """The claims that are used; a token in which one of them has another form is invalid."""

    sub: str
    exp: _Seconds
    nbf: _Seconds | None = None
    iat: _Seconds | None = None
    iss: str | None = None
    aud: str | list[str] | None = None
    role: str | None = None
    roles: list[str] | None = None
    account: str | None = None
    jti: str | None = None
    channels: list[str] | None = None

    def all_roles(self) -> frozenset[str]:
        return frozenset([*(self.roles or ()), *(() if self.role is None else (self.role,))])

    def is_well_formed(self) -> bool:
        """Whether every text is printable, for an operator's log, and every channel is a name or a pattern."""
        texts = [self.sub, *self.all_roles(), *(text for text in (self.account, self.jti) if text is not None)]
        return all(0 < len(text) <= MAX_TEXT and text.isprintable() for text in texts) and all(
            map(_is_channel, self.channels or ())
        )


def _is_channel(name: str) -> bool:
    try:
        return name == "*" or bool(check_name(name.removesuffix("*")))
    except InvalidChannel:
        return False
