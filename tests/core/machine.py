"""The machine: every verb of the engine in any order, compared with the reference."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from analytics_hub.exceptions import HubError
from analytics_hub.identity import Identity

from . import scenarios
from . import strategies as draw
from .answers import REFUSALS, Malformed
from .client import Client
from .finish import finish
from .wire import Fields
from .world import Setup, World

MOST_CLIENTS = 6
numbers = st.integers(0, MOST_CLIENTS - 1)


class EngineMachine(RuleBasedStateMachine):
    world: World

    @initialize(setup=draw.setups(), clients=st.integers(1, 5), wanted=draw.few_names())
    def begin(self, setup: Setup, clients: int, wanted: list[str]) -> None:
        self.world = World(setup)
        for _ in range(clients):
            client = self.world.connect()
            if wanted:
                self.world.send(client, {"action": "subscribe", "channels": list(wanted)})

    def teardown(self) -> None:
        if hasattr(self, "world") and sys.exception() is None:  # after a failure the end means nothing
            finish(self.world)

    def client(self, number: int, wanted: Callable[[Client], bool] = lambda client: client.is_live) -> Client | None:
        """One of the clients for which `wanted` holds."""
        found = [client for client in self.world.clients if wanted(client)]
        return found[number % len(found)] if found else None

    def live(self) -> list[Client]:
        """Those that may send commands."""
        return [client for client in self.world.clients if client.is_live and not client.is_paused]

    def at_least_three(self) -> list[Client]:
        """The same, after connecting as many as are missing."""
        for _ in range(3 - sum(client.is_live for client in self.world.clients)):
            self.world.connect()
        return self.live()

    # --- clients

    @precondition(lambda self: sum(client.is_live for client in self.world.clients) < MOST_CLIENTS)
    @rule(
        identity=st.one_of(st.none(), draw.identities(), draw.identities()),
        wire=st.sampled_from(("line", "line", "other")),
    )
    def connect(self, identity: Identity | None, wire: str) -> None:
        self.world.connect(identity and self._dated(identity), wire)

    def _dated(self, identity: Identity) -> Identity:
        return identity if identity.expires is None else replace(identity, expires=self.world.wall + identity.expires)

    @rule(number=numbers, name=draw.names, start=draw.starts())
    def subscribe(self, number: int, name: str, start: Fields) -> None:
        client = self.client(number)
        if client is not None and not client.is_paused:
            self.world.send(
                client, self._dated_command({"action": "subscribe", "channels": [{"channel": name, **start}]})
            )

    @rule(number=numbers, wanted=st.lists(st.tuples(draw.anything, draw.starts()), max_size=6))
    def subscribe_without_a_frame(self, number: int, wanted: list[tuple[str, Fields]]) -> None:
        client = self.client(number)
        if client is not None and not client.is_paused:
            channels = [{"channel": name, **start} for name, start in wanted]
            self.world.subscribe(client, [self._dated_selection(selection) for selection in channels])

    @rule(wanted=draw.few_names())
    def subscribe_all(self, wanted: list[str]) -> None:
        """All clients subscribe to the same channels, which makes cohorts."""
        for client in list(self.world.clients):
            if client.is_live and not client.is_paused:
                self.world.send(client, {"action": "subscribe", "channels": list(wanted) or ["ev"]})

    @rule(number=numbers, how_many=st.integers(0, 3), again=st.one_of(st.none(), draw.starts()))
    def unsubscribe(self, number: int, how_many: int, again: Fields | None) -> None:
        """From some or all of its channels, and perhaps subscribe to them again at once."""
        client = self.client(number, lambda client: client.is_live and bool(client.subscribed))
        if client is not None and not client.is_paused:
            wanted = list(client.subscribed)[: how_many or None]
            commands: list[Fields] = [{"action": "unsubscribe", "channels": wanted}]
            if again is not None:
                channels = [{"channel": name, **again} for name in wanted]
                commands.append(self._dated_command({"action": "subscribe", "channels": channels}))
            self.world.send(client, *commands)

    @rule(number=numbers, everyone=st.booleans())
    def ping(self, number: int, everyone: bool) -> None:
        found = [client for client in self.world.clients if client.is_live and not client.is_paused]
        for client in found if everyone else found[number : number + 1]:
            self.world.send(client, {"action": "ping"})

    @rule(number=numbers, frame=draw.frames())
    def send(self, number: int, frame: list[Fields | Malformed]) -> None:
        client = self.client(number)
        if client is not None and not client.is_paused:
            self.world.send(client, *[c if isinstance(c, Malformed) else self._dated_command(c) for c in frame])

    def _dated_command(self, command: Fields) -> Fields:
        """`since` as it was drawn counts back from the head."""
        if command["action"] != "subscribe":
            return command
        channels = [w if isinstance(w, str) else self._dated_selection(w) for w in command["channels"]]
        return command | {"channels": channels}

    def _dated_selection(self, wanted: Fields) -> Fields:
        if "since" not in wanted:
            return wanted
        history = self.world.histories.get(wanted["channel"])
        epoch = wanted["since"]["epoch"] or (history.epoch if history is not None else "none")
        head = history.head if history is not None else 0
        return wanted | {"since": {"epoch": epoch, "seq": max(0, head - wanted["since"]["seq"])}}

    @rule(number=numbers, code=st.sampled_from((None, None, 1000, 1012, 4401)))
    def leave(self, number: int, code: int | None) -> None:
        client = self.client(number, lambda client: not client.is_gone)
        if client is not None and code is None:
            self.world.disconnect(client)
        elif client is not None and code is not None:
            self.world.end(client, code)

    @precondition(lambda self: any(client.is_stalled and not client.is_gone for client in self.world.clients))
    @rule(number=numbers, everyone=st.booleans())
    def resume(self, number: int, everyone: bool) -> None:
        found = [client for client in self.world.clients if client.is_stalled and not client.is_gone]
        for client in found if everyone else [found[number % len(found)]]:
            self.world.resume(client)

    # --- publishing

    @rule(name=draw.names, key=draw.keys, body=draw.bodies())
    def publish(self, name: str, key: str, body: Any) -> None:
        self.world.publish(name, body, key=key if name in draw.KEYED else None)

    @rule(
        wanted=st.lists(draw.names, min_size=1, max_size=3),
        count=st.integers(2, 10),
        pad=st.sampled_from((0, 0, 0, 300)),
    )
    def burst(self, wanted: list[str], count: int, pad: int) -> None:
        for n in range(count):
            for name in wanted:
                key = draw.KEYS[n % len(draw.KEYS)] if name in draw.KEYED else None
                self.world.publish(name, n if not pad else "x" * pad, key=key)

    @rule(name=st.sampled_from(draw.KEYED), churn=st.lists(st.tuples(draw.keys, st.booleans()), min_size=1, max_size=6))
    def delete(self, name: str, churn: list[tuple[str, bool]]) -> None:
        for key, is_new in churn:
            if is_new:
                self.world.publish(name, 1, key=key)
            if name in self.world.histories:
                self.world.delete(name, key)

    # --- time and output

    @rule(
        limit=st.integers(1, 5),
        stalling=draw.stalling(),
        gone=draw.gone(),
        is_late=st.booleans(),
        anew=st.booleans(),
        looks=st.booleans(),
    )
    def hand_over(
        self, limit: int, stalling: frozenset[int], gone: frozenset[int], is_late: bool, anew: bool, looks: bool
    ) -> None:
        if anew:
            self.world.forget_output()
        if looks:
            self.world.timer()
        self.world.hand_over(limit, stalling, gone, is_late=is_late)

    @rule(seconds=draw.steps, stalling=draw.stalling())
    def turn_later(self, seconds: float, stalling: frozenset[int]) -> None:
        self.world.advance(seconds)
        self.world.turn(stalling)

    @rule(beats=st.lists(st.tuples(draw.names, draw.keys), min_size=3, max_size=12))
    def keep_busy(self, beats: list[tuple[str, str]]) -> None:
        """Something new in every interval."""
        for name, key in beats:
            self.world.publish(name, 1, key=key if name in draw.KEYED else None)
            self.world.turn()
            self.world.advance(draw.INTERVAL)

    @rule(seconds=draw.steps)
    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    # --- scenarios that random steps seldom produce

    @rule(
        names=st.one_of(st.none(), draw.few_names(1)),
        number=numbers,
        count=st.integers(1, 4),
        what=st.sampled_from(scenarios.INTERRUPTIONS),
        is_stalling=st.sampled_from((True, True, False)),
    )
    def interrupt_flush(self, names: list[str] | None, number: int, count: int, what: str, is_stalling: bool) -> None:
        """Something happens to a client in the middle of its flush."""
        if names is not None:
            scenarios.gather(self.world, self.at_least_three(), names)
        client = self.client(number, scenarios.shares_cohort)
        if client is None:
            return
        scenarios.begin_flush(self.world, client, count)
        owed = self.client(number, scenarios.is_owed)
        if owed is not None:
            scenarios.interrupt(self.world, owed, what)
            for _ in range(MOST_CLIENTS):
                self.world.hand_over(1, {owed.number} if is_stalling else ())

    @rule(name=st.sampled_from((*draw.EVENTS, *draw.KEYED)), late=st.lists(numbers, min_size=2, max_size=4))
    def fall_behind(self, name: str, late: list[int]) -> None:
        live = self.at_least_three()
        if live:
            scenarios.fall_behind(self.world, live, name, late)

    @rule(
        number=numbers,
        everyone=st.booleans(),
        name=st.sampled_from(("ev", "log", "tab", "last")),
        max_hz=st.sampled_from((4.0, 16.0)),
        beats=st.integers(2, 8),
    )
    def pace(self, number: int, everyone: bool, name: str, max_hz: float, beats: int) -> None:
        live = self.live()
        scenarios.pace(self.world, live if everyone else live[number : number + 1], name, max_hz, beats)

    @rule(number=numbers, old=st.sampled_from(draw.EVENTS), new=st.sampled_from(draw.EVENTS))
    def move(self, number: int, old: str, new: str) -> None:
        live = self.live()
        if live and old != new:
            first = number % len(live)
            scenarios.move(self.world, live[first:] + live[:first], old, new)

    @rule(number=numbers, result=draw.identities())
    def refresh(self, number: int, result: Identity) -> None:
        """A client sends a new token, and gets the answer at once."""
        client = self.client(number)
        if client is not None and not client.is_paused:
            self.world.send(client, {"action": "auth", "token": "t"})
            self.world.handle_events()
            self._answer_token(result, len(self.world.token_checks) - 1)

    @rule(
        number=numbers,
        everyone=st.booleans(),
        result=draw.identities(),
        names=st.lists(draw.names, min_size=1, max_size=3),
        flush=st.integers(0, 3),
    )
    def withdraw(self, number: int, everyone: bool, result: Identity, names: list[str], flush: int) -> None:
        """Clients get another identity, or channels are withdrawn from them; perhaps in the middle of a flush."""
        if flush:
            self.world.timer()
            self.world.hand_over(flush)
        found = [client for client in self.world.clients if not client.is_gone]
        for client in found if everyone else found[number : number + 1]:
            self.world.identify(client, result)
            self.world.forbid(client, names[: number % 3])

    @precondition(lambda self: self.world.setup.asks_to_authorize)
    @rule(
        number=numbers,
        names=st.lists(draw.names, min_size=2, max_size=3, unique=True),
        result=draw.identities(),
        withdrawn=st.integers(0, 2),
    )
    def change_while_asked(self, number: int, names: list[str], result: Identity, withdrawn: int) -> None:
        live = self.live()
        if live:
            scenarios.change_while_asked(self.world, live[number % len(live)], names, result, withdrawn)

    @rule(number=numbers, name=st.sampled_from(draw.KEYED), start=draw.starts(), is_late=st.booleans())
    def delete_known_key(self, number: int, name: str, start: Fields, is_late: bool) -> None:
        client = self.client(number, lambda client: client.is_live and not client.is_paused)
        if client is not None:
            command = self._dated_command({"action": "subscribe", "channels": [{"channel": name, **start}]})
            scenarios.delete_known_key(self.world, client, name, command, is_late=is_late)

    @rule(number=numbers, keeps=st.integers(0, 9))
    def outrun(self, number: int, keeps: int) -> None:
        client = self.client(number, lambda client: client.is_live and not client.is_paused)
        if client is not None:
            scenarios.outrun(self.world, client, keeps)

    # --- answers

    @precondition(lambda self: self.world.token_checks)
    @rule(
        index=numbers,
        result=st.one_of(
            draw.identities(),
            draw.identities(),
            draw.identities("ben"),
            st.sampled_from([error for error, *_ in REFUSALS]),
        ),
    )
    def answer_token(self, index: int, result: Identity | HubError) -> None:
        self._answer_token(result, index % len(self.world.token_checks))

    def _answer_token(self, result: Identity | HubError, index: int) -> None:
        if index >= 0:
            self.world.answer_token(self._dated(result) if isinstance(result, Identity) else result, index)

    @precondition(lambda self: self.world.questions)
    @rule(index=numbers, refused=st.frozensets(draw.names, max_size=3))
    def answer_question(self, index: int, refused: frozenset[str]) -> None:
        index %= len(self.world.questions)
        asked = self.world.questions[index].channels
        self.world.answer_question([name for name in asked if name not in refused], index)

    @precondition(lambda self: self.world.jobs)
    @rule(index=numbers, fails=st.sampled_from((False, False, False, True)), others=st.integers(0, 3))
    def do_journal(self, index: int, fails: bool, others: int) -> None:
        self.world.do_journal(index % len(self.world.jobs), fails=fails)
        for _ in range(min(others, len(self.world.jobs))):
            self.world.do_journal()

    # --- rare events

    @rule(
        what=st.sampled_from(("flood", "drain", "heavy", "trim", "timer", "events", "advance", "tell")), number=numbers
    )
    def rare_event(self, what: str, number: int) -> None:
        world = self.world
        client = self.client(number)
        match what:
            case "flood" if client is not None and not client.is_paused:
                world.send(client, *[{"action": "ping"}] * (3 + 2 * number))
            case "drain":
                world.drain_all(float(number))
            case "heavy":  # more than fits one write
                for n in range(4 + number):
                    world.publish("ev", f"{n}" * 60_000)
            case "trim":
                for journal in world.journals.values():
                    journal.trim(number)
            case "timer":
                world.timer()
            case "events":
                world.handle_events()
            case "advance":
                world.advance(draw.STEPS[number])
            case "tell":
                world.shift_wall(number / 4 - 0.5)
