"""Drives an `Engine` as a hub does, but by hand, and compares every step with the reference.

Time stands still until `advance`. What the engine asks of its driver waits until the test answers it. Deliveries are
written one by one; the test decides when, and which write stalls its client.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from analytics_hub.core import cohort as cohort_module
from analytics_hub.core import commands as commands_module
from analytics_hub.core.engine import Delivery
from analytics_hub.core.events import Append, AskAuthorize, CheckToken, Close, Confirmed, Event, Pause, Read
from analytics_hub.core.session import Session
from analytics_hub.exceptions import HubError
from analytics_hub.identity import Identity
from analytics_hub.protocol import Selection

from . import invariants
from .answers import Command, Malformed
from .client import Client, Drain
from .publishing import Publishing, Setup
from .rig import FakeTransport
from .wire import Fields, LineWire

__all__ = ["OPS", "Setup", "World"]

OPS: Final = Identity(id="ann", roles=frozenset({"ops", "dev"}))
MOST_TURNS: Final = 50
"""A driver that calls the engine again and again at one moment must be told to wait after so many turns."""


class World(Publishing):
    def __init__(self, setup: Setup) -> None:
        # Constants of the engine that only small values exercise; a process has one world at a time.
        setattr(cohort_module, "SLICE", setup.slice_size)  # noqa: B010 - a constant to type checkers
        setattr(commands_module, "MAX_OVER_RATE", setup.max_over_rate)  # noqa: B010
        super().__init__(setup)
        self.shifted_at = float("-inf")
        self.token_checks: list[CheckToken] = []
        self.questions: list[AskAuthorize] = []
        self.flushes: list[tuple[bytes, float]] = []
        self.output: Iterator[Delivery] | None = None

    # --- clients

    def connect(self, identity: Identity | None = OPS, wire: str = "line") -> Client:
        number = len(self.clients)
        line = LineWire(wire)
        session = self.engine.connect(FakeTransport(), line, identity, self.tick(), id=f"session-{number}")
        client = Client(self, number, session, line, identity)
        self.clients.append(client)
        self.check()
        return client

    def send(self, client: Client, *commands: Command) -> None:
        """The client sends one frame."""
        texts = [c.text if isinstance(c, Malformed) else msgspec.json.encode(c).decode() for c in commands]
        text = texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"
        self._receive(client, commands, lambda: self.engine.receive_data(client.session, text, self.tick()))

    def subscribe(self, client: Client, channels: Sequence[Fields]) -> None:
        """The client subscribes by something other than a frame, such as a URL."""
        most = self.tuning.max_subscriptions
        commands = [
            {"action": "subscribe", "channels": list(channels[at : at + most])} for at in range(0, len(channels), most)
        ]
        selections = msgspec.convert(channels, list[Selection])
        self._receive(client, commands, lambda: self.engine.subscribe(client.session, selections, self.tick()))

    def _receive(self, client: Client, commands: Sequence[Command], hand_in: Callable[[], None]) -> None:
        if client.is_gone or client.closed is not None:
            return
        was_closed = client.session.is_closed
        client.heard_at = self.now
        hand_in()
        self.see_logs()
        if not was_closed and not self._is_cut_off(client):
            client.queue.extend(commands)
            client.proceed()
            self._follow(client)
        self.check()

    @staticmethod
    def _is_cut_off(client: Client) -> bool:
        """Whether the engine closed a stalled client in the middle of its commands: the rest is not compared."""
        client.is_cut_off = client.session.is_closed and client.session.is_stalled
        return client.is_cut_off

    def _follow(self, client: Client) -> None:
        """After the reference has executed commands: compare the results."""
        if client.session.is_closed:
            return
        assert client.ending is None, f"client {client.number} was not closed with {client.ending}"
        client.catch_up()
        assert set(client.session.subscriptions) == set(client.subscribed), f"client {client.number}"

    def resume(self, client: Client) -> None:
        """A stalled client has room again."""
        cohort = client.session.cohort
        has_missed = cohort is not None and self.now >= cohort.not_before
        self.engine.resumed(client.session, self.tick())
        self.check()
        client.is_stalled = False
        client.was_held = any(ledger.pending for ledger in self.engine.ledger(client.session).values())
        if has_missed:
            invariants.check_after_resume(self, client)

    def disconnect(self, client: Client) -> None:
        client.is_gone = True
        self.engine.disconnect(client.session, self.tick())
        self.check()

    def end(self, client: Client, code: int = 1000) -> None:
        if client.is_live:
            client.ending = code
        self.engine.end(client.session, code, "the test ends it", self.tick())
        self.check()

    def identify(self, client: Client, other: Identity) -> None:
        """The application gives a client the roles and channels of another; its token expires as before."""
        identity = replace(other, expires=None if client.identity is None else client.identity.expires)
        was_open = client.session.is_open
        self.engine.identify(client.session, identity, self.tick())
        if was_open and not self._is_cut_off(client):
            client.warned = identity if client.warned is client.identity else client.warned
            client.identified(identity)
            self._follow(client)
        self.check()

    def forbid(self, client: Client, names: Collection[str]) -> None:
        """The application withdraws channels from a client."""
        was_closed = client.session.is_closed
        self.engine.forbid(client.session, names, self.tick())
        if not was_closed and not self._is_cut_off(client):
            client.forbidden(names)
            self._follow(client)
        self.check()

    def drain_all(self, grace: float) -> None:
        """Tell every client to reconnect."""
        drain = Drain(grace)
        for client in self.clients:
            if client.is_live and client.session.is_open:
                client.drains.append(drain)
        self.engine.drain(grace, self.tick())
        self.check()

    # --- time and output

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def shift_wall(self, seconds: float) -> None:
        """The clock of the machine is set."""
        self.offset += seconds
        self.shifted_at = self.now
        self.engine.tell_time(self.tick(), self.wall)

    def timer(self) -> None:
        """The driver calls `handle_timer`."""
        self.engine.handle_timer(self.tick())
        self.see_logs()
        self.check()

    def hand_over(
        self,
        limit: int | None = None,
        stalling: Collection[int] = (),
        gone: Collection[int] = (),
        *,
        is_late: bool = False,
    ) -> bool:
        """Write at most `limit` deliveries; False if there may be more.

        The first write to each client in `stalling` is accepted and stalls it; `is_late`: the engine is told only after
        the delivery was written to its other recipients. A client in `gone` turns out to be disconnected.
        """
        left = set(stalling)
        if self.output is None:
            self.output = self.engine.data_to_send()
        while limit is None or limit > 0:
            delivery = next(self.output, None)
            if delivery is None:
                self.output = None
                self.check()
                return True
            self._write(delivery, left, gone, is_late=is_late)
            self.check()
            limit = limit - 1 if limit is not None else None
        return False

    def forget_output(self) -> None:
        """The driver continues later, with a new iterator."""
        self.output = None

    def _write(self, delivery: Delivery, stalling: set[int], gone: Collection[int], *, is_late: bool) -> None:
        frame, recipients = delivery
        assert len({session.id for session in recipients}) == len(recipients), "a client is written to twice"
        assert len({session.wire.name for session in recipients}) == 1, "a frame is shared between wires"
        flushed_at = next((at for other, at in self.flushes if other is frame), None)
        is_first = flushed_at is None
        if flushed_at is None:
            flushed_at = self.engine_now
            self.flushes = [*self.flushes[-64:], (frame, flushed_at)]
        late = []
        for session in recipients:
            client = self.client_of(session)
            client.receive(frame, flushed_at)
            if client.number in gone and not client.is_gone:
                client.is_gone = True
                self.engine.disconnect(session, self.tick())
            if client.number in stalling and not client.is_gone:
                stalling.discard(client.number)
                client.is_stalled = client.was_stalled = True
                client.stalled_at = self.now
                if is_late:
                    late.append(session)
                else:
                    self.engine.stalled(session, self.tick())
        for session in late:
            self.engine.stalled(session, self.tick())
        if is_first:
            invariants.check_after_flush(self, delivery)

    def client_of(self, session: Session) -> Client:
        return next(client for client in self.clients if client.session is session)

    def handle_events(self) -> None:
        for event in self.engine.events():
            self._handle(event)
        self.check()

    def _handle(self, event: Event) -> None:
        match event:
            case CheckToken():
                self.token_checks.append(event)
            case AskAuthorize(session, identity, channels):
                client = self.client_of(session)
                assert session.is_closed or (identity, channels) == (client.asked_as, client.question)
                self.questions.append(event)
            case Append() | Read():
                self.jobs.append(event)
            case Pause(session, paused):
                client = self.client_of(session)
                assert client.is_paused is not paused
                client.is_paused = paused
            case Confirmed(session, frames):
                client = self.client_of(session)
                assert client.is_cut_off or client.confirmed.popleft() == frames
            case Close(session, code, reason):
                self._close(self.client_of(session), code, reason)

    def _close(self, client: Client, code: int, reason: str) -> None:
        assert client.closed is None, f"client {client.number} is closed twice"
        assert reason
        client.closed = code
        if client.is_cut_off:
            return
        if not client.session.is_stalled and not client.is_gone:
            assert not client.expected, f"client {client.number} was closed before it read {client.expected}"
            for stream in client.streams.values():
                stream.check_closed()
        if client.ending is not None:
            assert code == client.ending, f"client {client.number} must be closed with {client.ending}, not {code}"
        else:
            invariants.check_end(self, client, code, reason)

    def turn(self, stalling: Collection[int] = (), gone: Collection[int] = ()) -> None:
        """What a driver does when it wakes up: everything that is due now, until nothing is left."""
        for _ in range(MOST_TURNS):
            self.timer()
            self.hand_over(stalling=stalling, gone=gone)
            self.handle_events()
            stalling = ()
            timer = self.engine.get_timer()
            if not self.engine.has_output and (timer is None or timer > self.now):
                invariants.check_after_turn(self)
                return
        raise AssertionError(f"the engine still wants a turn at {self.now} after {MOST_TURNS} of them")

    def run(self, seconds: float) -> None:
        """Turns at the times for which the engine asks, and at no other."""
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

    def answer_token(self, result: Identity | HubError, index: int = 0) -> None:
        check = self.token_checks.pop(index)
        client = self.client_of(check.session)
        was_closed = client.session.is_closed
        self.engine.authenticated(check.session, result, self.tick())
        self.see_logs()
        if not was_closed and not self._is_cut_off(client):
            client.authenticated(result)
            self._follow(client)
        self.check()

    def answer_question(self, allowed: Collection[str], index: int = 0) -> None:
        question = self.questions.pop(index)
        client = self.client_of(question.session)
        was_closed = client.session.is_closed
        self.engine.authorized(question.session, allowed, self.tick())
        self.see_logs()
        if not was_closed and not self._is_cut_off(client):
            client.authorized(allowed)
            self._follow(client)
        self.check()

    # --- the check after every step

    def check(self) -> None:
        for client in self.clients:
            if client.session.is_closed:
                for name, stream in client.subscribed.items():
                    stream.end = stream.history.head
                    stream.final = client.session.final[name]
                    self.ended.append(stream)
                client.subscribed.clear()
        invariants.check(self)
