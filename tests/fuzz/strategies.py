"""Hypothesis strategies for inputs that are almost valid, which all targets share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from hypothesis import HealthCheck
from hypothesis import strategies as st

LARGE_INPUTS: Final = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
"""Health checks that fail for large inputs, which are intended here."""

Values = st.SearchStrategy[Any]
Inputs = st.SearchStrategy[bytes]

_BOUNDARIES: Final = (
    *(0, 1, 9, 64, 127, 128, 255, 256, 999, 1000, 1001, 4096, 65_535, 65_536),
    *(2**bits + off for bits in (31, 32, 53, 63, 64) for off in (-1, 0, 1)),
)
NUMBER: Final = st.sampled_from([*_BOUNDARIES, *(-number for number in _BOUNDARIES)]) | st.integers(-1, 2**64)
LONG: Final = st.sampled_from(["x" * 129, "x" * 256, "a" * 2000])
TEXT: Final = st.text(max_size=40) | st.sampled_from(["", "$", "*", "\x1b[2J", "\u202e"]) | LONG
LEAF: Final = st.none() | st.booleans() | NUMBER | st.floats() | TEXT
VALUE: Final = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
DEEP: Final = st.builds(lambda depth, pair: pair[0] * depth + b"1" + pair[1] * depth,
    st.sampled_from([30, 31, 60, 61, 100, 900, 1100]), st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]))  # fmt: skip
"""JSON that is nested about as deep as parsers allow."""

_NOISE: Final = (
    *(b"", b"\0", b"\n", b"\r\n", b"\r\n\r\n", b"\t", b" ", b"\x7f", b"\x85", b"\xa0", b"\xff", b"\xef\xbb\xbf"),
    *(b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"),  # a surrogate, an overlong form, beyond Unicode
    *("é".encode(), "€".encode(), "😀".encode(), "\u202e\u2028".encode(), b"\x1b[2J"),
    *(b"%00", b"%", b"%ff", b"%25", b'"', b"\\u0000", b"\\ud800", b"\\"),
    *(b"-0", b"00", b"1e308", b"1e309", b"1e-400", b"NaN", b"Infinity", b"0x10", b"+1", b"1_0", b"9" * 25, b"9" * 400),
    *(b"%d" % number for number in _BOUNDARIES),
)
_SELDOM: Final = st.integers(0, 7).map(lambda number: number == 7)


def edited(samples: Sequence[bytes], words: Sequence[bytes], longest: int) -> Inputs:
    """One of `samples`, in which up to four spans are replaced by words, noise, or spans of other samples."""
    sample = st.sampled_from(samples)
    place = st.integers(0, longest)
    length = st.integers(0, 8) | st.integers(0, 64) | place
    word = st.sampled_from([*words, *_NOISE]) | st.binary(max_size=8)
    repeated = st.builds(lambda piece, times: piece * times, word, st.integers(2, 9) | st.integers(2, longest))
    span = st.builds(lambda whole, start, size: whole[start % (len(whole) + 1) :][:size], sample, place, length)
    edits = st.lists(st.tuples(place, length, word | span | repeated), max_size=4)

    def apply(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
        for start, removed, piece in edits:
            at = start % (len(data) + 1)
            data = data[:at] + piece[: longest - at] + data[at + removed :]
        return data[:longest]

    return st.builds(apply, sample, edits)


@st.composite
def like(draw: st.DrawFn, value: Any, names: Sequence[str] = ()) -> Any:
    """A copy of `value` in which a few parts are left out, repeated or replaced, and fields of `names` are added."""
    other = st.sampled_from(names) | LEAF | VALUE if names else LEAF | VALUE

    def copy(part: Any) -> Any:
        if draw(_SELDOM):
            return draw(other)
        if isinstance(part, dict):
            fields = {name: copy(each) for name, each in part.items() if not draw(_SELDOM)}
            if draw(_SELDOM) and names:
                fields[draw(st.sampled_from(names))] = draw(other)
            return fields
        if isinstance(part, list):
            kept = [copy(each) for each in part if not draw(_SELDOM)]
            return kept * draw(st.integers(2, 99)) if draw(_SELDOM) else kept
        return part

    return copy(value)


def alike(values: Sequence[Any], names: Sequence[str] = ()) -> Values:
    """`like` one of `values`."""
    return st.one_of([like(value, names) for value in values])


def packed(values: Values, pack: Callable[[Any], bytes]) -> Inputs:
    """`values` as `pack` encodes them; empty where it cannot."""

    def try_to_pack(value: Any) -> bytes:
        try:
            return pack(value)
        except (ValueError, OverflowError, TypeError, RecursionError):  # 65 bits, half a surrogate
            return b""

    return values.map(try_to_pack)


def json_of(values: Values) -> Inputs:
    return packed(values, msgspec.json.encode)


def msgpack_of(values: Values) -> Inputs:
    return packed(values, msgspec.msgpack.encode)


def joined(parts: Inputs, separator: bytes = b"", *, most: int = 8) -> Inputs:
    return st.lists(parts, max_size=most).map(separator.join)


def prefixed(first: st.SearchStrategy[int] | int, rest: Inputs) -> Inputs:
    """`rest` after a byte that selects how the target reads it."""
    byte = st.just(first) if isinstance(first, int) else first
    return st.builds(lambda value, data: bytes([value]) + data, byte, rest)
