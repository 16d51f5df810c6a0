"""What all parts of an engine share."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from ..protocol import CommandId, control_item
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

    def control_item(self, type_: str, **fields: Any) -> bytes:
        """One encoded control item, with the current time."""
        return control_item(type_, self.current_time.stamp(), **fields)

    def answer(self, type_: str, id: CommandId, **fields: Any) -> bytes:
        """The same, with the id of the command that it answers, if that has one."""
        if id is not None:
            fields["id"] = id
        return self.control_item(type_, **fields)
