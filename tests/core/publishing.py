"""The publishing half of a world: channels, what they accept, and the journals of the durable ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from analytics_hub.channels import Channel
from analytics_hub.core.engine import Engine
from analytics_hub.core.events import Append, Read
from analytics_hub.exceptions import ChannelLimitReached, HubError, TableFull, UnknownChannel
from analytics_hub.tuning import Tuning

from .model import History, Item, Stream, make_fields, stamp
from .wire import Fields

if TYPE_CHECKING:
    from .client import Client

EPOCH: Final = 1_768_800_000.0
"""The time of day at which a world begins."""


@dataclass(frozen=True)
class Setup:
    """The parameters of a world."""

    channels: tuple[Channel, ...]
    tuning: Tuning = field(default_factory=Tuning)
    slice_size: int = 256
    max_over_rate: int = 1000
    asks_to_authorize: bool = False
    restored: int = 0
    """How many items the journal of each durable channel has at the start."""
    journal_keeps: int = 1000

    @property
    def max_keys(self) -> int:
        return max((channel.max_keys for channel in self.channels if channel.mode == "table"), default=1)


class FakeJournal:
    """The journal of one durable channel: a list that keeps the newest `keeps` items."""

    def __init__(self, history: History, keeps: int) -> None:
        self.history = history
        self.keeps = keeps
        self.items: list[tuple[int, bytes]] = []

    def append(self, first: int, items: Sequence[bytes]) -> int:
        self.items += enumerate(items, first)
        self.trim(self.keeps)
        return self.history.trimmed + 1

    def trim(self, keeps: int) -> None:
        """Delete all items except the newest `keeps`."""
        gone = max(0, len(self.items) - keeps)
        if gone:
            self.history.trimmed = self.items[gone - 1][0]
            del self.items[:gone]

    def read(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        return [pair for pair in self.items if pair[0] > after][:limit]


class Publishing:
    """Holds the engine and the time, which stands still until it is advanced."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.tuning = setup.tuning
        self.now = 1024.0
        self.engine_now = self.now
        self.offset = EPOCH - self.now
        self.order = 0
        self.engine = Engine(
            setup.channels, setup.tuning, nonce="n", node="test", asks_to_authorize=setup.asks_to_authorize
        )
        self.clients: list[Client] = []
        self.histories: dict[str, History] = {}
        self.ended: list[Stream] = []
        self.journals: dict[str, FakeJournal] = {}
        self.drafts: dict[str, list[tuple[str | None, str, Any]]] = {}
        self.jobs: list[Append | Read] = []
        self.replayed: set[Item] = set()
        self.engine.tell_time(self.now, self.wall)
        self.see_logs()
        self._restore()

    def check(self) -> None:
        """Called after every step."""
        raise NotImplementedError

    @property
    def wall(self) -> float:
        return self.now + self.offset

    def tick(self) -> float:
        """The time, for a call of the engine."""
        self.engine_now = self.now
        return self.now

    # --- channels

    def find_declaration(self, name: str) -> Channel | None:
        """The declaration of `name`: the channel itself, or the longest pattern that matches."""
        found = [channel for channel in self.setup.channels if channel.name == name]
        patterns = [
            c for c in self.setup.channels if c.is_pattern and name.startswith(c.name[:-1]) and name != c.name[:-1]
        ]
        return found[0] if found else max(patterns, key=lambda channel: len(channel.name), default=None)

    def declaration(self, name: str) -> Channel:
        channel = self.find_declaration(name)
        assert channel is not None
        return channel

    def may_exist(self, name: str) -> bool:
        """Whether `name` exists, or may be created as a member of its pattern."""
        if name in self.histories:
            return True
        assert self._is_full(self.declaration(name)), f"{name} was not created"
        return False

    def see_logs(self) -> None:
        """Notice members that were created and removed, each time with an epoch of its own."""
        logs = self.engine.registry.logs
        for name in [name for name in self.histories if name not in logs]:
            assert not any(name in client.subscribed for client in self.clients if client.is_live), (
                f"{name} was removed"
            )
            del self.histories[name]
        for name, log in logs.items():
            history = self.histories.get(name)
            if history is None or history.epoch != log.epoch:
                assert history is None or not any(c.subscribed.get(name) for c in self.clients if c.is_live), name
                self.histories[name] = History(self.declaration(name), name, log.epoch, self.tuning)
        for pattern in self.setup.channels:
            if pattern.is_pattern:
                members = sum(history.channel is pattern for history in self.histories.values())
                assert members <= self.tuning.max_members, f"{members} members of {pattern.name}"

    def _restore(self) -> None:
        for name, history in self.histories.items():
            if history.channel.mode != "durable":
                continue
            journal = self.journals[name] = FakeJournal(history, self.setup.journal_keeps)
            for seq in range(1, self.setup.restored + 1):
                self.order += 1
                item = Item(self.order, self._fields(history, seq, None, stamp(self.wall), {"old": seq}, None))
                history.accept(self.now, item)
                self.replayed.add(item)
                journal.append(seq, [item.encoded])
            if history.head:
                history.epoch, history.restored, history.reported_trim = "kept", history.head, history.trimmed
                self.engine.restore(name, history.epoch, history.trimmed + 1, history.head)

    # --- publishing

    @staticmethod
    def _fields(
        history: History, seq: int, type_: str | None, at: str, data: Any, key: str | None, *, deleted: bool = False
    ) -> Fields:
        return make_fields(history.channel, history.name, seq, type_, at, data, key, deleted=deleted)

    def publish(self, name: str, data: Any = 0, *, key: str | None = None, type: str | None = None) -> None:
        """Publish, if the reference allows it; otherwise the engine must raise."""
        refusal = self.refusal(name, key)
        body = msgspec.json.encode(data)
        try:
            place = self.engine.publish(name, body, self.tick(), key=key, type=type)
        except HubError as error:
            assert refusal is not None and isinstance(error, refusal), (name, error)
            self.check()
            return
        assert refusal is None, f"{name}: {refusal} was not raised"
        self.see_logs()
        history = self.histories[name]
        at = stamp(self.wall)
        if history.channel.mode == "durable":
            assert place is None
            self.drafts.setdefault(name, []).append((type, at, data))
        else:
            self.order += 1
            history.accept(self.now, Item(self.order, self._fields(history, history.head + 1, type, at, data, key)))
            assert place == (history.epoch, history.head)
        self.check()

    def refusal(self, name: str, key: str | None) -> type[HubError] | None:
        """The exception that `publish` must raise."""
        channel = self.find_declaration(name)
        if channel is None:
            return UnknownChannel
        if name not in self.histories and self._is_full(channel):
            return ChannelLimitReached
        present = {item.key for item in self.histories[name].present()} if name in self.histories else set()
        if channel.mode == "table" and key not in present and len(present) >= channel.max_keys:
            return TableFull
        return None

    def _is_full(self, pattern: Channel) -> bool:
        return sum(history.channel is pattern for history in self.histories.values()) >= self.tuning.max_members

    def delete(self, name: str, key: str) -> None:
        """Delete a key of a table."""
        history = self.histories[name]
        exists = key in {item.key for item in history.present()}
        if exists:
            self.order += 1
            at = stamp(self.wall)
            history.accept(
                self.now, Item(self.order, self._fields(history, history.head + 1, None, at, None, key, deleted=True))
            )
        assert self.engine.delete(name, key, self.tick()) is exists
        self.check()

    # --- the journal

    def do_journal(self, index: int = 0, *, fails: bool = False) -> None:
        """The journal executes one of the jobs that wait."""
        job = self.jobs.pop(index)
        journal = self.journals[job.channel]
        history = journal.history
        if isinstance(job, Read):
            found = None if fails else journal.read(job.after, job.limit)
            self.replayed.update(history.items[seq - 1] for seq, _ in found or ())
            self.engine.journal_read(job.channel, job.after, found, self.tick())
        else:
            waiting = self.drafts[job.channel]
            drafts = waiting[: len(job.items)]
            del waiting[: len(job.items)]
            if fails:
                self.engine.rejected(job.channel)
            else:
                self._commit(job, journal, drafts)
        self.check()

    def _commit(self, job: Append, journal: FakeJournal, drafts: Sequence[tuple[str | None, str, Any]]) -> None:
        history = journal.history
        assert job.first == history.head + 1
        for encoded, (type_, at, data) in zip(job.items, drafts, strict=True):
            self.order += 1
            item = Item(self.order, self._fields(history, history.head + 1, type_, at, data, None))
            assert encoded == item.encoded
            history.accept(self.now, item)
        oldest = journal.append(job.first, job.items)
        history.reported_trim = history.trimmed
        self.engine.committed(job.channel, oldest, self.tick())
