"""The half of a hub that takes items: from its own thread at once, from others through an inbox."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident

from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from ..channels import Channel
from ..core.engine import Engine
from ..exceptions import HubClosed, HubError
from ..protocol import Timestamps
from ..protocol.items import check_key, check_mode, encode_data, find_key, find_type
from .driver import Driver
from .inbox import QueuedItem
from .journal import JournalWriter, Receipt, Waiter


class Publisher:
    """Base of `Hub`, which says when it is open, and on which thread."""

    _driver: Driver

    def __init__(
        self, engine: Engine, clerk: JournalWriter, clock: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._clerk = clerk
        self._clock = clock
        self._wall_clock = wall_clock
        self._stamps = Timestamps()  # for other threads
        self._thread: int | None = None
        self._state = "new"

    def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None:
        """Push `data` to all who subscribed to `channel`. Any thread or signal handler may call it; it never waits.

        `data` is whatever msgspec encodes (structs, dataclasses, dicts, ...) or a `msgspec.Raw`. `type` defaults to
        the channel's, then to the struct's tag, then to the channel's name; `key`, on a table, to the field that the
        channel names. Raises `HubClosed`, `UnknownChannel`, `InvalidItem`, `TableFull`, `ChannelLimitReached`, and
        from other threads `HubOverloaded`; never because of a subscriber. O(1) whatever their number.
        """
        engine = self._engine
        body = encode_data(data)
        declared = engine.registry.declaration(channel)
        item_type = find_type(declared, data, type)
        if key is not None or declared.key is not None:
            key = find_key(declared, data, key)
        if get_ident() == self._thread and self._state == "open" and not engine.is_busy:
            engine.publish(channel, body, self._clock(), type=item_type, key=key)
            if not self._driver.is_nudged and engine.wants_turn:
                self._driver.nudge()
        else:
            self._post(channel, body, item_type, key, deleted=False)

    async def publish_confirmed(
        self, channel: str, data: object, *, type: str | None = None, key: str | None = None
    ) -> Receipt:
        """Publish, and wait until the item is accepted: on a durable channel, until its journal has it.

        Raises what `publish` does, and `JournalError` if the journal refused the item.
        """
        await checkpoint_if_cancelled()
        outcome = self.submit(channel, data, type=type, key=key)
        if isinstance(outcome, Receipt):
            await cancel_shielded_checkpoint()
            return outcome
        return await outcome.wait()

    def delete(self, channel: str, key: str) -> None:
        """Remove `key` from a table: subscribers get it with `deleted`. Nothing happens if it is not there."""
        self._engine.registry.declaration(channel)
        key = check_key(key)
        if get_ident() == self._thread and self._state == "open" and not self._engine.is_busy:
            self._engine.delete(channel, key, self._clock())
            self._driver.nudge()
        else:
            self._post(channel, b"null", None, key, deleted=True)

    def submit(
        self, channel: str, data: object, *, type: str | None = None, key: str | None = None
    ) -> Receipt | Waiter:
        """As `publish_confirmed`, but what waits for the journal is handed out: so several items reach it together."""
        engine = self._engine
        self._check_open()
        self._check_thread("publish_confirmed")
        declared = engine.registry.declaration(channel)
        body = encode_data(data)
        waiter = Waiter()
        place = engine.publish(
            channel,
            body,
            self._clock(),
            type=find_type(declared, data, type),
            key=find_key(declared, data, key),
            waiter=waiter,
        )
        self._driver.nudge()
        if place is not None:
            return Receipt(*place)
        self._clerk.waiters.add(waiter)
        return waiter

    def remove(self, channel: str, key: str) -> Receipt | None:
        """As `delete`, on the hub's own thread alone; None if there was nothing to remove."""
        self._check_open()
        self._check_thread("remove")
        self._engine.registry.declaration(channel)
        if not self._engine.delete(channel, check_key(key), self._clock()):
            return None
        self._driver.nudge()
        log = self._engine.registry.logs[channel]
        return Receipt(log.epoch, log.head)

    def declaration(self, channel: str) -> Channel:
        """The declared channel or pattern that `channel` falls under; raises `UnknownChannel` or `InvalidChannel`."""
        return self._engine.registry.declaration(channel)

    def count(self, name: str, number: int = 1) -> None:
        """Count something that happened; `statistics().counters` shows it. `name` is one of few."""
        self._engine.counters[name] += number

    def _tick(self) -> float:
        now = self._clock()
        self._engine.tell_time(now, self._wall_clock())
        return now

    def _check_open(self) -> None:
        if self._state == "new":
            raise HubClosed("the hub is not running; add `async with hub:` around the application's lifespan")
        if self._state != "open":
            raise HubClosed("the hub has been shut down; nothing more can be published")

    def _check_thread(self, what: str) -> None:
        if get_ident() != self._thread:
            raise HubError(f"{what} belongs to the hub's event loop; other threads may call publish and delete alone")

    def _post(self, channel: str, body: bytes, type: str | None, key: str | None, *, deleted: bool) -> None:
        """Publish from elsewhere, or in the middle of a step: check what can be checked, leave the rest for later."""
        self._check_open()
        log = self._engine.registry.logs.get(channel)
        if log is not None:
            log.check(key, deleted)
        else:
            check_mode(self._engine.registry.declaration(channel), channel, key)
        self._engine.check_size(channel, body)
        stamp = self._stamps.format(self._wall_clock())
        self._driver.inbox.put(QueuedItem(channel, body, type, key, stamp, deleted))
