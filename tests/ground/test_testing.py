"""`ManualClock`, for the tests of applications."""

from __future__ import annotations

import pytest

from analytics_hub import Tuning
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import subscribe

from ..hub.rig import read_data, running


def test_a_manual_clock_moves_both_clocks() -> None:
    clock = ManualClock(now=5.0, wall=100.0)
    before = clock(), clock.wall()
    clock.advance(2.5)
    after = clock(), clock.wall()
    clock.shift_wall(-50.0)

    assert before == (5.0, 100.0)
    assert after == (7.5, 102.5)
    assert (clock(), clock.wall()) == (7.5, 52.5)


@pytest.mark.anyio
async def test_a_hub_acts_when_its_clock_has_moved() -> None:
    """An hour passes in no time."""
    clock = ManualClock()
    async with running(tuning=Tuning(interval=60.0), clock=clock, wall_clock=clock.wall) as hub:
        clock.attach(hub)
        async with subscribe(hub, "events") as client:
            for number in range(60):
                hub.publish("events", number)
                assert await read_data(client, "events", 1) == [number]
                clock.advance(60.0)
