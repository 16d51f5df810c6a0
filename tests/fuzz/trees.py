"""Values that are nearly right: mutated before they are encoded, so that what comes out is well-formed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

Place: TypeAlias = tuple[Any, Any]
"""A list or a dict, and where in it."""

LEAVES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 0.0, -0.0, 0.5, 1.0, 1e308, 5e-324, math.inf, -math.inf, math.nan),
    *(127, 128, 255, 256, 1000, 1001, 65_535, 65_536, 2**31, 2**32, 2**53 - 1, 2**53, 2**63 - 1, -(2**63), 2**64 - 1),
    *(
        "",
        " ",
        "a",
        "*",
        "$",
        "$hello",
        "x" * 127,
        "x" * 129,
        "x" * 256,
        "é" * 128,
        "\0",
        "\n",
        "\x1b[2J",
        "\u202e",
        "😀",
    ),
    *("null", "true", "1", "~", "!", "a~1~b", "../..", "a" * 2000, [], {}, [[]], [None], {"": ""}, {"a": {"a": []}}),
)
DEEP: Final = (10, 100, 900)


def mutate(chance: Callable[[], float], value: Any, donors: Sequence[Any], words: Sequence[str]) -> Any:
    """A changed copy of `value`. Parts come from `donors` as well, leaves and keys from `words`."""
    root = [copy.deepcopy(value)]
    while True:
        places = _places(root)
        first = 1 if len(places) > 1 and chance() < 0.95 else 0  # rarely the whole
        box, key = places[first + int(chance() * (len(places) - first))]
        kind = int(chance() * 9)
        if kind <= 1:
            box[key] = copy.deepcopy(LEAVES[int(chance() * len(LEAVES))])
        elif kind == 2:
            box[key] = words[int(chance() * len(words))]
        elif kind == 3:
            box[key] = _part(chance, donors)
        elif kind == 4 and box is not root:
            del box[key]
        elif kind <= 6:
            _add(chance, box if box is not root else root[0], donors, words)
        elif kind == 7:
            box[key] = [box[key]] if chance() < 0.7 else {"a": box[key]}
        elif isinstance(box, dict):
            box[words[int(chance() * len(words))]] = box.pop(key)
        if chance() < 0.5:
            break
    if chance() < 0.005:
        box, key = root, 0
        for _ in range(DEEP[int(chance() * len(DEEP))]):
            box[key] = [box[key]]
    return root[0]


def _part(chance: Callable[[], float], donors: Sequence[Any]) -> Any:
    places = _places([donors[int(chance() * len(donors))]])
    box, key = places[int(chance() * len(places))]
    return copy.deepcopy(box[key])


def _add(chance: Callable[[], float], box: Any, donors: Sequence[Any], words: Sequence[str]) -> None:
    part = _part(chance, donors)
    if isinstance(box, list):
        at = int(chance() * (len(box) + 1))
        is_leaf = not isinstance(part, list | dict)
        box[at:at] = [part] * (200 if is_leaf and chance() < 0.1 else 1)
    elif isinstance(box, dict):
        box[words[int(chance() * len(words))]] = part


def _places(root: list[Any]) -> list[Place]:
    places: list[Place] = []
    waiting: list[Any] = [root]
    while waiting:
        box = waiting.pop()
        for key in range(len(box)) if isinstance(box, list) else box:
            places.append((box, key))
            if isinstance(box[key], list | dict):
                waiting.append(box[key])
    return places
