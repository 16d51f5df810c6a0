"""An engine with fake clients, a fake journal and a clock that tests advance by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from analytics_hub.channels import Channel
from analytics_hub.core.engine import Engine
from analytics_hub.core.events import Append, Close, Event, Read
from analytics_hub.core.session import Session
from analytics_hub.core.statistics import Ledger
from analytics_hub.core.transport import Transport
from analytics_hub.identity import Identity
from analytics_hub.tuning import Tuning

from .wire import Fields, LineWire, read_frames

ALICE: Final = Identity(id="alice", roles=frozenset({"trader"}))
START: Final = 100.0
WALL: Final = 1_700_000_000.0
"""The time of day at `START`."""

E = TypeVar("E", bound=Event)


class FakeTransport(Transport):
    """Keeps what is written to it. While it `is_full`, each write is the last that it accepts until it is resumed."""

    def __init__(self) -> None:
        self.is_full = False
        self.writes: list[bytes] = []

    def write(self, frame: bytes) -> bool:
        self.writes.append(frame)
        return not self.is_full

    # The engine itself only writes; the rest are events for the driver.

    def close(self, code: int, reason: str) -> None:
        raise NotImplementedError

    def pause_reading(self) -> None:
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError

    def confirmed(self, frames: int) -> None:
        raise NotImplementedError


class Peer:
    """A client, seen through what was written to its transport."""

    def __init__(self, rig: Rig, transport: FakeTransport, session: Session) -> None:
        self.rig = rig
        self.transport = transport
        self.session = session

    # --- what it sends

    def send(self, *commands: Fields) -> None:
        """Each command in a frame of its own."""
        for command in commands:
            self.rig.engine.receive_data(self.session, msgspec.json.encode(command).decode(), self.rig.now)
        self.rig.pump()

    def send_raw(self, data: str | bytes) -> None:
        self.rig.engine.receive_data(self.session, data, self.rig.now)
        self.rig.pump()

    def send_subscribe(self, *channels: str | Fields) -> None:
        """Subscribe without waiting for the answer, which a stalled client does not get."""
        self.send({"action": "subscribe", "channels": list(channels)})

    def subscribe(self, *channels: str | Fields) -> Fields:
        """Subscribe; returns the answer."""
        self.send_subscribe(*channels)
        return self.items_of("$subscribed")[-1]

    def unsubscribe(self, *channels: str) -> Fields:
        self.send({"action": "unsubscribe", "channels": list(channels)})
        return self.items_of("$unsubscribed")[-1]

    def stall(self) -> None:
        self.rig.engine.stalled(self.session, self.rig.now)
        self.rig.pump()

    def resume(self) -> None:
        self.is_full = False
        self.rig.engine.resumed(self.session, self.rig.now)
        self.rig.pump()

    # --- what it was written

    def forget(self) -> None:
        self.transport.writes.clear()

    @property
    def is_full(self) -> bool:
        return self.transport.is_full

    @is_full.setter
    def is_full(self, is_full: bool) -> None:
        self.transport.is_full = is_full

    @property
    def sizes(self) -> list[int]:
        """The bytes of each write."""
        return [len(write) for write in self.transport.writes]

    @property
    def writes(self) -> list[list[list[Fields]]]:
        """The frames of each write."""
        return [read_frames(write) for write in self.transport.writes]

    @property
    def frames(self) -> list[list[Fields]]:
        return [frame for write in self.writes for frame in write]

    @property
    def items(self) -> list[Fields]:
        return [item for frame in self.frames for item in frame]

    @property
    def types(self) -> list[str]:
        return [item["type"] for item in self.items]

    def items_of(self, type_: str) -> list[Fields]:
        return [item for item in self.items if item["type"] == type_]

    def data(self, channel: str | None = None) -> list[Any]:
        return [item["data"] for item in self._data_items(channel)]

    def seqs(self, channel: str | None = None) -> list[int]:
        return [item["seq"] for item in self._data_items(channel)]

    def _data_items(self, channel: str | None) -> list[Fields]:
        return [item for item in self.items if "seq" in item and channel in (None, item["channel"])]

    @property
    def written_data(self) -> list[list[Any]]:
        """The data of each write."""
        return [[item["data"] for frame in write for item in frame if "seq" in item] for write in self.writes]

    def ledger(self, channel: str) -> Ledger:
        """Of the present subscription, or of the last one; it balances at every moment."""
        accounts = self.rig.engine.ledger(self.session)
        ledger = accounts.get(channel) or self.session.final[channel]
        assert ledger.is_balanced, ledger
        return ledger

    @property
    def close(self) -> Close | None:
        """How the engine ended this client, if it did."""
        return next((event for event in self.rig.events_of(Close) if event.session is self.session), None)

    @property
    def ending(self) -> tuple[int, str] | None:
        """The close code and the reason of that."""
        return (self.close.code, self.close.reason) if self.close is not None else None


class Rig:
    """Drives an engine as the hub does, one call at a time."""

    def __init__(self, *channels: Channel, tuning: Tuning | None = None, asks_to_authorize: bool = False) -> None:
        self.now = START
        self.events: list[Event] = []
        self.kept: dict[str, dict[int, bytes]] = {}
        self.engine = Engine(channels, tuning, nonce="test", node="here", asks_to_authorize=asks_to_authorize)
        self.engine.tell_time(self.now, WALL)

    def connect(self, identity: Identity | None = ALICE, wire: LineWire | None = None) -> Peer:
        peer = self.new_peer(identity, wire or LineWire(), f"s{len(self.engine.sessions)}")
        self.pump()
        return peer

    def new_peer(self, identity: Identity | None, wire: LineWire, id: str) -> Peer:
        """A client that nothing was written to yet."""
        transport = FakeTransport()
        return Peer(self, transport, self.engine.connect(transport, wire, identity, self.now, id=id))

    def subscribers(self, count: int, *channels: str | Fields) -> list[Peer]:
        """Clients with these subscriptions that have read everything, all in one cohort."""
        peers = [self.connect() for _ in range(count)]
        for peer in peers:
            peer.subscribe(*channels)
        self.advance(1.0)
        for peer in peers:
            peer.forget()
        return peers

    def publish(self, channel: str, *values: object, **options: Any) -> None:
        """Publish each of `values`; nothing is written before `pump` or `advance`."""
        for value in values:
            self.engine.publish(channel, msgspec.json.encode(value), self.now, **options)

    def deliver(self, channel: str, *values: object, **options: Any) -> None:
        """Publish, and write what may be written now."""
        self.publish(channel, *values, **options)
        self.pump()

    def pump(self) -> None:
        """Do everything that is due now."""
        for _ in range(10_000):
            self.engine.handle_timer(self.now)
            for delivery in self.engine.data_to_send():
                self.write(delivery.frame, delivery.recipients)
            self.events.extend(self.engine.events())
            timer = self.engine.get_timer()
            if timer is None or timer > self.now:
                return
        raise AssertionError("the engine never comes to rest")

    def write(self, frame: bytes, recipients: Iterable[Session]) -> None:
        for session in recipients:
            assert not session.is_stalled, "a stalled session was written to"
            if not session.transport.write(frame):
                self.engine.stalled(session, self.now)

    def advance(self, seconds: float) -> None:
        """Let time pass, and stop whenever the engine wants to be called."""
        end = self.now + seconds
        while (timer := self.engine.get_timer()) is not None and timer <= end:
            self.now = max(self.now, timer)
            self.pump()
        self.now = end
        self.pump()

    def events_of(self, kind: type[E]) -> list[E]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    # --- a journal

    def commit(self, channel: str, keep: int = 1_000_000) -> None:
        """Commit the last batch; the journal keeps the newest `keep` items."""
        batch = self.events_of(Append)[-1]
        kept = self.kept.setdefault(channel, {})
        kept.update(enumerate(batch.items, batch.first))
        for seq in list(kept)[:-keep]:
            del kept[seq]
        self.engine.committed(channel, min(kept), self.now)
        self.pump()

    def publish_durable(self, channel: str, *values: object, keep: int = 1_000_000) -> None:
        """Publish to a durable channel, one batch for each value."""
        for value in values:
            self.deliver(channel, value)
            self.commit(channel, keep)

    def answer_read(self, read: Read | None = None) -> None:
        """Answer one read, by default the last one."""
        read = read or self.events_of(Read)[-1]
        items = [(seq, item) for seq, item in self.kept[read.channel].items() if seq > read.after]
        self.engine.journal_read(read.channel, read.after, items[: read.limit], self.now)
        self.pump()
