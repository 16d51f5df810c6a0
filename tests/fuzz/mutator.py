"""Bytes that are nearly right: samples, mutated by what breaks parsers. The same seed gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from .target import Target, Trees
from .trees import mutate

POOL: Final = 48
"""Mutants kept beside the samples, to be mutated further."""

_BOUNDARIES: Final = (-1, 0, 1, 2, 9, 64, 127, 128, 255, 256, 999, 1000, 1001, 4095, 4096, 65_535, 65_536)
NUMBERS: Final = (
    *(b"%d" % number for number in _BOUNDARIES),
    *(b"%d" % (2**bits + off) for bits in (14, 31, 32, 53, 63, 64) for off in (-1, 0, 1)),
    *(
        b"-0",
        b"00",
        b"1e3",
        b"1e308",
        b"1e309",
        b"1e-400",
        b"0.1",
        b"5e-324",
        b"NaN",
        b"Infinity",
        b"0x10",
        b"+1",
        b"1_0",
    ),
    b"9" * 25,
    b"9" * 400,
)
_SIZES: Final = (1, 2, 4, 8)
_VALUES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31, 2**32 - 1, 2**63, 2**63 - 1, 2**64 - 1)
BINARY_NUMBERS: Final = (
    *(value.to_bytes(size, "big") for size in _SIZES for value in _VALUES if value < 1 << 8 * size),
    *(value.to_bytes(size, "little") for size in _SIZES[1:] for value in _VALUES if 0xFF < value < 1 << 8 * size),
)
ODD: Final = (
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\t",
    b" ",
    b"\x7f",
    b"\x85",
    b"\xa0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",  # a surrogate
    b"\xc0\xaf",  # longer than it need be
    b"\xf4\x90\x80\x80",  # beyond Unicode
    "é".encode(),
    "€".encode(),
    "😀".encode(),
    "\u202e\u2028".encode(),
    b"\x1b[2J",
    b"%00",
    b"%",
    b"%ff",
    b"%25",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\\",
)
BRACKETS: Final = (
    (b"[", b"]"),
    (b"{", b"}"),
    (b'{"a":', b"}"),
    (b"(", b")"),
    (b'"', b'"'),
    (b"\x91", b""),
    (b"\x81\xa1a", b""),
)


class Mutator:
    """Endless inputs for `target`."""

    def __init__(self, random: Random, target: Target) -> None:
        self._chance = random.random
        self._samples = target.samples
        self._words = target.words or ODD
        self._trees = target.trees
        self._longest = target.longest
        self._pool: list[bytes] = []
        self._operations: tuple[Callable[[bytearray], None], ...] = (
            *(self._flip, self._flip, self._set, self._remove, self._remove, self._insert_word, self._insert_word),
            *(self._insert_word, self._insert_noise, self._overwrite, self._copy, self._repeat, self._number),
            *(self._number, self._binary_number, self._truncate, self._splice, self._splice, self._swap, self._nest),
            self._recase,
        )

    def next(self) -> bytes:
        chance = self._chance
        if self._trees is not None and chance() < 0.6:
            data = bytearray(self._tree(self._trees))
            if chance() < 0.8:
                return bytes(data[: self._longest])
        else:
            data = bytearray(self._any())
        while True:
            self._operations[int(chance() * len(self._operations))](data)
            if chance() < 0.45:
                break
        del data[self._longest :]
        mutant = bytes(data)
        if chance() < 0.1:
            if len(self._pool) < POOL:
                self._pool.append(mutant)
            else:
                self._pool[int(chance() * POOL)] = mutant
        return mutant

    # --- choosing

    def _below(self, limit: int) -> int:
        return int(self._chance() * limit)

    def _any(self) -> bytes:
        if self._pool and self._chance() < 0.5:
            return self._pool[self._below(len(self._pool))]
        return self._samples[self._below(len(self._samples))]

    def _word(self) -> bytes:
        words = self._words if self._chance() < 0.6 else ODD
        return words[self._below(len(words))]

    def _tree(self, trees: Trees) -> bytes:
        values = trees.values
        value = mutate(self._chance, values[self._below(len(values))], values, trees.words)
        try:
            return trees.pack(value)
        except (ValueError, TypeError, OverflowError, RecursionError):
            return self._any()

    def _span(self, data: bytearray) -> slice:
        """A piece of `data`, mostly a short one."""
        start = self._below(len(data) + 1)
        most = len(data) - start if self._chance() < 0.2 else min(16, len(data) - start)
        return slice(start, start + self._below(most + 1))

    # --- what may happen to an input

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._below(len(data))] ^= 1 << self._below(8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._below(len(data))] = self._below(256)

    def _remove(self, data: bytearray) -> None:
        del data[self._span(data)]

    def _insert_word(self, data: bytearray) -> None:
        at = self._below(len(data) + 1)
        data[at:at] = self._word()

    def _insert_noise(self, data: bytearray) -> None:
        at = self._below(len(data) + 1)
        data[at:at] = bytes(self._below(256) for _ in range(1 + self._below(8)))

    def _overwrite(self, data: bytearray) -> None:
        word = self._word()
        at = self._below(len(data) + 1)
        data[at : at + len(word)] = word

    def _copy(self, data: bytearray) -> None:
        at = self._below(len(data) + 1)
        data[at:at] = data[self._span(data)]

    def _repeat(self, data: bytearray) -> None:
        piece = self._span(data)
        length = piece.stop - piece.start
        if length:
            most = 1 << self._below(14)
            data[piece] = data[piece] * max(2, min(most, self._longest // length))

    def _number(self, data: bytearray) -> None:
        """Another number where one stands in digits, or anywhere."""
        start = self._below(len(data) + 1)
        while start < len(data) and not 48 <= data[start] <= 57:
            start += 1
        end = start
        while end < len(data) and 48 <= data[end] <= 57:
            end += 1
        data[start:end] = NUMBERS[self._below(len(NUMBERS))]

    def _binary_number(self, data: bytearray) -> None:
        number = BINARY_NUMBERS[self._below(len(BINARY_NUMBERS))]
        at = self._below(len(data) + 1)
        data[at : at + len(number)] = number

    def _truncate(self, data: bytearray) -> None:
        del data[self._below(len(data) + 1) :]

    def _splice(self, data: bytearray) -> None:
        """A piece of another input, in the place of one of this."""
        other = bytearray(self._any())
        data[self._span(data)] = other[self._span(other)]

    def _swap(self, data: bytearray) -> None:
        piece = self._span(data)
        moved = data[piece]
        del data[piece]
        at = self._below(len(data) + 1)
        data[at:at] = moved

    def _nest(self, data: bytearray) -> None:
        before, after = BRACKETS[self._below(len(BRACKETS))]
        piece = self._span(data)
        depth = 1 << self._below(13)
        depth = min(depth, self._longest // len(before))
        data[piece] = before * depth + data[piece] + after * (depth if self._chance() < 0.7 else 0)

    def _recase(self, data: bytearray) -> None:
        piece = self._span(data)
        data[piece] = data[piece].swapcase()
