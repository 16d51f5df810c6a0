"""Logging that a flood of peers' mistakes cannot flood."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from typing import Final

logger: Final = logging.getLogger("analytics_hub")
logger.addHandler(logging.NullHandler())


def shout(message: str) -> None:
    """Log a mistake of whoever wrote the application; on stderr if nobody has set up logging.

    Servers set up their own loggers and not the root, and our `NullHandler` switches off the last resort of `logging`.
    """
    logger.error(message)
    place: logging.Logger | None = logger
    while place is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in place.handlers):
            return
        place = place.parent if place.propagate else None
    sys.stderr.write(f"analytics_hub: {message}\n")


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

    def fault(self, kind: str, error: BaseException) -> None:
        """Log an exception that ended one connection, without its message, which may quote the peer."""
        frames = "".join(traceback.format_tb(error.__traceback__))
        self.log(logging.DEBUG, kind, "%s: %s\n%s", kind, type(error).__name__, frames)
