"""What a transport can do and what it cannot, declared by each; the tests and a table in the docs are made from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """One transport, as a client meets it. The text with a field is its row in `docs/transports.md`."""

    transport: str = field(metadata={"row": ""})
    formats: tuple[str, ...] = field(metadata={"row": "formats"})
    has_handshake: bool = field(metadata={"row": "a token may come before the first message"})
    refuses_with_status: bool = field(metadata={"row": "who is not let in gets an HTTP status"})
    takes_commands: bool = field(metadata={"row": "commands go over the connection itself"})
    tells_binary: bool = field(metadata={"row": "binary messages are told from text"})
    shows_heartbeats: bool = field(metadata={"row": "the client's code sees heartbeats"})
    has_close_codes: bool = field(metadata={"row": "close codes (without, the last item is `$close`)"})
    feels_slowness: bool = field(metadata={"row": "the hub feels who does not read (without, only by `seen`)"})
    ends_silence: bool = field(metadata={"row": "pings tell a client that is silent from one that has gone"})
    compresses: str = field(metadata={"row": "who compresses frames"})


def render(all_abilities: Iterable[Abilities]) -> str:
    """A Markdown table with a column for each transport."""
    columns = sorted(all_abilities, key=lambda one: one.transport)
    rows = [[row.metadata["row"], *(_show(getattr(one, row.name)) for one in columns)] for row in fields(Abilities)]
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * (len(columns) + 1) + "|", *body])


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
