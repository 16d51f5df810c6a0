"""The data of published items, in both formats."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from analytics_hub.client.decoding import JSON_CODEC, MSGPACK_CODEC
from analytics_hub.exceptions import InvalidItem
from analytics_hub.protocol.formats import INVALID, JSON, MSGPACK, transcode
from analytics_hub.protocol.items import MAX_NESTING, check_nesting, encode_data

from ..strategies import DEEP, VALUE, json_of
from ..target import Target

_LARGEST: Final = 2**64


def check_data(data: bytes) -> None:
    """Raw JSON that is accepted is JSON, on one line, that every client can read in both formats."""
    try:
        body = encode_data(msgspec.Raw(data))
    except InvalidItem as error:
        str(error).encode()
        return
    assert b"\n" not in body
    assert b"\r" not in body
    text = body.decode()
    assert _is_equal(json.loads(text, parse_int=_integer), json.loads(data, parse_int=_integer))
    _check_nesting(body, json.loads(text, parse_int=_integer))
    item = b'{"channel":"c","seq":1,"type":"t","data":%b}' % body
    (from_json,) = JSON_CODEC.decode_items(JSON.join([item]).decode())
    (from_msgpack,) = MSGPACK_CODEC.decode_items(MSGPACK.join([item]))
    packed = transcode(body)
    assert packed != INVALID
    assert bytes(from_json.data) == body  # type: ignore[union-attr]
    assert bytes(from_msgpack.data) == packed  # type: ignore[union-attr]
    assert _is_equal(msgspec.msgpack.decode(packed), json.loads(text, parse_int=_integer))


def _check_nesting(body: bytes, value: Any) -> None:
    """Items over HTTP are refused exactly when they are too deep, whatever brackets their texts contain."""
    depth, level = 0, [value]
    while level:
        below: list[Any] = []
        for each in level:
            below += each if isinstance(each, list) else each.values() if isinstance(each, dict) else ()
        depth += any(isinstance(each, list | dict) for each in level)
        level = below
    try:
        check_nesting(body)
    except InvalidItem:
        assert depth > MAX_NESTING, depth
    else:
        assert depth <= MAX_NESTING, depth


def check_transcoding(data: bytes) -> None:
    """Any bytes in the place of an item leave the frame around them readable."""
    packed = transcode(data)
    try:
        msgspec.msgpack.decode(packed, type=msgspec.Raw)
        readable = True
    except RecursionError:
        readable = True
    except ValueError:
        readable = False
    assert readable, f"not MessagePack: {packed!r}"
    try:
        msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return
    if packed == INVALID:
        assert data.count(b"[") + data.count(b"{") > 500, "nested too deeply to be packed"
        return
    assert _is_equal(msgspec.msgpack.decode(packed), json.loads(data, parse_int=_integer))


def _integer(digits: str) -> int | float:
    """Exact within 64 bits, and a float beyond, as in JavaScript."""
    if len(digits) > 40:
        return float(digits)
    number = int(digits)
    return number if -(2**63) <= number < _LARGEST else float(digits)


def _is_equal(one: Any, other: Any) -> bool:
    """Without recursion, because both may be nested deeply."""
    waiting = [(one, other)]
    while waiting:
        one, other = waiting.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            waiting += [(one[key], other[key]) for key in one]
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            waiting += zip(one, other, strict=True)
        elif isinstance(one, bool) != isinstance(other, bool) or one != other:
            return False
    return True


_SAMPLES: Final = (
    b'{"id":"x","price":1.2345,"size":100,"tags":["a","b",null,true],"nested":{"a":{"b":[1,2,3]}}}',
    b"[1,-2,3.5e10,18446744073709551615,-9223372036854775808,18446744073709551616,1e309,-0,-0.0,0.1]",
    '"añ€😀\\u00e9\\ud83d\\ude00\\n\\"\\\\"'.encode(),
    b' { "a" : [ ] ,\r\n "b" : { } } ',
    b"null",
    b"true",
    b"-12.5E-3",
    b'""',
    b'{"a":1,"a":2}',
)
_WORDS: Final = (
    *rb'{ } [ ] , : " \u \ud83d \ude00 null true false e E+ {"a": "a":1, [1, "\/" .5 NaN -Infinity'.split(),
    *b"18446744073709551616 -9223372036854775809 1e400 -1e-400".split(),
    *(b"\r\n", b" ", b"9" * 4400, b"[" * 990, b"0" * 50, b"\x1f", b"\x7f"),
)
_NESTED: Final = tuple(
    before * depth + b'"[]{}\\"[["' + after * depth
    for before, after in ((b"[", b"]"), (b'{"a":', b"}"), (b'[{"]":', b"}]"), (b'["]",', b',"["]'))
    for depth in (30, 31, 60, 61)
)
_VALUES: Final = json_of(VALUE) | DEEP
DATA: Final = Target("data", check_data, (*_SAMPLES, *_NESTED), _WORDS, _VALUES, longest=3000)
TRANSCODING: Final = Target("transcoding", check_transcoding, _SAMPLES, _WORDS, _VALUES, longest=3000)
TARGETS: Final = (DATA, TRANSCODING)
