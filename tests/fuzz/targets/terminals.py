"""Input of the command line: lines of standard input, URLs, and items to print."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from analytics_hub.cli.errors import CommandError
from analytics_hub.cli.publish import MAX_BYTES, MAX_ITEMS, MAX_LINE, LinePublisher
from analytics_hub.cli.rows import as_json, gap_row, row
from analytics_hub.client.decoding import JSON_CODEC
from analytics_hub.client.publisher import Outcome
from analytics_hub.client.target import Address
from analytics_hub.client.values import Gap, Item
from analytics_hub.contracts import Receipt
from analytics_hub.exceptions import InvalidItem

from ..strategies import json_of, like
from ..target import Target, cut


class _Source(io.RawIOBase):
    """Standard input, in portions."""

    def __init__(self, how: int, data: bytes) -> None:
        self._portions = cut(how, data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        portion = next(self._portions, b"")
        buffer[: len(portion)] = portion
        return len(portion)


_OUTCOMES: Final[tuple[Outcome, ...]] = (Receipt("e", 1), InvalidItem("no"), None)


def check_input(data: bytes) -> None:
    """The first byte selects how the rest is cut, and whether a channel is given. Each line is published or refused."""
    shown: list[str] = []
    messages: list[str] = []
    batches: list[int] = []

    def publish(items: Sequence[dict[str, Any]]) -> list[Outcome]:
        assert 0 < len(items) <= MAX_ITEMS
        body = msgspec.json.encode(items)
        assert len(items) == 1 or len(body) <= MAX_BYTES + 4096
        batches.append(len(items))
        return [_OUTCOMES[number % 3] for number in range(len(items))]

    how = data[0] if data else 0
    press = LinePublisher(publish, "c" if how & 0x80 else None, True, shown.append, messages.append)
    text = data[1:]
    try:
        press.run(io.BufferedReader(_Source(how & 0x7F, text)))
    except CommandError as error:
        assert len(text) > MAX_LINE, error
        return
    lines = [line for line in text.split(b"\n") if line.strip()]
    assert press.published + press.refused == len(lines)
    assert len(shown) == press.published
    assert sum(batches) <= len(lines)
    assert all(line.isprintable() for line in messages)
    assert all(len(line) <= 1024 for line in messages), max(map(len, messages))


def check_rows(data: bytes) -> None:
    """An item of a server is one line of a terminal, without control characters."""
    try:
        found = JSON_CODEC.data.decode(data)
        content = msgspec.json.decode(found.data)
    except (ValueError, RecursionError):
        return
    item = Item(found.channel, found.seq, found.type, found.timestamp, content, found.key, found.deleted)
    assert row(item).isprintable()
    raw = Item(found.channel, found.seq, found.type, found.timestamp, found.data, found.key, found.deleted)
    assert "\x1b" not in as_json(raw)
    assert gap_row(Gap(found.channel, found.seq, None, found.seq, found.type, found.timestamp)).isprintable()


def check_url(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        address = Address.parse(text)
    except ValueError as error:
        assert len(str(error)) <= 200
        return
    for place in (*address.sockets, *address.mounts):
        assert 0 < place.port < 65_536
        assert place.host
        assert place.host.isascii()
        assert place.resource.startswith("/"), place.resource
        assert place.authority.isascii()
        assert not set(" \r\n\t\0") & set(place.authority + place.resource), place
    if address.token and len(address.token) > 8 and text.count(address.token) == 1:
        assert address.token not in repr(address)


_ITEM: Final = {
    "channel": "alerts",
    "seq": 4,
    "type": "tick",
    "timestamp": "2026-01-19T10:30:45.160Z",
    "data": {"a": 1.5, "b": "x y", "c": [1, None], "d": "\x1b[2J"},
    "key": "k",
    "deleted": False,
}
INPUT: Final = Target(
    "input",
    check_input,
    samples=(
        b'\x0b{"channel":"a","data":1}\n{"channel":"a","data":{"b":2},"key":"k","type":"t"}\n\n{"channel":"a","deleted":true}',
        b'\x81{"a":1}\r\n[1,2]\n"text"\n' + b"7\n" * 120,
        b'\0{"channel":"a","data":"' + b"x" * 1500 + b'"}\n' + b'{"channel":"b"}\n' * 4,
    ),
    words=(
        *(b"\n", b"\r\n", b'{"channel":"a","data":1}\n', b'"deleted":true', b"\xff\n", b"[" * 1100, b"\x1b[2J"),
        b'"' + b"y" * 1100,
    ),
    longest=6000,
)
ROWS: Final = Target(
    "rows",
    check_rows,
    samples=(msgspec.json.encode(_ITEM),),
    words=(*rb'\u001b[2J \u202e \ud83d "key": "data": \n 1e308 "deleted":true'.split(), b"[" * 990),
    documents=json_of(like(_ITEM, (*_ITEM, "a", "\x1b", "\u2028"))),
    longest=3000,
)
URL: Final = Target(
    "url",
    check_url,
    samples=(
        b"ws://localhost:7999",
        b"wss://hub.example.com/ws/analytics?token=eyJhbGciOi&x=y#f",
        b"ws://[::1]:80/a%20b?c",
        "wss://user:pw@bücher.example:443/".encode(),
    ),
    words=(
        *b"ws:// wss:// : / // ? # @ [ ] [::1] :0 :65535 :65536 token= %00 %0d%0a \\ xn-- . .. [v1.a]".split(),
        *(b"\r\n", b"\xef\xbd\x97s", "℀".encode(), b"\xc2\xad", b"a" * 64),
    ),
    longest=600,
)

TARGETS: Final = (INPUT, ROWS, URL)
