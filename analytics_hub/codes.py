"""The codes of the wire protocol: close codes, and the codes of `$error` (`docs/protocol.md` §5, §9)."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

ErrorCode = Literal[
    "bad-request",
    "unknown-action",
    "unknown-channel",
    "forbidden",
    "unauthenticated",
    "rate-limited",
    "too-many-subscriptions",
]


class CloseCode(IntEnum):
    """Why a connection ended, and thereby what a client may do next (`docs/protocol.md` §9)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    MALFORMED = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    TIMEOUT = 4408
    TOO_MANY_COMMANDS = 4429
    UNWRITABLE = 4503
