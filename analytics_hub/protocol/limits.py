"""The version, subprotocols and bounds of the wire protocol (`docs/protocol.md` §1)."""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
SUBPROTOCOL_JSON: Final = "analytics-hub.v1.json"
SUBPROTOCOL_MSGPACK: Final = "analytics-hub.v1.msgpack"

MAX_FRAME_BYTES: Final = 256 * 1024
"""The largest server frame, and the most that all frames of one write may have."""
MAX_COMMANDS: Final = 4096
"""Of one frame: more than fit into 64 KiB. It bounds the cost of arrays of other values, 5 to 10 µs for two bytes."""
MAX_SEQ: Final = 2**53 - 1
"""The largest integer up to which JavaScript is exact."""
