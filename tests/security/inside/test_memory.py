"""R08: memory runs out at any place. One client pays, or one call raises, or the hub ends in order and says so."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Sequence
from types import CodeType
from typing import Any

import pytest

from analytics_hub import Handshake, Hub, HubError, Identity, anonymous
from analytics_hub.core.session import Session
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.protocol import Parsed
from analytics_hub.transports.memory import WIRE, subscribe

from ...cancellation.leftovers import is_served_once
from ...hub.rig import FakeTransport, is_empty, plug_in, running
from .test_callers import OURS, interrupted_at, use

pytestmark = pytest.mark.anyio

READER = anonymous(Handshake())


class Poor:
    """Has no memory left now and then."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.faults = 0
        self.is_rich = False

    def spend(self) -> None:
        if not self.is_rich and self.chance.random() < 0.1:
            self.faults += 1
            raise MemoryError


class PoorTransport(FakeTransport):
    def __init__(self, poor: Poor) -> None:
        super().__init__()
        self.poor = poor

    def write(self, frame: bytes) -> bool:
        self.poor.spend()
        return super().write(frame)

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        self.poor.spend()

    def pause_reading(self) -> None:
        self.poor.spend()

    def confirmed(self, frames: int) -> None:
        self.poor.spend()


class PoorWire:
    """Cannot always read what a client says."""

    name = WIRE.name
    has_cursor = False

    def __init__(self, poor: Poor) -> None:
        self._poor = poor

    def frame(self, items: Sequence[bytes]) -> bytes:
        return WIRE.frame(items)

    def parse(self, data: str | bytes) -> list[Parsed]:
        self._poor.spend()
        return WIRE.parse(data)


class PoorJournal(MemoryJournal):
    def __init__(self, poor: Poor) -> None:
        super().__init__()
        self._poor = poor

    async def append(self, channel: str, first: int, items: Sequence[bytes]) -> int:
        self._poor.spend()
        return await super().append(channel, first, items)


class Town:
    """A hub in which everything around the engine is poor: transports, wires, the journal and `authenticate`."""

    def __init__(self, seed: int) -> None:
        self.poor = Poor(seed)
        self.wire = PoorWire(self.poor)
        self.failures: set[str] = set()
        self.hub: Hub

    async def authenticate(self, handshake: Handshake) -> Identity:
        self.poor.spend()
        return READER

    def come(self) -> None:
        session = self.hub.connect(PoorTransport(self.poor), self.wire, READER, Handshake(transport="fake"))
        self.say(session, '{"action":"subscribe","channels":["events","durable","latest"]}')

    def say(self, session: Session, text: str) -> None:
        try:
            self.hub.receive_data(session, text)
        except MemoryError:
            self.hub.disconnect(session)  # as every transport does

    async def pass_a_day(self, number: int) -> None:
        self.come()
        for session in self.hub.sessions[1:10]:
            self.say(session, '{"action":"ping"}')
        self.hub.publish("events", number)
        self.hub.publish("latest", number)
        await self.try_to(self.hub.publish_confirmed("durable", number))
        await self.try_to(self.hub.check(Handshake(token="t")))

    async def try_to(self, act: Awaitable[object]) -> None:
        try:
            await act
        except HubError as error:
            self.failures.add(str(error))


@pytest.mark.parametrize("seed", range(5))
async def test_r08_around_the_engine(seed: int) -> None:
    """In writes, in what is read, in the journal, in `authenticate`: who pays is one client, one item, one peer."""
    town = Town(seed)
    poor = town.poor
    async with running(authenticate=town.authenticate, journal=PoorJournal(poor)) as hub:
        town.hub = hub
        async with subscribe(hub, "events", identity=READER) as witness:
            for day in range(1, 200):
                await town.pass_a_day(day)
                assert all(channel.ledger.is_balanced for channel in hub.statistics().channels.values())
            data: list[Any] = []
            while 199 not in data:
                data += [item["data"] for item in await anext(witness) if item.get("channel") == "events"]
            assert data == list(range(1, 200))

        assert poor.faults > 100
        assert town.failures == {"the journal refused: MemoryError()", "tokens cannot be checked now"}
        for session in hub.sessions:
            hub.disconnect(session)
        assert is_empty(hub)
        poor.is_rich = True
        await is_served_once(hub)


class Unaffordable:
    """Its encoding takes more memory than there is."""

    def __init__(self) -> None:
        self.__dict__["field"] = 1

    @property
    def __dataclass_fields__(self) -> dict[str, Any]:
        raise MemoryError


async def test_r08_in_what_is_published() -> None:
    async with running() as hub:
        before = hub.statistics().channels["events"].head
        for publish in (hub.publish, hub.submit):
            with pytest.raises(Exception) as raised:  # noqa: PT011 - whichever it is, in the caller's frame
                publish("events", Unaffordable())
            assert isinstance(raised.value, (MemoryError, HubError))

        assert hub.statistics().channels["events"].head == before
        await is_served_once(hub)


def is_of_the_engine(code: CodeType) -> bool:
    # `whole.py` and `publish` set flags that are there already, which takes no memory.
    is_flagging = code.co_name == "publish" or code.co_filename.endswith("whole.py")
    return code.co_filename.startswith(f"{OURS}/core") and not is_flagging


async def runs_out_at(number: int) -> tuple[bool, bool]:
    """Use a hub while memory runs out at a line of its own; whether there is such a line, and the hub has ended."""
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


async def test_r08_within_the_engine() -> None:
    """It has happened or it has not, and all goes on; or nobody can tell, and the hub ends all clients and says so."""
    ends = 0
    number = 1
    is_there = True
    while is_there:
        is_there, has_ended = await runs_out_at(number)
        ends += has_ended
        number += 41  # each line would take a minute; 41 has no rhythm in common with the loops
    assert number > 1000
    assert ends > 10
