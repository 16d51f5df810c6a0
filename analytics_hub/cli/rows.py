"""Items and gaps as lines of text."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..client import Gap, Item
from ..client.text import printable

_TIME: Final = slice(11, 23)  # the time of day in 2026-01-19T10:30:45.160Z


def row(item: Item[Any]) -> str:
    """One data item on one line: time, channel, number, and the fields of its data as name=value."""
    content = f"{item.key} deleted" if item.deleted else _fields(item.data)
    line = f"{item.timestamp[_TIME]} {item.channel:<16} {item.seq:>7} {item.type:<16} {content}"
    return printable(line.rstrip())


def gap_row(gap: Gap) -> str:
    """A gap on one line, in the form of the rows between which it lies."""
    if gap.count is None:
        lost = "an unknown number of items"
    else:
        lost = f"{gap.count} item{'' if gap.count == 1 else 's'}"
        lost += "" if gap.first is None else f", {gap.first} to {gap.last}"
    return printable(f"{gap.timestamp[_TIME]} {gap.channel:<16} ------- gap: {lost} ({gap.reason})")


def as_json(value: Item[Any] | Gap) -> str:
    """An item as on the wire, with its data unchanged, or a gap as the `$gap` item."""
    fields: dict[str, Any]
    if isinstance(value, Gap):
        fields = {
            "type": "$gap",
            "timestamp": value.timestamp,
            "channel": value.channel,
            "from": value.first,
            "to": value.last,
            "count": value.count,
            "reason": value.reason,
            **({} if value.epochs is None else {"epoch": value.epochs}),
        }
    else:
        fields = {
            "channel": value.channel,
            "seq": value.seq,
            **({} if value.key is None else {"key": value.key}),
            "type": value.type,
            "timestamp": value.timestamp,
            "data": value.data,
            **({"deleted": True} if value.deleted else {}),
        }
    return msgspec.json.encode(fields).decode()


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
