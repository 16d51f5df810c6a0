"""Between the engine's durable channels and the journal that the application chose."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from ..contracts import Journal
from ..core.engine import Engine
from ..core.events import Append, Read
from ..exceptions import JournalError
from ..hooks import ask
from ..telemetry import ThrottledLogger


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a confirmed item stands in its channel."""

    epoch: str
    seq: int


class Waiter:
    """Somebody waits for the journal to have an item."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._outcome: Receipt | JournalError | None = None

    def settle(self, outcome: Receipt | JournalError) -> None:
        self._outcome = outcome
        self._done.set()

    async def wait(self) -> Receipt:
        """Where the item stands; raises `JournalError` if the journal refused it."""
        await self._done.wait()
        if isinstance(self._outcome, JournalError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome


class JournalWriter:
    """Carries batches and reads to the journal, and its answers back; whatever the journal raises stays here."""

    def __init__(self, engine: Engine, journal: Journal, tick: Callable[[], float], muffler: ThrottledLogger) -> None:
        self._engine = engine
        self._journal = journal
        self._tick = tick
        self._muffler = muffler
        self.waiters: set[Waiter] = set()

    async def open(self) -> None:
        """Let every durable channel go on where its journal stands."""
        for name, log in list(self._engine.registry.logs.items()):
            if log.channel.mode == "durable":
                state = await self._journal.open(name, log.epoch)
                self._engine.restore(name, state.epoch, state.oldest, state.head)

    async def append(self, event: Append) -> None:
        waiters = [draft.waiter for draft in event.drafts]
        outcomes: list[Receipt | JournalError]
        try:
            oldest = await ask(self._journal.append, event.channel, event.first, event.items)
        except Exception as error:  # noqa: BLE001 - the journal is the application's: whatever it raises, nothing was kept
            self._engine.rejected(event.channel)
            self._complain("refused %d items of", len(event.items), event.channel, error)
            failure = error if isinstance(error, JournalError) else JournalError(f"the journal refused: {error!r}")
            outcomes = [failure] * len(waiters)
        else:
            self._engine.committed(event.channel, oldest, self._tick())
            epoch = self._engine.registry.logs[event.channel].epoch
            outcomes = [Receipt(epoch, event.first + place) for place in range(len(waiters))]
        for waiter, outcome in zip(waiters, outcomes, strict=True):
            if isinstance(waiter, Waiter):
                waiter.settle(outcome)
                self.waiters.discard(waiter)

    async def read(self, event: Read) -> None:
        try:
            items = await ask(self._journal.read, event.channel, event.after, event.limit)
        except Exception as error:  # noqa: BLE001 - as above; the engine asks again
            self._engine.counters["journal-read-failed"] += 1
            self._complain("could not read %d items of", event.limit, event.channel, error)
            items = None
        self._engine.journal_read(event.channel, event.after, items, self._tick())

    def _complain(self, what: str, count: int, channel: str, error: Exception) -> None:
        self._muffler.log(logging.ERROR, "journal", f"the journal {what} %s: %r", count, channel, error)

    def close(self) -> None:
        """The hub has ended: nobody will settle those who still wait."""
        for waiter in self.waiters:
            waiter.settle(JournalError("the hub ended before the journal answered; it may have the item or not"))
