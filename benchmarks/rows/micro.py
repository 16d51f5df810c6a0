"""The cost of single calls, in this process and without a socket."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import anyio

from analytics_hub.core.bucket import TokenBucket
from analytics_hub.hub import Hub
from analytics_hub.tuning import Tuning

from ..contest import Effort
from ..servers.item import DATA_BYTES, stamped
from ..servers.ours import authenticate
from ..table import Row
from .rig import CHANNELS, Rig
from .timing import median_of_ratios, median_us, per_call_us, quiet

FEW = 10
BURST = 100
NO_LIMIT = Tuning(rate=None)


def publish(effort: Effort) -> list[Row]:
    """`publish` of the engine for few and for many subscribers, in turns, with a flush after each burst."""
    rows = [_struct(effort)]  # first, before the caches are full of subscribers
    many = effort.connections
    rigs = {"few": Rig(NO_LIMIT), "one cohort": Rig(NO_LIMIT), "cohorts": Rig(NO_LIMIT)}
    rigs["few"].connect([["bench"]] * FEW)
    rigs["one cohort"].connect([["bench"]] * many)
    rigs["cohorts"].connect([["bench", f"own:{number}"] for number in range(many)])
    times: dict[str, list[float]] = {name: [] for name in rigs}
    data = b'{"t":%b}' % (b"1" * (DATA_BYTES - 6))
    with quiet():
        for _ in range(5 * effort.rounds):
            for name, rig in rigs.items():
                call = _publish_call(rig, data)
                per_call_us(call, BURST)  # the first calls run with the caches of the last flush
                times[name].append(per_call_us(call, BURST))
                rig.pump(elapsed=0.02)
    assert rigs["cohorts"].engine.statistics().cohorts == many
    rows.append(_against_few(times, "one cohort", f"{many} subscribers in one cohort"))
    rows.append(_against_few(times, "cohorts", f"{many} subscribers in {many} cohorts"))
    return rows


def _publish_call(rig: Rig, data: bytes) -> Callable[[], object]:
    return lambda: rig.engine.publish("bench", data, rig.now)


def _against_few(times: dict[str, list[float]], name: str, what: str) -> Row:
    ratio = median_of_ratios(times[name], times["few"])
    return Row(
        name=f"publish {name}",
        what=f"{what}, one call",
        value=statistics.median(times[name]),
        unit="us",
        against=f"{FEW} subscribers",
        against_value=statistics.median(times["few"]),
        ratio=ratio,
        bar="<= 1.2 x",
        met=ratio <= 1.2,
    )


def _struct(effort: Effort) -> Row:
    """The call of the application: `Hub.publish`, which encodes."""

    async def measure() -> float:
        hub = Hub(CHANNELS, authenticate=authenticate, tuning=NO_LIMIT)
        item = stamped(time.monotonic_ns())
        times: list[float] = []
        with quiet():
            async with hub:
                for _ in range(5 * effort.rounds):
                    times.append(per_call_us(lambda: hub.publish("bench", item), 10 * BURST))
                    await anyio.sleep(0)
        return statistics.median(times)

    value = anyio.run(measure)
    what = f"Hub.publish of a struct of {DATA_BYTES} bytes, one call"
    return Row(name="publish struct", what=what, value=value, unit="us", bar="report; < 5 us expected", met=value < 5)


def flush(effort: Effort) -> list[Row]:
    """One item published, encoded, framed and written to ten transports that discard it."""
    rig = Rig(NO_LIMIT)
    rig.connect([["bench"]] * FEW)
    data = b'{"t":%b}' % (b"1" * (DATA_BYTES - 6))

    def publish_and_flush() -> None:
        rig.engine.publish("bench", data, rig.now)
        rig.pump(elapsed=0.02)

    value = median_us(publish_and_flush, 10 * BURST, 5 * effort.rounds)
    what = f"publish and flush to {FEW} clients, engine"
    return [Row(name="flush", what=what, value=value, unit="us", against="the Go hub it began as", against_value=5)]


def bucket(effort: Effort) -> list[Row]:
    """One `take` of a token bucket that has tokens."""
    tokens = TokenBucket(1e9, 0.0)
    now = 0.0

    def take() -> None:
        nonlocal now
        now += 1e-6
        tokens.take(now)

    value = median_us(take, 100 * BURST, 5 * effort.rounds) * 1000
    return [
        Row(
            name="token bucket",
            what="one check",
            value=value,
            unit="ns",
            against="the Go hub it began as",
            against_value=500,
        )
    ]
