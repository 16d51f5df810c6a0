"""No step of the engine is met half-way: not by a signal handler, nor after memory has run out in one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.atomic import atomic, atomic_each
from analytics_hub.core.engine import Engine
from analytics_hub.core.session import Session
from analytics_hub.exceptions import HubError
from analytics_hub.identity import Identity
from analytics_hub.protocol import Parsed

from .rig import FakeTransport
from .wire import LineWire


class Stairs:
    """Whose steps do what they are told."""

    def __init__(self) -> None:
        self.is_busy = False
        self.is_broken = False

    @atomic
    def climb(self, fault: Exception | None = None) -> bool:
        if fault is not None:
            raise fault
        return self.is_busy

    @atomic
    def trip(self) -> None:
        self.climb()

    def each(self, *faults: Exception | None) -> Iterator[bool]:
        return atomic_each(self, (self._look(fault) for fault in faults))

    def _look(self, fault: Exception | None) -> bool:
        if fault is not None:
            raise fault
        return self.is_busy


def test_a_step_is_taken_alone() -> None:
    stairs = Stairs()

    assert stairs.climb()
    assert not stairs.is_busy
    with pytest.raises(HubError, match="a signal handler may call publish and delete"):
        stairs.trip()
    assert not stairs.is_busy
    assert not stairs.is_broken


def test_between_two_of_several_steps_there_may_be_others() -> None:
    stairs = Stairs()
    seen = [(was_busy, stairs.is_busy, stairs.climb()) for was_busy in stairs.each(None, None)]

    assert seen == [(True, False, True)] * 2


def test_a_fault_ends_one_step_and_a_want_of_memory_all() -> None:
    stairs = Stairs()
    with pytest.raises(KeyError):
        stairs.climb(KeyError("a fault"))
    assert stairs.climb()
    with pytest.raises(MemoryError):
        stairs.climb(MemoryError())
    assert stairs.is_broken
    assert not stairs.is_busy
    with pytest.raises(HubError, match="memory has run out"):
        stairs.climb()


def test_so_it_is_for_several_steps() -> None:
    stairs = Stairs()
    with pytest.raises(MemoryError):
        list(stairs.each(None, MemoryError()))

    assert stairs.is_broken
    assert not stairs.is_busy


def test_a_broken_engine_does_nothing_any_more() -> None:
    engine = Engine([Channel("events")], nonce="nonce")
    session = engine.connect(FakeTransport(), LineWire(), Identity(id="alice"), 0.0, id="session")
    engine.is_busy = True
    with pytest.raises(HubError, match="signal handler"):
        engine.publish("events", b"1", 0.0)
    engine.is_busy = False
    engine._publish = lambda *arguments: (_ for _ in ()).throw(MemoryError())  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        engine.publish("events", b"1", 0.0)

    assert engine.is_broken
    with pytest.raises(HubError, match="memory has run out"):
        engine.publish("events", b"1", 0.0)
    engine.drain(1.0, 0.0)
    engine.disconnect(session, 0.0)  # a transport that cleans up has done nothing wrong
    assert engine.sessions


class Unreadable:
    name = "unreadable"
    has_cursor = False

    def frame(self, items: object) -> bytes:
        return b""

    def parse(self, data: str | bytes) -> list[Parsed]:
        raise MemoryError


def test_a_frame_that_cannot_be_parsed_for_want_of_memory_breaks_nothing() -> None:
    engine = Engine([Channel("events")], nonce="nonce")
    session: Session = engine.connect(FakeTransport(), Unreadable(), Identity(id="alice"), 0.0, id="session")
    with pytest.raises(MemoryError):
        engine.receive_data(session, "{}", 0.0)

    assert not engine.is_broken
    assert engine.publish("events", b"1", 0.0) is not None
