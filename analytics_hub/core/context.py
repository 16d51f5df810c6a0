"""What all parts of an engine share."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from ..tuning import Tuning
from .current_time import CurrentTime
from .events import Event
from .registry import ChannelRegistry


class Context:
    """The settings, the time, the channels, the counters, and the events for the driver."""

    __slots__ = ("counters", "current_time", "emit", "events", "registry", "tuning")

    def __init__(self, tuning: Tuning, registry: ChannelRegistry) -> None:
        self.tuning: Final = tuning
        self.registry: Final = registry
        self.current_time: Final = CurrentTime()
        self.counters: Final[Counter[str]] = Counter()
        self.events: Final[deque[Event]] = deque()
        self.emit: Final[Callable[[Event], None]] = self.events.append
