"""The numbers and codes of the wire protocol (`docs/protocol.md`)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal

VERSION: Final = 1
SUBPROTOCOL_JSON: Final = "analytics-hub.v1.json"
SUBPROTOCOL_MSGPACK: Final = "analytics-hub.v1.msgpack"

MAX_FRAME_BYTES: Final = 256 * 1024
"""What one server frame, and all frames of one write, may hold."""
MAX_COMMANDS: Final = 4096
"""In one frame: more than 64 KiB of the shortest. As much of anything else takes 5 to 10 µs for each two bytes."""
MAX_SEQ: Final = 2**53 - 1
"""JavaScript counts exactly up to here."""

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
    """Why a connection ended, and by that what a client may do next (`docs/protocol.md` §9)."""

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
