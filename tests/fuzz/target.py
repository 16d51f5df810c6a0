"""The fuzzed parsers: what each must do with any bytes, and inputs to start from."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from hypothesis import strategies as st

from .strategies import Inputs, edited

T = TypeVar("T")

PIECES: Final = 96
_MULTIPLIER: Final = 6364136223846793005  # of a linear congruential generator; `random.Random` takes 5 µs to seed
_INCREMENT: Final = 1442695040888963407


@dataclass(frozen=True, slots=True)
class Target:
    """`check` raises for an input that breaks the parser, and for nothing else.

    `samples` are inputs that reach most of the parser, `words` are what its inputs are made of, `documents` are inputs
    that are well-formed for the most part, for formats that a changed byte mostly breaks. Edited samples grow to
    `longest` bytes.
    """

    name: str
    check: Callable[[bytes], None]
    samples: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    documents: Inputs | None = None
    longest: int = 2048

    @property
    def inputs(self) -> Inputs:
        mutants = edited(self.samples, self.words, self.longest)
        return mutants if self.documents is None else st.one_of(mutants, self.documents)


def cut(how: int, data: bytes) -> Iterator[bytes]:
    """`data` in portions, as a socket may return it: whole, byte by byte, or in pieces of sizes that `how` seeds.

    After `PIECES` portions the sizes grow, so that long inputs stay cheap.
    """
    if how == 0 or len(data) < 2:
        yield data
        return
    at, count, state = 0, 0, how
    while at < len(data):
        state = (state * _MULTIPLIER + _INCREMENT) & 0xFFFF_FFFF_FFFF_FFFF
        size = 1 if how == 1 else 1 + (state >> 40) % (4 << (how & 7))
        count += 1
        if count > PIECES:
            size += (len(data) - at) // 4
        yield data[at : at + size]
        at += size


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise AssertionError("the coroutine suspended")
