"""Run by `test_determinism.py` in processes of their own: prints a digest of everything an engine writes and asks."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Final, cast

from analytics_hub import Channel, Identity, Tuning
from analytics_hub.contracts import Transport
from analytics_hub.core.engine import Engine
from analytics_hub.core.events import Append, AskAuthorize, CheckToken, Close
from analytics_hub.core.session import Session
from analytics_hub.transports.memory import WIRE

CHANNELS = (
    Channel("events"),
    Channel("table", mode="table", key="id"),
    Channel("latest", mode="latest"),
    Channel("durable", mode="durable"),
    Channel("secret", roles=frozenset({"admin", "root", "owner"})),
    Channel("user:*"),
)
NAMES = ("events", "table", "latest", "durable", "secret", *(f"user:{number}" for number in range(9)))


TRANSPORT: Final = cast("Transport", object())  # the engine calls none of its methods


class Trace:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 1000.0
        tuning = Tuning(interval=0.01, rate=200.0, buffer_items=20, max_batch=7)
        self.engine = Engine(CHANNELS, tuning, nonce="nonce", node="node", asks_to_authorize=True)
        self.sessions: list[Session] = []
        self.digest = hashlib.sha256()
        self.written = 0

    def note(self, *values: object) -> None:
        self.digest.update(repr(values).encode())

    def step(self, number: int) -> None:
        engine, chance = self.engine, self.chance
        match chance.randrange(6):
            case 0 if len(self.sessions) < 40:
                roles = frozenset(chance.sample(("admin", "root", "owner", "guest"), 2))
                identity = Identity(id=f"user {number % 5}", roles=roles)
                self.sessions.append(engine.connect(TRANSPORT, WIRE, identity, self.now, id=f"session {number}"))
            case 1 if self.sessions:
                names = chance.sample(NAMES, chance.randint(1, 6))
                action = chance.choice(("subscribe", "subscribe", "unsubscribe"))
                command = json.dumps({"action": action, "channels": names})
                engine.receive_data(chance.choice(self.sessions), command, self.now)
            case 2 if self.sessions:
                session = chance.choice(self.sessions)
                chance.choice((engine.stalled, engine.resumed, engine.resumed))(session, self.now)
            case 3 if self.sessions and chance.random() < 0.3:
                engine.disconnect(self.sessions.pop(chance.randrange(len(self.sessions))), self.now)
            case _:
                for _ in range(chance.randrange(8)):
                    name = chance.choice(NAMES)
                    key = chance.choice("abc") if name == "table" else None
                    engine.publish(name, b"%d" % number, self.now, key=key)

    def turn(self) -> None:
        engine = self.engine
        self.now += self.chance.choice((0.0, 0.004, 0.02))
        engine.tell_time(self.now, self.now + 1_768_800_000.0)
        engine.handle_timer(self.now)
        for frame, recipients in engine.data_to_send():
            self.written += len(recipients)
            self.note(frame, [session.id for session in recipients])
        for event in list(engine.events()):
            self.note(type(event).__name__)
            match event:
                case Append(channel, first, items):
                    self.note(channel, first, items)
                    engine.committed(channel, 1, self.now)
                case AskAuthorize(session=session, channels=channels):
                    self.note(session.id, list(channels))
                    engine.authorized(session, list(channels), self.now)
                case Close(session, code, reason):
                    self.note(session.id, code, reason)
                case CheckToken():
                    raise AssertionError("no session sends a token")


def main() -> None:
    trace = Trace(seed=7)
    for number in range(4000):
        trace.step(number)
        trace.turn()
    trace.note(sorted(trace.engine.counters.items()))
    print(trace.digest.hexdigest(), trace.written)


if __name__ == "__main__":
    main()
