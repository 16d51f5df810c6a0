"""Drives an `Engine` as a hub does, but by hand, and holds every step against the reference.

Time stands still until `advance`. Whatever the engine asks of its driver waits until the test answers it. Deliveries
are handed over one by one; the test decides when, and whose write is the one that stalls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from analytics_hub.channels import Channel
from analytics_hub.core import cohort as cohort_module
from analytics_hub.core import dialogue as dialogue_module
from analytics_hub.core.engine import Delivery, Engine
from analytics_hub.core.events import Append, AskAuthorize, CheckToken, Close, Event, Interest, Pause, Read
from analytics_hub.core.session import Session
from analytics_hub.exceptions import ChannelLimitReached, HubError, TableFull, UnknownChannel
from analytics_hub.identity import Identity
from analytics_hub.tuning import Tuning

from . import invariants
from .client import Client, Command, Malformed
from .model import Item, Life, make_fields, stamp
from .wire import Fields, LineWire

EPOCH: Final = 1_768_800_000.0
"""The time of day when a world begins."""
OPS: Final = Identity(id="ann", roles=frozenset({"ops", "dev"}))
MOST_TURNS: Final = 50
"""A driver that asks the engine again at the same moment must be told to wait after so many times."""


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


class World:
    def __init__(self, setup: Setup) -> None:
        # Constants of the engine that only small numbers put to the test; a world is alone in its process.
        setattr(cohort_module, "SLICE", setup.slice_size)  # noqa: B010 - a constant to type checkers
        setattr(dialogue_module, "REFUSED_IN_A_ROW", setup.refusals)  # noqa: B010
        self.setup = setup
        self.tuning = setup.tuning
        self.now = 1024.0
        self.told = self.now
        self.offset = EPOCH - self.now
        self.shifted_at = float("-inf")
        self.order = 0
        self.engine = Engine(
            setup.channels, setup.tuning, nonce="n", node="test", asks_to_authorize=setup.asks_to_authorize
        )
        self.clients: list[Client] = []
        self.lives: dict[str, Life] = {}
        self.shelves: dict[str, Shelf] = {}
        self.drafts: dict[str, list[tuple[str | None, str, Any]]] = {}
        self.jobs: list[Append | Read] = []
        self.token_checks: list[CheckToken] = []
        self.questions: list[AskAuthorize] = []
        self.interest: dict[str, bool] = {}
        self.replayed: set[Item] = set()
        self.flushes: list[tuple[bytes, float]] = []
        self.output: Iterator[Delivery] | None = None
        self.engine.tell_time(self.now, self.wall)
        self._see_logs()
        self._restore()

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

    def _see_logs(self) -> None:
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
                members = sum(self.declaration(name) is pattern for name in logs)
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
        was = set(self.lives)
        refusal = self._refusal(name, key)
        body = msgspec.json.encode(data)
        try:
            place = self.engine.publish(name, body, self.tick(), key=key, type=type)
        except HubError as error:
            assert refusal is not None and isinstance(error, refusal), (name, error)
            self._after()
            return
        assert refusal is None, f"{name} was to be refused with {refusal} and was not"
        self._see_logs()
        life = self.lives[name]
        at = stamp(self.wall)
        if life.channel.mode == "durable":
            assert place is None
            self.drafts.setdefault(name, []).append((type, at, data))
        else:
            self.order += 1
            life.accept(Item(self.order, self._fields(life, life.head + 1, type, at, data, key)))
            assert place == (life.epoch, life.head)
        assert was <= set(self.lives)
        self._after()

    def _refusal(self, name: str, key: str | None) -> type[HubError] | None:
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
        return sum(self.declaration(name) is pattern for name in self.lives) >= self.tuning.max_members

    def delete(self, name: str, key: str) -> None:
        """Delete a key of a table."""
        life = self.lives[name]
        is_there = key in {item.key for item in life.present()}
        if is_there:
            self.order += 1
            at = stamp(self.wall)
            life.accept(Item(self.order, self._fields(life, life.head + 1, None, at, None, key, deleted=True)))
            assert self.engine.delete(name, key, self.tick()) is is_there
        self._after()

    # --- clients

    def connect(self, identity: Identity | None = OPS, wire: str = "line") -> Client:
        number = len(self.clients)
        line = LineWire(wire)
        session = self.engine.connect(line, identity, self.tick(), id=f"session-{number}")
        client = Client(self, number, session, line, identity)
        session.peer = client
        self.clients.append(client)
        self._after()
        return client

    def send(self, client: Client, *commands: Command) -> None:
        """The client sends one frame."""
        if client.is_gone or client.closed is not None:
            return
        texts = [c.text if isinstance(c, Malformed) else msgspec.json.encode(c).decode() for c in commands]
        was_closed = client.session.is_closed
        self.engine.receive_data(client.session, texts[0] if len(texts) == 1 else f"[{','.join(texts)}]", self.tick())
        self._see_logs()
        if not was_closed and not is_cut_off(client):
            client.queue.extend(commands)
            client.proceed()
            self._follow(client)
        self._after()

    def _follow(self, client: Client) -> None:
        """After the reference has carried out commands: compare where they ended."""
        if client.session.is_closed:
            return
        assert client.ending is None, f"client {client.number} was to be closed with {client.ending}"
        client.catch_up()
        assert set(client.session.subscriptions) == set(client.subscribed), f"client {client.number}"

    def resume(self, client: Client) -> None:
        """A stalled client has room again."""
        cohort = client.session.cohort
        has_missed = cohort is not None and self.now >= cohort.not_before
        self.engine.resumed(client.session, self.tick())
        self._after()
        client.is_stalled = False
        if has_missed:
            invariants.check_after_resume(self, client)

    def disconnect(self, client: Client) -> None:
        client.is_gone = True
        self.engine.disconnect(client.session, self.tick())
        self._after()

    def end(self, client: Client, code: int = 1000) -> None:
        if client.is_live:
            client.ending = code
        self.engine.end(client.session, code, "the test ends it", self.tick())
        self._after()

    def drain_all(self, grace: float) -> None:
        """Tell every client to come back."""
        for client in self.clients:
            if client.is_live and client.session.is_open:
                client.drains.append(grace)
        self.engine.drain(grace, self.tick())
        self._after()

    # --- time and output

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def shift_wall(self, seconds: float) -> None:
        """Somebody sets the clock on the wall."""
        self.offset += seconds
        self.shifted_at = self.now
        self.engine.tell_time(self.tick(), self.wall)

    def timer(self) -> None:
        """The driver looks what is due."""
        self.engine.handle_timer(self.tick())
        self._see_logs()
        self._after()

    def hand_over(
        self, limit: int | None = None, deaf: Collection[int] = (), lost: Collection[int] = (), *, is_late: bool = False
    ) -> bool:
        """Write at most `limit` deliveries; False if there may be more.

        The first write to each client in `deaf` is taken and stalls it; `is_late`: the engine hears of it only after
        the delivery has gone to its other recipients. A client in `lost` turns out to have gone when it is written.
        """
        left = set(deaf)
        if self.output is None:
            self.output = self.engine.data_to_send()
        while limit is None or limit > 0:
            delivery = next(self.output, None)
            if delivery is None:
                self.output = None
                self._after()
                return True
            self._write(delivery, left, lost, is_late=is_late)
            self._after()
            limit = limit - 1 if limit is not None else None
        return False

    def forget_output(self) -> None:
        """The driver comes back later, with a new iterator."""
        self.output = None

    def _write(self, delivery: Delivery, deaf: set[int], lost: Collection[int], *, is_late: bool) -> None:
        frame, recipients = delivery
        assert len({session.id for session in recipients}) == len(recipients), "a client is served twice"
        assert len({session.wire.name for session in recipients}) == 1, "a frame is shared between wires"
        flushed_at = next((at for other, at in self.flushes if other is frame), None)
        if flushed_at is None:
            flushed_at = self.told
            self.flushes = [*self.flushes[-64:], (frame, flushed_at)]
        late = []
        for session in recipients:
            client = self.client_of(session)
            client.receive(frame, flushed_at)
            if client.number in lost and not client.is_gone:
                client.is_gone = True
                self.engine.disconnect(session, self.tick())
            if client.number in deaf and not client.is_gone:
                deaf.discard(client.number)
                client.is_stalled = True
                if is_late:
                    late.append(session)
                else:
                    self.engine.stalled(session, self.tick())
        for session in late:
            self.engine.stalled(session, self.tick())
        invariants.check_after_flush(self, delivery)

    @staticmethod
    def client_of(session: Session) -> Client:
        assert isinstance(session.peer, Client)
        return session.peer

    def handle_events(self) -> None:
        for event in self.engine.events():
            self._handle(event)
        self._after()

    def _handle(self, event: Event) -> None:
        match event:
            case CheckToken():
                self.token_checks.append(event)
            case AskAuthorize(session, identity, channels):
                client = self.client_of(session)
                assert session.is_closed or (identity, channels) == (client.identity, client.unasked)
                self.questions.append(event)
            case Append() | Read():
                self.jobs.append(event)
            case Interest(name, gained):
                assert self.interest.get(name, False) is not gained, f"interest in {name} is told twice"
                self.interest[name] = gained
            case Pause(session, paused):
                client = self.client_of(session)
                assert client.is_paused is not paused
                client.is_paused = paused
            case Close(session, code, reason):
                self._close(self.client_of(session), code, reason)

    def _close(self, client: Client, code: int, reason: str) -> None:
        assert client.closed is None, f"client {client.number} is closed twice"
        assert reason
        client.closed = code
        if client.session.is_stalled and (code == 4503 or client.ending is None):
            return
        if not client.session.is_stalled and not client.is_gone:
            assert not client.expected, f"client {client.number} was closed before it read {client.expected}"
        if client.ending is not None:
            assert code == client.ending, f"client {client.number} was to be closed with {client.ending}, not {code}"
            return
        assert code in (4401, 4408), (code, reason)
        if code == 4401:
            assert client.identity is not None and client.identity.expires is not None
            assert client.identity.expires <= self.wall

    def turn(self, deaf: Collection[int] = (), lost: Collection[int] = ()) -> None:
        """What a driver does when it wakes: everything that is due now, until there is nothing more."""
        for _ in range(MOST_TURNS):
            self.timer()
            self.hand_over(deaf=deaf, lost=lost)
            self.handle_events()
            deaf = ()
            timer = self.engine.get_timer()
            if not self.engine.has_output and (timer is None or timer > self.now):
                invariants.check_after_turn(self)
                return
        raise AssertionError(f"the engine still wants a turn at {self.now} after {MOST_TURNS} of them")

    def run(self, seconds: float) -> None:
        """Turns at the times the engine asks for, and at no other."""
        until = self.now + seconds
        self.turn()
        while True:
            timer = self.engine.get_timer()
            if timer is None or timer > until:
                break
            self.now = max(timer, self.now)
            invariants.check_before_turn(self)
            self.turn()
        self.now = until

    # --- answers

    def answer_token(self, result: Identity | str, index: int = 0) -> None:
        check = self.token_checks.pop(index)
        client = self.client_of(check.session)
        was_closed = client.session.is_closed
        self.engine.authenticated(check.session, result, self.tick())  # type: ignore[arg-type]  # any refusal
        self._see_logs()
        if not was_closed and not is_cut_off(client):
            client.authenticated(result)
            self._follow(client)
        self._after()

    def answer_question(self, allowed: Collection[str], index: int = 0) -> None:
        question = self.questions.pop(index)
        client = self.client_of(question.session)
        was_closed = client.session.is_closed
        self.engine.authorized(question.session, allowed, question.channels, self.tick())
        self._see_logs()
        if not was_closed and not is_cut_off(client):
            client.authorized(allowed)
            self._follow(client)
        self._after()

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
            drafts, self.drafts[job.channel] = (
                self.drafts[job.channel][: len(job.items)],
                self.drafts[job.channel][len(job.items) :],
            )
            if fails:
                self.engine.rejected(job.channel)
            else:
                self._commit(job, shelf, drafts)
        self._after()

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

    # --- the check after every step

    def _after(self) -> None:
        for client in self.clients:
            if client.session.is_closed:
                client.subscribed.clear()
        invariants.check(self)


def is_cut_off(client: Client) -> bool:
    """Whether the engine gave a stalled client up in the middle of what it answered: the rest is of no interest."""
    return client.session.is_closed and client.session.is_stalled
