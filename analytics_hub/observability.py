"""Logging that a flood of peers' mistakes cannot flood."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

logger: Final = logging.getLogger("analytics_hub")
logger.addHandler(logging.NullHandler())


class Muffler:
    """At most one line a second for each kind of message; the next one says how many were left out."""

    def __init__(self, clock: Callable[[], float], every: float = 1.0) -> None:
        self._clock = clock
        self._every = every
        self._kinds: dict[str, tuple[float, int]] = {}

    def log(self, level: int, kind: str, message: str, *args: object) -> None:
        """Log `message`; `kind` is one of few, never made of what a peer sent."""
        now = self._clock()
        last, muffled = self._kinds.get(kind, (float("-inf"), 0))
        if now - last < self._every:
            self._kinds[kind] = (last, muffled + 1)
            return
        self._kinds[kind] = (now, 0)
        if muffled:
            message += " (and %d more like it)"
            args = (*args, muffled)
        logger.log(level, message, *args)
