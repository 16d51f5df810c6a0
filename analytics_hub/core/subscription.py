"""One session's part in a reader that its cohort shares."""

from __future__ import annotations

from .cohort import Reader
from .ledger import Ledger


class Subscription:
    """One session's part in a reader that its cohort shares.

    The reader's counters run since the reader began; `dropped` and `conflated` are what must be added to get this
    session's own. So a flush counts once for all members, and joining or leaving a cohort costs two subtractions.
    """

    __slots__ = ("conflated", "dropped", "max_hz", "start")

    def __init__(self, start: int, max_hz: float | None) -> None:
        self.start = start
        self.max_hz = max_hz
        self.dropped = 0
        self.conflated = 0

    def move(self, old: Reader, new: Reader) -> None:
        """Follow the session from one reader to another at the same position."""
        self.dropped += old.dropped - new.dropped
        self.conflated += old.conflated - new.conflated

    def ledger(self, reader: Reader, owed: int = 0) -> Ledger:
        """The counts now. `owed` items are taken from the log, but not yet written to this session."""
        log = reader.log
        lost = reader.lost
        pending = log.pending(reader.position, reader.is_fresh)
        superseded = log.head - reader.position - pending - lost
        dropped = self.dropped + reader.dropped
        conflated = self.conflated + reader.conflated
        waiting = len(reader.carry) + owed
        return Ledger(
            published=log.head - self.start,
            delivered=reader.position - self.start - dropped - conflated - waiting,
            conflated=conflated + superseded,
            dropped=dropped + lost,
            pending=pending + waiting,
        )
