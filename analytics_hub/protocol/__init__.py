"""The wire protocol (`docs/protocol.md`): commands, control items, data items, formats and codes. Pure functions."""

from ..codes import CloseCode, ErrorCode
from .commands import (
    Auth,
    Command,
    CommandId,
    InvalidCommand,
    Parsed,
    Ping,
    Position,
    Seen,
    Selection,
    Subscribe,
    Unsubscribe,
    parse_json,
    parse_msgpack,
)
from .control_items import Timestamps, control_item, encode, name_in_error
from .limits import MAX_COMMANDS, MAX_FRAME_BYTES, MAX_SEQ, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK, VERSION

__all__ = [
    "MAX_COMMANDS",
    "MAX_FRAME_BYTES",
    "MAX_SEQ",
    "SUBPROTOCOL_JSON",
    "SUBPROTOCOL_MSGPACK",
    "VERSION",
    "Auth",
    "CloseCode",
    "Command",
    "CommandId",
    "ErrorCode",
    "InvalidCommand",
    "Parsed",
    "Ping",
    "Position",
    "Seen",
    "Selection",
    "Subscribe",
    "Timestamps",
    "Unsubscribe",
    "control_item",
    "encode",
    "name_in_error",
    "parse_json",
    "parse_msgpack",
]
