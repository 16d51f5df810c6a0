"""The calls to the journal of durable channels, and the receipts of items that wait for it."""

from __future__ import annotations

import logging

import anyio

from ..contracts import Journal, Receipt
from ..core.engine import Engine
from ..core.events import Append, Read
from ..exceptions import JournalError
from ..hooks import call_hook
from ..telemetry import Telemetry
from .lifecycle import Lifecycle


class PendingReceipt:
    """The receipt of an item that the journal does not have yet."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._outcome: Receipt | JournalError | None = None

    def set_result(self, outcome: Receipt | JournalError) -> None:
        self._outcome = outcome
        self._done.set()

    async def wait(self) -> Receipt:
        """The receipt, once the journal has the item; raises `JournalError` if it refused the item."""
        await self._done.wait()
        if isinstance(self._outcome, JournalError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome


class JournalWriter:
    """Calls the journal for the engine, and passes its answers on; whatever the journal raises stays here."""

    def __init__(self, engine: Engine, journal: Journal, life: Lifecycle, telemetry: Telemetry) -> None:
        self._engine = engine
        self._journal = journal
        self._tick = life.tick
        self._telemetry = telemetry
        self.pending: set[PendingReceipt] = set()

    async def open(self) -> None:
        """Let every durable channel continue where its journal stands."""
        for name, log in list(self._engine.registry.logs.items()):
            if log.channel.mode == "durable":
                state = await self._journal.open(name, log.epoch)
                self._engine.restore(name, state.epoch, state.oldest, state.head)

    async def append(self, event: Append) -> None:
        receipts = [draft.waiter for draft in event.drafts]
        outcomes: list[Receipt | JournalError]
        try:
            oldest = await call_hook(self._journal.append, event.channel, event.first, event.items)
        except Exception as error:  # noqa: BLE001 - the journal is the application's: whatever it raises, nothing was kept
            self._engine.rejected(event.channel)
            self._log("refused %d items of", len(event.items), event.channel, error)
            failure = error if isinstance(error, JournalError) else JournalError(f"the journal refused: {error!r}")
            outcomes = [failure] * len(receipts)
        else:
            self._engine.committed(event.channel, oldest, self._tick())
            epoch = self._engine.registry.logs[event.channel].epoch
            outcomes = [Receipt(epoch, event.first + place) for place in range(len(receipts))]
        for receipt, outcome in zip(receipts, outcomes, strict=True):
            if isinstance(receipt, PendingReceipt):
                receipt.set_result(outcome)
                self.pending.discard(receipt)

    async def read(self, event: Read) -> None:
        try:
            items = await call_hook(self._journal.read, event.channel, event.after, event.limit)
        except Exception as error:  # noqa: BLE001 - as above; the engine asks again
            self._telemetry.count("journal-read-failed")
            self._log("could not read %d items of", event.limit, event.channel, error)
            items = None
        self._engine.journal_read(event.channel, event.after, items, self._tick())

    def _log(self, what: str, count: int, channel: str, error: Exception) -> None:
        self._telemetry.log(logging.ERROR, "journal", f"the journal {what} %s: %r", count, channel, error)

    def close(self) -> None:
        """The hub has ended: no answer of the journal will come any more."""
        for receipt in self.pending:
            receipt.set_result(
                JournalError("the hub was closed before the journal answered; it may or may not have the item")
            )
