"""Runs targets: the same seed gives the same inputs, and what breaks is cut down to what matters."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from .mutator import Mutator
from .target import Target

BLOCK: Final = 2_000
"""Inputs that one seed gives in a row. Blocks know nothing of each other, so any can be repeated alone."""
SHRINKING: Final = 3_000
"""How many inputs are tried to make a failing one smaller."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that breaks something."""

    target: str
    data: bytes
    shrunk: bytes
    error: str

    def __str__(self) -> str:
        literal = repr(self.shrunk)
        return f"{self.target}: {self.error}\n    {literal}\n(as found: {len(self.data)} bytes)"


def inputs(target: Target, seed: int, block: int) -> Iterator[bytes]:
    """The inputs of one block."""
    mutator = Mutator(Random(f"{seed}/{target.name}/{block}"), target)
    for _ in range(BLOCK):
        yield mutator.next()


def run_block(target: Target, seed: int, block: int, most: int = BLOCK) -> Finding | None:
    """Feed `target` with at most `most` inputs of one block; the first one that breaks something ends it."""
    check = target.check
    for data, _ in zip(inputs(target, seed, block), range(most), strict=False):
        try:
            check(data)
        except Exception:  # noqa: BLE001 - this is what is looked for
            return examine(target, data)
    return None


def examine(target: Target, data: bytes) -> Finding | None:
    """What is wrong with an input, and a small one with which the same is wrong; None if nothing is."""
    place = fails(target, data)
    if place is None:
        return None
    small = shrink(target, data, place)
    return Finding(target.name, data, small, _explain(target, small))


def fails(target: Target, data: bytes) -> tuple[str, str, int] | None:
    """What kind of error an input causes, and where; None if none."""
    try:
        target.check(data)
    except Exception as error:  # noqa: BLE001 - as above
        last = traceback.extract_tb(error.__traceback__)[-1]
        return type(error).__name__, last.filename, last.lineno or 0
    return None


def shrink(target: Target, data: bytes, place: tuple[str, str, int]) -> bytes:
    """Without every piece that can be left out, large ones first."""
    tries = 0
    size = len(data)
    while size and tries < SHRINKING:
        at, is_smaller = 0, False
        while at < len(data) and tries < SHRINKING:
            shorter = data[:at] + data[at + size :]
            tries += 1
            if fails(target, shorter) == place:
                data, is_smaller = shorter, True
            else:
                at += size
        if not is_smaller or size > 1:
            size //= 2
    return data


def _explain(target: Target, data: bytes) -> str:
    try:
        target.check(data)
    except Exception as error:  # noqa: BLE001 - as above
        return "".join(traceback.format_exception(error, limit=-4, chain=False))
    return "it does not fail again"


def shares(targets: list[Target], total: int) -> dict[str, int]:
    """How many of `total` inputs are for which target."""
    whole = sum(target.share for target in targets)
    return {target.name: max(1, total * target.share // whole) for target in targets}
