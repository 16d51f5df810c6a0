"""R08: memory runs out anywhere. One client ends, or one call raises, or the hub ends in order with an error."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Sequence
from types import CodeType
from typing import Any

import pytest

from analytics_hub import Handshake, Hub, HubError, Identity, anonymous
from analytics_hub.contracts import Peer
from analytics_hub.core.session import Session
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.protocol import Parsed
from analytics_hub.transports.memory import WIRE, subscribe

from ...cancellation.leftovers import is_served_once
from ...hub.rig import FakeTransport, is_empty, plug_in, running
from .test_callers import OURS, interrupted_at, use

pytestmark = pytest.mark.anyio

READER = anonymous(Handshake())


class Shortage:
    """Raises `MemoryError` in one of ten calls."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.faults = 0
        self.is_over = False

    def allocate(self) -> None:
        if not self.is_over and self.chance.random() < 0.1:
            self.faults += 1
            raise MemoryError


class FailingTransport(FakeTransport):
    def __init__(self, shortage: Shortage) -> None:
        super().__init__()
        self.shortage = shortage

    def write(self, frame: bytes) -> bool:
        self.shortage.allocate()
        return super().write(frame)

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        self.shortage.allocate()

    def pause_reading(self) -> None:
        self.shortage.allocate()

    def confirmed(self, frames: int) -> None:
        self.shortage.allocate()


class FailingWire:
    """Parsing a frame may fail."""

    name = WIRE.name
    has_cursor = False

    def __init__(self, shortage: Shortage) -> None:
        self._shortage = shortage

    def frame(self, items: Sequence[bytes]) -> bytes:
        return WIRE.frame(items)

    def parse(self, data: str | bytes) -> list[Parsed]:
        self._shortage.allocate()
        return WIRE.parse(data)


class FailingJournal(MemoryJournal):
    def __init__(self, shortage: Shortage) -> None:
        super().__init__()
        self._shortage = shortage

    async def append(self, channel: str, first: int, items: Sequence[bytes]) -> int:
        self._shortage.allocate()
        return await super().append(channel, first, items)


class World:
    """A hub that runs short of memory outside its engine: in transports, wires, the journal and `authenticate`."""

    def __init__(self, seed: int) -> None:
        self.shortage = Shortage(seed)
        self.wire = FailingWire(self.shortage)
        self.failures: set[str] = set()
        self.hub: Hub

    async def authenticate(self, handshake: Handshake) -> Identity:
        self.shortage.allocate()
        return READER

    def connect(self) -> None:
        peer = Peer(Handshake(transport="fake"), READER)
        session = self.hub.gateway.connect(FailingTransport(self.shortage), self.wire, peer)
        self.send(session, '{"action":"subscribe","channels":["events","durable","latest"]}')

    def send(self, session: Session, text: str) -> None:
        try:
            self.hub.gateway.receive_data(session, text)
        except MemoryError:
            self.hub.gateway.disconnect(session)  # as every transport does

    async def run_round(self, number: int) -> None:
        self.connect()
        for session in self.hub.sessions[1:10]:
            self.send(session, '{"action":"ping"}')
        self.hub.publish("events", number)
        self.hub.publish("latest", number)
        await self.try_to(self.hub.publish_confirmed("durable", number))
        await self.try_to(self.hub.gateway.authenticate(Handshake(token="t")))

    async def try_to(self, act: Awaitable[object]) -> None:
        try:
            await act
        except HubError as error:
            self.failures.add(str(error))


@pytest.mark.parametrize("seed", range(5))
async def test_r08_a_shortage_around_the_engine_ends_one_client(seed: int) -> None:
    """In writes, parsing, the journal and `authenticate`: one client, one item or one peer fails."""
    world = World(seed)
    shortage = world.shortage
    async with running(authenticate=world.authenticate, journal=FailingJournal(shortage)) as hub:
        world.hub = hub
        async with subscribe(hub, "events", identity=READER) as observer:
            for number in range(1, 200):
                await world.run_round(number)
                assert all(channel.ledger.is_balanced for channel in hub.statistics().channels.values())
            data: list[Any] = []
            while 199 not in data:
                data += [item["data"] for item in await anext(observer) if item.get("channel") == "events"]
            assert data == list(range(1, 200))

        assert shortage.faults > 100
        assert world.failures == {"the journal refused: MemoryError()", "tokens cannot be checked now"}
        for session in hub.sessions:
            hub.gateway.disconnect(session)
        assert is_empty(hub)
        shortage.is_over = True
        await is_served_once(hub)


class Unencodable:
    """Its encoding raises `MemoryError`."""

    def __init__(self) -> None:
        self.__dict__["field"] = 1

    @property
    def __dataclass_fields__(self) -> dict[str, Any]:
        raise MemoryError


async def test_r08_a_shortage_while_publishing_raises_to_the_caller() -> None:
    async with running() as hub:
        before = hub.statistics().channels["events"].head
        for publish in (hub.publish, hub.gateway.submit):
            with pytest.raises(Exception) as raised:  # noqa: PT011 - whichever it is, in the caller's frame
                publish("events", Unencodable())
            assert isinstance(raised.value, (MemoryError, HubError))

        assert hub.statistics().channels["events"].head == before
        await is_served_once(hub)


def is_of_the_engine(code: CodeType) -> bool:
    # `atomic.py` and `publish` set existing flags, which takes no memory.
    is_flagging = code.co_name == "publish" or code.co_filename.endswith("atomic.py")
    return code.co_filename.startswith(f"{OURS}/core") and not is_flagging


async def runs_out_at(number: int) -> tuple[bool, bool]:
    """Use a hub while memory runs out at a line of the engine; whether there is such a line, and the hub has ended."""
    transports = [FakeTransport() for _ in range(3)]
    places: list[str] = []

    def fail() -> None:
        raise MemoryError("at a line of the engine")

    async def application() -> None:
        nonlocal places
        async with running() as hub:
            for transport in transports:
                plug_in(hub, transport, "events", "durable", identity=READER)
            with interrupted_at(number, fail, is_of_the_engine) as places:
                try:
                    use(hub)
                except MemoryError:
                    assert places
            hub.publish("events", "and then")
            await is_served_once(hub)
            assert all(channel.ledger.is_balanced for channel in hub.statistics().channels.values())
            assert all('"and then"' in transport.text for transport in transports)

    outcome: ExceptionGroup[Exception] | None = None
    try:
        await application()
    except ExceptionGroup as group:
        outcome = group
    if outcome is not None:
        assert outcome.subgroup(MemoryError) is not None, places
        assert all(transport.ended is not None for transport in transports)
    return bool(places), outcome is not None


async def test_r08_a_shortage_in_the_engine_leaves_no_half_done_step() -> None:
    """A step is done or not, and the hub goes on; if that is unknown, the hub ends all clients and raises."""
    ends = 0
    number = 1
    is_line = True
    while is_line:
        is_line, has_ended = await runs_out_at(number)
        ends += has_ended
        number += 41  # each line would take a minute; a prime stride reaches all lines of a loop
    assert number > 1000
    assert ends > 10
