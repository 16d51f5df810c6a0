"""Items as lines for a terminal."""

from __future__ import annotations

from typing import Any, Final

import msgspec

_TIME: Final = slice(11, 23)  # the time of day in 2026-01-19T10:30:45.160Z


class Item(msgspec.Struct):
    """Any item, data or control, as far as a follower looks at it."""

    type: str
    timestamp: str = ""
    channel: str = ""
    seq: int = 0
    key: str | None = None
    deleted: bool = False
    data: Any = None


def row(item: Item) -> str:
    """One data item on one line: time, channel, number, and the fields of its data as name=value."""
    content = f"{item.key} deleted" if item.deleted else _fields(item.data)
    line = f"{item.timestamp[_TIME]} {item.channel:<16} {item.seq:>7} {item.type:<16} {content}"
    return printable(line.rstrip())


def gap_row(timestamp: str, channel: str, first: int | None, last: int | None, count: int | None, reason: str) -> str:
    """What was lost, among the rows where it is missing."""
    if count is None:
        lost = "some items, nobody knows how many"
    else:
        lost = f"{count} item{'' if count == 1 else 's'}" + ("" if first is None else f", {first} to {last}")
    return printable(f"{timestamp[_TIME]} {channel:<16} ------- gap: {lost} ({reason})")


def printable(text: str) -> str:
    """`text` with everything escaped that a terminal could take for a command, and on one line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _fields(data: Any) -> str:
    if not isinstance(data, dict):
        return _value(data)
    return " ".join(f"{name}={_value(value)}" for name, value in data.items())


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value if value and " " not in value else msgspec.json.encode(value).decode()
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.2f}"
    return msgspec.json.encode(value).decode()
