"""No step of the engine can be entered halfway: not by a signal handler, nor after memory has run out in one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.atomic import atomic, atomic_each
from analytics_hub.core.engine import Engine
from analytics_hub.exceptions import HubError
from analytics_hub.identity import Identity
from analytics_hub.protocol import Parsed

from .rig import FakeTransport
from .wire import LineWire


class Steps:
    """Each step raises a given exception, or returns whether it is under way."""

    def __init__(self) -> None:
        self.is_busy = False
        self.is_broken = False

    def _step(self, error: Exception | None) -> bool:
        if error is not None:
            raise error
        return self.is_busy

    @atomic
    def one(self, error: Exception | None = None) -> bool:
        return self._step(error)

    @atomic
    def nested(self) -> None:
        self.one()

    def several(self, *errors: Exception | None) -> Iterator[bool]:
        return atomic_each(self, map(self._step, errors))


def test_a_step_cannot_begin_within_another() -> None:
    steps = Steps()

    assert steps.one()
    assert not steps.is_busy
    with pytest.raises(HubError, match="a signal handler may call publish and delete"):
        steps.nested()
    assert not steps.is_busy
    assert not steps.is_broken


def test_other_steps_may_run_between_the_values_of_an_iterator() -> None:
    steps = Steps()
    seen = [(was_busy, steps.is_busy, steps.one()) for was_busy in steps.several(None, None)]

    assert seen == [(True, False, True)] * 2


def test_an_exception_ends_one_step_and_a_memory_error_all() -> None:
    steps = Steps()
    with pytest.raises(KeyError):
        steps.one(KeyError("a bug"))
    assert steps.one()
    with pytest.raises(MemoryError):
        steps.one(MemoryError())
    assert steps.is_broken
    assert not steps.is_busy
    with pytest.raises(HubError, match="memory has run out"):
        steps.one()


def test_a_memory_error_in_an_iterator_ends_all() -> None:
    steps = Steps()
    with pytest.raises(MemoryError):
        list(steps.several(None, MemoryError()))

    assert steps.is_broken
    assert not steps.is_busy


def test_a_broken_engine_does_nothing() -> None:
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
    engine.disconnect(session, 0.0)  # a transport that cleans up makes no mistake
    assert engine.sessions


class UnreadableWire(LineWire):
    def parse(self, data: str | bytes) -> list[Parsed]:
        raise MemoryError


def test_a_frame_that_cannot_be_parsed_for_lack_of_memory_breaks_nothing() -> None:
    engine = Engine([Channel("events")], nonce="nonce")
    session = engine.connect(FakeTransport(), UnreadableWire(), Identity(id="alice"), 0.0, id="session")
    with pytest.raises(MemoryError):
        engine.receive_data(session, "{}", 0.0)

    assert not engine.is_broken
    assert engine.publish("events", b"1", 0.0) is not None
