"""The two clocks of a hub; tests pass their own (`analytics_hub.testing`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` paces everything and never goes back; `wall` is Unix time, for timestamps and expiry alone."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
