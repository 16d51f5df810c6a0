"""What each transport can do, for the tests and for the table in `docs/transports.md`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """One transport from the view of a client. The text of a field is its row in the table."""

    transport: str = field(metadata={"row": ""})
    formats: tuple[str, ...] = field(metadata={"row": "formats"})
    has_handshake: bool = field(metadata={"row": "a token may come before the first message"})
    refuses_with_status: bool = field(metadata={"row": "a refused client gets an HTTP status"})
    has_commands: bool = field(metadata={"row": "commands are sent over the connection itself"})
    has_binary: bool = field(metadata={"row": "binary messages are distinguished from text"})
    shows_heartbeats: bool = field(metadata={"row": "the client's code sees heartbeats"})
    has_close_codes: bool = field(metadata={"row": "close codes (otherwise the last item is `$close`)"})
    detects_congestion: bool = field(
        metadata={"row": "the hub notices a client that does not read (otherwise only by `seen`)"}
    )
    detects_silence: bool = field(metadata={"row": "pings distinguish a silent client from a dead one"})
    compression: str = field(metadata={"row": "compression"})


MEMORY: Final = Abilities(
    transport="memory",
    formats=("JSON",),
    has_handshake=True,
    refuses_with_status=False,
    has_commands=True,
    has_binary=True,
    shows_heartbeats=False,
    has_close_codes=True,
    detects_congestion=True,
    detects_silence=False,
    compression="none",
)
WEBSOCKET: Final = Abilities(
    transport="websocket",
    formats=("JSON", "MessagePack"),
    has_handshake=True,
    refuses_with_status=True,
    has_commands=True,
    has_binary=True,
    shows_heartbeats=True,
    has_close_codes=True,
    detects_congestion=True,
    detects_silence=True,
    compression="by the hub, if enabled",
)
TCP: Final = Abilities(
    transport="tcp",
    formats=("JSON",),
    has_handshake=False,
    refuses_with_status=False,
    has_commands=True,
    has_binary=False,
    shows_heartbeats=True,
    has_close_codes=False,
    detects_congestion=True,
    detects_silence=False,
    compression="none",
)
SSE: Final = Abilities(
    transport="sse",
    formats=("JSON",),
    has_handshake=True,
    refuses_with_status=True,
    has_commands=False,
    has_binary=False,
    shows_heartbeats=False,
    has_close_codes=False,
    detects_congestion=True,
    detects_silence=False,
    compression="none",
)
ASGI: Final = Abilities(
    transport="asgi",
    formats=("JSON", "MessagePack"),
    has_handshake=True,
    refuses_with_status=True,
    has_commands=True,
    has_binary=True,
    shows_heartbeats=True,
    has_close_codes=True,
    detects_congestion=False,
    detects_silence=False,
    compression="by the server, for each client",
)


def render() -> str:
    """A Markdown table with a column for each transport."""
    columns = (ASGI, MEMORY, SSE, TCP, WEBSOCKET)
    rows = [
        [row.metadata["row"], *(_show(getattr(column, row.name)) for column in columns)] for row in fields(Abilities)
    ]
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * (len(columns) + 1) + "|", *body])


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
