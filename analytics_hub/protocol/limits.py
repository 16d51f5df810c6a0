"""The version, subprotocols and bounds of the wire protocol (`docs/protocol.md` §1)."""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
SUBPROTOCOL_JSON: Final = "analytics-hub.v1.json"
SUBPROTOCOL_MSGPACK: Final = "analytics-hub.v1.msgpack"

MAX_FRAME_BYTES: Final = 256 * 1024
"""What one server frame, and all frames of one write, may hold."""
MAX_COMMANDS: Final = 4096
"""In one frame: more than 64 KiB of the shortest. As much of anything else takes 5 to 10 µs for each two bytes."""
MAX_SEQ: Final = 2**53 - 1
"""JavaScript counts exactly up to here."""
