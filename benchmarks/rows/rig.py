"""An engine with transports that discard frames, and a manual clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from analytics_hub.channels import Channel
from analytics_hub.core.engine import Engine
from analytics_hub.core.wire import Wire
from analytics_hub.identity import Identity
from analytics_hub.protocol import Parsed, encode, parse_json
from analytics_hub.tuning import Tuning

CHANNELS: Final = (Channel("bench", type="order"), Channel("own:*", type="order"))


class PlainWire:
    """JSON without a transport's framing."""

    has_cursor = False

    @property
    def name(self) -> str:
        return "benchmark"

    def frame(self, items: Sequence[bytes]) -> bytes:
        return b"[%b]" % b",".join(items)

    def parse(self, data: str | bytes) -> list[Parsed]:
        return parse_json(data)


class Rig:
    """The engine and its time."""

    def __init__(self, tuning: Tuning) -> None:
        self.now = 1000.0
        self.writes = 0
        self._wire: Wire = PlainWire()
        self.engine = Engine(CHANNELS, tuning, nonce="benchmark")
        self.engine.tell_time(self.now, 1.8e9)

    def connect(self, subscriptions: Iterable[Sequence[str]]) -> None:
        """One session for each list of channels."""
        for number, channels in enumerate(subscriptions):
            identity = Identity(id=f"user-{number}")
            session = self.engine.connect(self, self._wire, identity, self.now, id=f"session-{number}")
            command = encode({"action": "subscribe", "channels": channels})
            self.engine.receive_data(session, command.decode(), self.now)
        self.pump()

    def write(self, frame: bytes) -> bool:
        """Where a transport would send: the rig is the transport of each session."""
        self.writes += 1
        return True

    def close(self, code: int, reason: str) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def confirmed(self, frames: int) -> None: ...

    def pump(self, elapsed: float = 0.0) -> None:
        """Advance the time, and write everything that is due."""
        self.now += elapsed
        engine = self.engine
        engine.handle_timer(self.now)
        for frame, recipients in engine.data_to_send():
            for session in recipients:
                session.transport.write(frame)
        for _ in engine.events():
            pass
