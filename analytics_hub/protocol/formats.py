"""The payload of one frame: JSON, or MessagePack of the same items. Transports add their framing.

Channels keep their items as encoded JSON, which is sent as it is. MessagePack is transcoded from it, so that both
formats show the same values, and only while a client uses it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from .commands import Parsed, parse_json, parse_msgpack
from .limits import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK

MEMO_BYTES: Final = 8 * 1024 * 1024
"""The size of the cache of transcoded items, the JSON that they were made of included."""
_RECORD_BYTES: Final = 256  # of memory for each entry beyond its bytes
_BEARER: Final = "bearer."  # such a subprotocol is a token


class Format(Protocol):
    """How items and commands are written within one frame. Stateless for its users."""

    @property
    def name(self) -> str:
        """One word. It is part of the names of wires, so that sessions of two formats never share frames."""
        ...

    @property
    def subprotocol(self) -> str:
        """The subprotocol with which a WebSocket client requests it."""
        ...

    @property
    def is_binary(self) -> bool:
        """Whether frames are binary messages, where a transport distinguishes them from text."""
        ...

    def join(self, items: Sequence[bytes]) -> bytes:
        """The payload of one frame: an array of these encoded JSON items. Never raises."""
        ...

    def parse(self, data: str | bytes) -> list[Parsed]:
        """The commands of one client message, text as `str`; an invalid one becomes `InvalidCommand`. Never raises."""
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
    """Caches transcoded items: each cohort frames the same ones, and so does each client that catches up.

    Two generations: when the younger one is full the older one is dropped. Hubs in several threads may share it; at
    worst an item is transcoded twice.
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

    JSON if none is offered (an entry `bearer.<token>` is not a subprotocol), None if only unknown ones are.
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

INVALID: Final = _pack({"type": "$invalid", "message": "an item that cannot be read as JSON"})
"""Replaces an item that msgspec cannot read: only a `msgspec.Raw` within other data is published without a check."""


def transcode(item: bytes) -> bytes:
    """One JSON value as MessagePack; `INVALID` if msgspec cannot read it. Never raises.

    Integers that fit 64 bits stay integers. Every other number becomes the double that `JSON.parse` makes of it: the
    nearest, or an infinity.
    """
    try:
        value = _read(item)
        try:
            return _pack(value)
        except OverflowError:
            return _pack(_round_integers(value))
    except (ValueError, RecursionError):
        return INVALID


def _round_integers(value: Any) -> Any:
    """`value` with doubles in place of the integers that exceed 64 bits. Without recursion: Python's limit is lower."""
    root = [value]
    containers: list[Any] = [root]
    while containers:
        container = containers.pop()
        for key, part in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(part, list | dict):
                containers.append(part)
            elif isinstance(part, int) and not -(2**63) <= part < 2**64:
                container[key] = _round(part)
    return root[0]


def _round(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count < 65536 else b"\xdd" + count.to_bytes(4, "big")
