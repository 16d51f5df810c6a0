"""The publishing half of a world: channels, what they accept, and the journal of the durable ones."""

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

from .model import Item, Life, Stream, make_fields, stamp
from .wire import Fields

if TYPE_CHECKING:
    from .client import Client

EPOCH: Final = 1_768_800_000.0
"""The time of day when a world begins."""


@dataclass(frozen=True)
class Setup:
    """What a world begins with."""

    channels: tuple[Channel, ...]
    tuning: Tuning = field(default_factory=Tuning)
    slice_size: int = 256
    refusals: int = 1000
    asks_to_authorize: bool = False
    restored: int = 0
    """How many items the journal of each durable channel holds at the start."""
    journal_keeps: int = 1000

    @property
    def max_keys(self) -> int:
        return max((channel.max_keys for channel in self.channels if channel.mode == "table"), default=1)


class Shelf:
    """The journal of one durable channel: a list, and how many of the newest it keeps."""

    def __init__(self, life: Life, keeps: int) -> None:
        self.life = life
        self.keeps = keeps
        self.items: list[tuple[int, bytes]] = []

    def append(self, first: int, items: Sequence[bytes]) -> int:
        self.items += enumerate(items, first)
        self.trim(self.keeps)
        return self.life.trimmed + 1

    def trim(self, keeps: int) -> None:
        """Forget all but the newest `keeps`."""
        gone = max(0, len(self.items) - keeps)
        if gone:
            self.life.trimmed = self.items[gone - 1][0]
            del self.items[:gone]

    def read(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        return [pair for pair in self.items if pair[0] > after][:limit]


class Publishing:
    """Holds the engine and the time, which stands still until somebody moves it."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.tuning = setup.tuning
        self.now = 1024.0
        self.told = self.now
        self.offset = EPOCH - self.now
        self.order = 0
        self.engine = Engine(
            setup.channels, setup.tuning, nonce="n", node="test", asks_to_authorize=setup.asks_to_authorize
        )
        self.clients: list[Client] = []
        self.lives: dict[str, Life] = {}
        self.ended: list[Stream] = []
        self.shelves: dict[str, Shelf] = {}
        self.drafts: dict[str, list[tuple[str | None, str, Any]]] = {}
        self.jobs: list[Append | Read] = []
        self.replayed: set[Item] = set()
        self.engine.tell_time(self.now, self.wall)
        self.see_logs()
        self._restore()

    def check(self) -> None:
        """What follows every step."""
        raise NotImplementedError

    @property
    def wall(self) -> float:
        return self.now + self.offset

    def tick(self) -> float:
        """The time, about to be told to the engine."""
        self.told = self.now
        return self.now

    # --- channels

    def find_declaration(self, name: str) -> Channel | None:
        """The channel that `name` falls under: itself, else the longest pattern."""
        found = [channel for channel in self.setup.channels if channel.name == name]
        patterns = [
            c for c in self.setup.channels if c.is_pattern and name.startswith(c.name[:-1]) and name != c.name[:-1]
        ]
        return found[0] if found else max(patterns, key=lambda channel: len(channel.name), default=None)

    def declaration(self, name: str) -> Channel:
        channel = self.find_declaration(name)
        assert channel is not None
        return channel

    def may_appear(self, name: str) -> bool:
        """Whether `name` is there, or could appear as one more member of its pattern."""
        if name in self.lives:
            return True
        assert self._is_full(self.declaration(name)), f"{name} did not appear"
        return False

    def see_logs(self) -> None:
        """Notice members that came and went, each time with an epoch of its own."""
        logs = self.engine.registry.logs
        for name in [name for name in self.lives if name not in logs]:
            assert not any(name in client.subscribed for client in self.clients if client.is_live), f"{name} is gone"
            del self.lives[name]
        for name, log in logs.items():
            life = self.lives.get(name)
            if life is None or life.epoch != log.epoch:
                assert life is None or not any(c.subscribed.get(name) for c in self.clients if c.is_live), name
                self.lives[name] = Life(self.declaration(name), name, log.epoch, self.tuning)
        for pattern in self.setup.channels:
            if pattern.is_pattern:
                members = sum(life.channel is pattern for life in self.lives.values())
                assert members <= self.tuning.max_members, f"{members} members of {pattern.name}"

    def _restore(self) -> None:
        for name, life in self.lives.items():
            if life.channel.mode != "durable":
                continue
            shelf = self.shelves[name] = Shelf(life, self.setup.journal_keeps)
            for seq in range(1, self.setup.restored + 1):
                self.order += 1
                item = Item(self.order, self._fields(life, seq, None, stamp(self.wall), {"old": seq}, None))
                life.accept(item)
                self.replayed.add(item)
                shelf.append(seq, [item.encoded])
            if life.head:
                life.epoch, life.restored, life.told = "kept", life.head, life.trimmed
                self.engine.restore(name, life.epoch, life.trimmed + 1, life.head)

    # --- publishing

    @staticmethod
    def _fields(
        life: Life, seq: int, type_: str | None, at: str, data: Any, key: str | None, *, deleted: bool = False
    ) -> Fields:
        return make_fields(life.channel, life.name, seq, type_, at, data, key, deleted=deleted)

    def publish(self, name: str, data: Any = 0, *, key: str | None = None, type: str | None = None) -> None:
        """Publish, if the reference allows it; else see the engine refuse."""
        refusal = self.refusal(name, key)
        body = msgspec.json.encode(data)
        try:
            place = self.engine.publish(name, body, self.tick(), key=key, type=type)
        except HubError as error:
            assert refusal is not None and isinstance(error, refusal), (name, error)
            self.check()
            return
        assert refusal is None, f"{name} was to be refused with {refusal} and was not"
        self.see_logs()
        life = self.lives[name]
        at = stamp(self.wall)
        if life.channel.mode == "durable":
            assert place is None
            self.drafts.setdefault(name, []).append((type, at, data))
        else:
            self.order += 1
            life.accept(Item(self.order, self._fields(life, life.head + 1, type, at, data, key)))
            assert place == (life.epoch, life.head)
        self.check()

    def refusal(self, name: str, key: str | None) -> type[HubError] | None:
        """What `publish` must raise."""
        channel = self.find_declaration(name)
        if channel is None:
            return UnknownChannel
        if name not in self.lives and self._is_full(channel):
            return ChannelLimitReached
        present = {item.key for item in self.lives[name].present()} if name in self.lives else set()
        if channel.mode == "table" and key not in present and len(present) >= channel.max_keys:
            return TableFull
        return None

    def _is_full(self, pattern: Channel) -> bool:
        return sum(life.channel is pattern for life in self.lives.values()) >= self.tuning.max_members

    def delete(self, name: str, key: str) -> None:
        """Delete a key of a table."""
        life = self.lives[name]
        is_there = key in {item.key for item in life.present()}
        if is_there:
            self.order += 1
            at = stamp(self.wall)
            life.accept(Item(self.order, self._fields(life, life.head + 1, None, at, None, key, deleted=True)))
        assert self.engine.delete(name, key, self.tick()) is is_there
        self.check()

    # --- the journal

    def do_journal(self, index: int = 0, *, fails: bool = False) -> None:
        """The journal carries out one of the jobs that wait."""
        job = self.jobs.pop(index)
        shelf = self.shelves[job.channel]
        life = shelf.life
        if isinstance(job, Read):
            found = None if fails else shelf.read(job.after, job.limit)
            self.replayed.update(life.items[seq - 1] for seq, _ in found or ())
            self.engine.journal_read(job.channel, job.after, found, self.tick())
        else:
            waiting = self.drafts[job.channel]
            drafts = waiting[: len(job.items)]
            del waiting[: len(job.items)]
            if fails:
                self.engine.rejected(job.channel)
            else:
                self._commit(job, shelf, drafts)
        self.check()

    def _commit(self, job: Append, shelf: Shelf, drafts: Sequence[tuple[str | None, str, Any]]) -> None:
        life = shelf.life
        assert job.first == life.head + 1
        for encoded, (type_, at, data) in zip(job.items, drafts, strict=True):
            self.order += 1
            item = Item(self.order, self._fields(life, life.head + 1, type_, at, data, None))
            assert encoded == item.encoded
            life.accept(item)
        oldest = shelf.append(job.first, job.items)
        life.told = life.trimmed
        self.engine.committed(job.channel, oldest, self.tick())
