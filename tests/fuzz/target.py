"""What is fuzzed: a parser, what must hold of it for any bytes, and something to begin with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

T = TypeVar("T")

PIECES: Final = 96
_MULTIPLIER: Final = 6364136223846793005  # of a linear congruential generator; `random.Random` takes 5 µs to seed
_INCREMENT: Final = 1442695040888963407


@dataclass(frozen=True, slots=True)
class Trees:
    """Values to mutate before `pack` encodes them, for parsers of formats that a mutated byte mostly breaks."""

    values: tuple[Any, ...]
    words: tuple[str, ...]
    pack: Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """`check` raises for an input that breaks something, and for nothing else.

    Inputs grow to `longest` bytes. `share` is how often its turn comes, compared with those of the other targets.
    """

    name: str
    check: Callable[[bytes], None]
    samples: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    trees: Trees | None = None
    longest: int = 2048
    share: int = 10


def cut(how: int, data: bytes) -> Iterator[bytes]:
    """`data` in portions, as a socket may give it: whole, byte by byte, or in pieces of sizes that `how` gives.

    Only at the beginning: what is left after `PIECES` comes in ever larger ones.
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
    """The result of a coroutine that never waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise AssertionError("this waits")
