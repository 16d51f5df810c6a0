"""What the payload of one frame looks like: JSON, or MessagePack of the same items. Transports add their framing.

Channels keep their items as encoded JSON, which goes out as it is. MessagePack is transcoded from it, so that both
wires show the same values, and only when somebody speaks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from .commands import Parsed, parse_json, parse_msgpack
from .limits import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK

MEMO_BYTES: Final = 8 * 1024 * 1024
"""What the transcoded items that are remembered may take, the JSON they stand for included."""
_RECORD_BYTES: Final = 256  # of memory for each of them beyond its bytes
_BEARER: Final = "bearer."  # such a subprotocol is a token


class Format(Protocol):
    """What items and commands look like within one frame. Stateless for whoever uses it."""

    @property
    def name(self) -> str:
        """One word: a wire whose sessions must not share frames with those of another format has it in its name."""
        ...

    @property
    def subprotocol(self) -> str:
        """How a WebSocket client asks for it."""
        ...

    @property
    def is_binary(self) -> bool:
        """Whether frames are binary messages where a transport tells them from text."""
        ...

    def join(self, items: Sequence[bytes]) -> bytes:
        """The payload of one frame: an array of these encoded JSON items. Never raises."""
        ...

    def parse(self, data: str | bytes) -> list[Parsed]:
        """The commands of one client message, text as `str`; what is none becomes `Refused`. Never raises."""
        ...


class _JSON:
    name = "json"
    subprotocol = SUBPROTOCOL_JSON
    is_binary = False

    def join(self, items: Sequence[bytes]) -> bytes:
        return b"[%b]" % b",".join(items)

    def parse(self, data: str | bytes) -> list[Parsed]:
        return parse_json(data)


class _Msgpack:
    """Remembers what it transcoded last: each cohort frames the same items, and so does each client that catches up.

    Two generations: when the younger one is full the older one goes. Hubs in several threads may share it; at worst an
    item is transcoded twice.
    """

    name = "msgpack"
    subprotocol = SUBPROTOCOL_MSGPACK
    is_binary = True

    def __init__(self) -> None:
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._nbytes = 0  # of the younger generation

    def join(self, items: Sequence[bytes]) -> bytes:
        known = self._young.get
        return b"".join([_array_header(len(items)), *[known(item) or self._transcode(item) for item in items]])

    def parse(self, data: str | bytes) -> list[Parsed]:
        return parse_msgpack(data)

    def _transcode(self, item: bytes) -> bytes:
        packed = self._old.get(item) or transcode(item)
        self._young[item] = packed
        self._nbytes += len(item) + len(packed) + _RECORD_BYTES
        if self._nbytes > MEMO_BYTES // 2:
            self._old, self._young, self._nbytes = self._young, {}, 0
        return packed


JSON: Final[Format] = _JSON()
MSGPACK: Final[Format] = _Msgpack()

_FORMATS: Final = (JSON, MSGPACK)
SUBPROTOCOLS: Final = tuple(each.subprotocol for each in _FORMATS)


def choose_format(offered: Iterable[str]) -> Format | None:
    """The format of the first subprotocol among those `offered` that is known.

    JSON if none is offered (an entry `bearer.<token>` is no subprotocol), None if only unknown ones are.
    """
    names = [name for name in offered if not name.startswith(_BEARER)]
    for name in names:
        for each in _FORMATS:
            if name == each.subprotocol:
                return each
    return None if names else JSON


# --- from JSON to MessagePack -----------------------------------------------------------------------------------------

_pack: Final = msgspec.msgpack.Encoder().encode
_read: Final = msgspec.json.Decoder().decode

INVALID: Final = _pack({"type": "$invalid", "message": "an item that is not JSON"})
"""What stands for an item whose publisher has nested a `msgspec.Raw` that is no JSON; nothing better can be shown."""


def transcode(item: bytes) -> bytes:
    """One JSON value as MessagePack. Never raises.

    Integers that fit 64 bits stay integers. Every other number becomes the double that `JSON.parse` makes of it: the
    nearest, or an infinity.
    """
    try:
        return _pack(_read(item))
    except (ValueError, OverflowError, RecursionError):
        pass
    try:
        return _transcode_slowly(item)
    except ValueError:
        return INVALID


_TOKEN: Final = re.compile(
    rb'[ \t\r\n,:]*(?:(?P<open>[\[{])|(?P<close>[\]}])|(?P<text>"(?:[^"\\]|\\.)*")'
    rb"|(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)|(?P<word>true|false|null))[ \t\r\n]*"
)


class _Open(NamedTuple):
    """An array or a map that has not ended: where its header belongs, and how many values stood before it."""

    place: int
    is_map: bool
    before: int


def _transcode_slowly(item: bytes) -> bytes:
    """For what msgspec will not: numbers of any size and any depth, without recursion. Raises `ValueError`.

    Whether commas and colons stand where they must is not looked at: items were checked when they were published.
    """
    parts: list[bytes] = []
    stack: list[_Open] = []
    count = 0  # of the values in what was opened last
    at = 0
    while at < len(item):
        token = _TOKEN.match(item, at)
        if token is None:
            raise ValueError(f"no JSON at byte {at}")
        at = token.end()
        if stack and stack[-1].is_map and count % 2 == 0 and token.lastgroup not in ("text", "close"):
            raise ValueError("a key that is no text")
        if token.lastgroup == "open":
            stack.append(_Open(len(parts), token["open"] == b"{", count))
            parts.append(b"")
            count = 0
        elif token.lastgroup == "close":
            if not stack:
                raise ValueError("something is closed that was not opened")
            place, is_map, before = stack.pop()
            parts[place] = _map_header(count) if is_map else _array_header(count)
            count = before + 1
        else:
            parts.append(_leaf(token))
            count += 1
    if stack or count != 1:
        raise ValueError("not one value")
    return b"".join(parts)


def _leaf(token: re.Match[bytes]) -> bytes:
    if token.lastgroup != "number":
        return _pack(_read(token[token.lastgroup or 0]))
    number = token["number"]
    try:
        return _pack(int(number))
    except (ValueError, OverflowError):  # a fraction, more digits than Python reads, or more than 64 bits
        return _pack(float(number))


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count < 65536 else b"\xdd" + count.to_bytes(4, "big")


def _map_header(count: int) -> bytes:
    pairs, rest = divmod(count, 2)
    if rest:
        raise ValueError("a key without a value")
    if pairs < 16:
        return bytes([0x80 | pairs])
    return b"\xde" + pairs.to_bytes(2, "big") if pairs < 65536 else b"\xdf" + pairs.to_bytes(4, "big")
