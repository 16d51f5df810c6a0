"""The simulated back office: its events are consistent, determined by the seed, and published at the requested rate."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, pairwise
from random import Random
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_hub import Hub, HubClosed, Identity, Tuning, anonymous
from analytics_hub.demo.alarms import Alarm
from analytics_hub.demo.liquidity import LPS, LiquidityPool, LiquidityProvider
from analytics_hub.demo.market import SYMBOLS, Market
from analytics_hub.demo.office import BackOffice, Event
from analytics_hub.demo.pacing import MAX_LAG, TICK, Pace, publish_events, validate_rate
from analytics_hub.trading import CHANNELS, Alert, ExposureUpdate, LPMetrics, RoutingDecision, assess
from analytics_hub.transports.memory import MemoryClient, subscribe

from ..project.layout import ROOT

pytestmark = pytest.mark.anyio

SEEDS = st.integers(0, 2**64)
DIGEST = """
import hashlib, msgspec
from itertools import islice
from analytics_hub.demo.office import BackOffice
print(hashlib.sha256(msgspec.json.encode(list(islice(BackOffice(7), 5000)))).hexdigest())
"""


def events_of(office: Iterable[Event], count: int) -> list[Event]:
    return list(islice(office, count))


@cache
def long_day() -> list[Event]:
    """Enough events for every state of the market and of the LPs."""
    return events_of(BackOffice(1), 60_000)


def wire_data(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event.data))
    return data


@dataclass
class Reader:
    """What a client can compute from the channels alone: sums over the data on the wire."""

    by_symbol: Counter[str] = field(default_factory=Counter)
    by_lp: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    lps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, event: Event) -> dict[str, Any]:
        data = wire_data(event)
        if event.channel == "routing-metrics":
            self._read_decision(data)
        elif event.channel == "lp-performance":
            assert event.key == data["lpName"]
            self.lps[data["lpName"]] = data
        return data

    def _read_decision(self, data: dict[str, Any]) -> None:
        decision = data["routingDecision"]
        amount = data["volume"] if data["side"] == "BUY" else -data["volume"]
        self.decisions[decision] += 1
        if decision in ("ABOOK", "HEDGE"):
            self.by_lp[data["lpName"]] += amount
        if decision == "BBOOK":
            self.by_symbol[data["symbol"]] += amount
        elif decision == "HEDGE":
            self.by_symbol[data["symbol"]] -= amount

    @property
    def total(self) -> int:
        return sum(abs(amount) for amount in self.by_symbol.values())

    def agrees_with(self, exposure: ExposureUpdate) -> bool:
        data = msgspec.json.decode(msgspec.json.encode(exposure))
        return (
            data["bySymbol"] == {symbol.name: self.by_symbol[symbol.name] for symbol in SYMBOLS}
            and data["byLP"] == {name: self.by_lp[name] for name in LPS}
            and data["totalExposure"] == self.total
            and data["netExposure"] == sum(self.by_symbol.values())
            and (data["utilizationPct"], data["riskLevel"]) == assess(self.total, data["exposureLimit"])
        )


class TestDeterminism:
    def test_a_seed_gives_the_same_bytes_in_any_process(self) -> None:
        here = hashlib.sha256(msgspec.json.encode(events_of(BackOffice(7), 5000))).hexdigest()

        there = subprocess.run(
            [sys.executable, "-c", DIGEST],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=True,
        )

        assert there.stdout.strip() == here

    def test_another_seed_gives_other_events(self) -> None:
        assert events_of(BackOffice(1), 50) != events_of(BackOffice(2), 50)


class TestBooks:
    @given(SEEDS, st.integers(0, 600), st.sampled_from([1, 50_000, 1_000_000, 14_000_000]))
    @settings(max_examples=40)
    def test_the_exposure_is_the_exact_sum_of_the_decisions_after_every_event(
        self, seed: int, steps: int, limit: int
    ) -> None:
        office = BackOffice(seed, exposure_limit=limit, symbol_limit=max(1, limit // 4))
        reader = Reader()
        for event in islice(office, steps):
            reader.read(event)
            assert reader.agrees_with(office.exposure())
            if isinstance(event.data, ExposureUpdate):
                assert event.data == office.exposure()


class TestRouting:
    @given(SEEDS, st.sampled_from([200_000, 3_000_000, 14_000_000]))
    @settings(max_examples=20)
    def test_rules(self, seed: int, limit: int) -> None:
        """Orders go to connected LPs, and what no LP accepts is kept only within the limits."""
        reader = Reader()
        for event in islice(BackOffice(seed, exposure_limit=limit, symbol_limit=limit // 4), 1500):
            before, kept = reader.total, Counter(reader.by_symbol)
            data = reader.read(event)
            if not isinstance(event.data, RoutingDecision):
                continue
            kept_after = abs(reader.by_symbol[event.data.symbol])
            match event.data.routing_decision:
                case "ABOOK":
                    assert reader.lps[data["lpName"]]["status"] != "disconnected"
                case "BBOOK":
                    assert data["lpName"] is None
                    assert kept_after <= max(limit // 4, abs(kept[event.data.symbol]))
                    if data["volume"] >= 500_000:
                        assert reader.total <= max(limit, before)
                case "HEDGE":
                    assert reader.lps[data["lpName"]]["status"] != "disconnected"
                    assert reader.total == before - data["volume"]
                case "REJECT":
                    assert data["lpName"] is None
                    assert reader.total == before
                case other:
                    raise AssertionError(other)

    def test_with_minimal_limits_orders_that_no_lp_accepts_are_rejected(self) -> None:
        reader = Reader()
        for event in islice(BackOffice(1, exposure_limit=1, symbol_limit=1), 30_000):
            reader.read(event)

        assert reader.decisions["REJECT"] > 0
        assert "BBOOK" not in reader.decisions

    def test_every_decision_and_every_lp_occurs(self) -> None:
        decisions = [event.data for event in long_day() if isinstance(event.data, RoutingDecision)]

        assert {"ABOOK", "BBOOK", "HEDGE"} <= {decision.routing_decision for decision in decisions}
        assert {decision.lp_name for decision in decisions} == {None, *LPS}


class TestMix:
    def test_most_events_are_routing_decisions_and_few_are_alerts(self) -> None:
        counts = Counter(event.channel for event in long_day())
        total = len(long_day())

        assert 0.78 < counts["routing-metrics"] / total < 0.82
        assert counts["exposure-updates"] / total > 0.1
        assert counts["lp-performance"] / total > 0.05
        assert 0 < counts["alerts"] / total < 0.005

    def test_every_event_has_the_data_of_its_channel(self) -> None:
        schemas = {channel.name: channel.schema for channel in CHANNELS}

        assert all(type(event.data) is schemas[event.channel] for event in long_day())

    def test_the_first_events_are_every_lp_and_the_exposure(self) -> None:
        """A dashboard has something to show at once, at any rate."""
        events = events_of(BackOffice(1), len(LPS) + 1)

        assert [event.key for event in events] == [*LPS, None]
        assert events[-1].data == BackOffice(1).exposure()

    def test_the_exposure_is_published_only_if_it_has_changed_and_reaches_every_risk_level(self) -> None:
        updates = [event.data for event in long_day() if isinstance(event.data, ExposureUpdate)]

        assert all(one.by_symbol != other.by_symbol for one, other in pairwise(updates))
        assert {update.risk_level for update in updates} == {"low", "medium", "high", "critical"}


class TestMarket:
    def test_prices_stay_above_zero(self) -> None:
        market = Market(lambda: 0.0)  # every move is the largest one down
        for symbol in SYMBOLS:
            moved = sum(market.move(symbol, symbol.price // 3) for _ in range(3))

            assert symbol.price + moved == symbol.price // 2

    def test_stress_widens_spreads(self) -> None:
        spreads = {
            event.data.spread
            for event in long_day()
            if isinstance(event.data, RoutingDecision) and event.data.symbol == "EURUSD"
        }

        assert spreads == {0.00008, 0.00024}


class TestLiquidity:
    def test_the_metrics_follow_the_status(self) -> None:
        seen: dict[str, list[LPMetrics]] = {"connected": [], "degraded": [], "disconnected": []}
        for event in long_day():
            if isinstance(event.data, LPMetrics) and event.data.lp_name == "LMAX":
                seen[event.data.status].append(event.data)

        connected, degraded, disconnected = seen.values()
        assert max(lp.latency_ms for lp in connected) < min(lp.latency_ms for lp in degraded)
        assert min(lp.quotes_per_second for lp in connected) > max(lp.quotes_per_second for lp in degraded)
        assert {(lp.latency_ms, lp.quotes_per_second, lp.execution_quality) for lp in disconnected} == {(0, 0, 0.0)}
        assert max(lp.reject_rate for lp in degraded) > min(lp.reject_rate for lp in connected)
        assert disconnected[-1].uptime < 100 > connected[-1].uptime > 50
        assert all(0 <= lp.execution_quality <= 1 for lps in seen.values() for lp in lps)
        assert all(0 <= lp.reject_rate <= 1 for lps in seen.values() for lp in lps)

    def test_a_lost_connection_is_reported_once_until_the_lp_has_recovered(self) -> None:
        jitter = 0.5
        chances = iter(number for chance in [0.0, 0.3, 0.0, 0.3, 0.9, 0.0, 0.0, 0.9] for number in (chance, jitter))
        lp = LiquidityProvider(0, lambda: next(chances))

        changes = [(lp.review(is_stressed=False), lp.status) for _ in range(8)]

        assert changes == [
            (None, "degraded"),
            ("lost", "disconnected"),
            (None, "degraded"),
            (None, "disconnected"),
            (None, "disconnected"),
            (None, "degraded"),
            ("recovered", "connected"),
            (None, "connected"),
        ]

    def test_an_order_goes_to_the_best_lp_then_to_the_next_best_one(self) -> None:
        chances = iter([0.5, 0.01, 0.5, 0.01, 0.01])
        pool = LiquidityPool(lambda: next(chances))
        first, second, *_ = sorted(pool.lps, key=lambda lp: lp.cost(SYMBOLS[0]))

        placed = [pool.place(SYMBOLS[0]) for _ in range(3)]

        assert placed == [
            (first.name, 1 + first.latency_ms),
            (second.name, 1 + first.latency_ms + second.latency_ms),
            (None, 1 + first.latency_ms + second.latency_ms),
        ]

    def test_without_a_connected_lp_an_order_is_not_placed(self) -> None:
        pool = LiquidityPool(Random(1).random)
        for lp in pool.lps:
            lp.status = "disconnected"

        assert pool.place(SYMBOLS[0]) == (None, 1)


class TestAlarm:
    @given(st.integers(0, 100), st.integers(0, 20), st.lists(st.integers(-10, 120), max_size=200))
    def test_changes_alternate(self, raise_at: int, width: int, values: list[int]) -> None:
        alarm = Alarm(raise_at=raise_at, clear_below=raise_at - width)

        changes = [(change, value) for value in values if (change := alarm.update(value))]

        assert [change for change, _ in changes] == [("raised", "cleared")[n % 2] for n in range(len(changes))]
        assert all(value >= raise_at for change, value in changes if change == "raised")
        assert all(value < raise_at - width for change, value in changes if change == "cleared")
        assert alarm.is_raised == (len(changes) % 2 == 1)

    def test_thresholds_are_exact(self) -> None:
        alarm = Alarm(raise_at=80, clear_below=70)

        changes = [alarm.update(value) for value in (79, 80, 90, 70, 69, 70, 79, 80)]

        assert changes == [None, "raised", None, None, "cleared", None, None, "raised"]


class TestAlerts:
    def test_exposure_alerts_are_correct_and_alternate(self) -> None:
        """An alert follows the decision that caused it, and its opposite comes before it is repeated."""
        reader = Reader()
        directions: dict[str, list[str]] = {}
        for event in long_day():
            reader.read(event)
            if not isinstance(event.data, Alert) or event.data.category != "exposure":
                continue
            is_above = " above " in event.data.title
            what, _, rest = event.data.title.partition(" above " if is_above else " below ")
            threshold = int(rest.split()[0])
            amount, limit = (reader.total, 14_000_000)
            if what != "Exposure":
                amount, limit = abs(reader.by_symbol[what.split()[0]]), 3_000_000
            assert (100 * amount >= threshold * limit) is is_above
            assert f"at {100 * amount // limit} %" in event.data.message
            assert (event.data.severity == "info") is not is_above
            assert (event.data.suggested_actions == ()) is not is_above
            pair = {75: "high", 60: "high", 90: "critical", 70: "critical"}[threshold] if what == "Exposure" else what
            directions.setdefault(pair, []).append("above" if is_above else "below")

        assert {"high", "critical", "EURUSD exposure"} <= set(directions)
        for changes in directions.values():
            assert changes == [("above", "below")[number % 2] for number in range(len(changes))]

    def test_lp_alerts_follow_the_metrics_and_alternate(self) -> None:
        reader = Reader()
        by_lp: dict[str, list[str]] = {}
        for event in long_day():
            reader.read(event)
            if isinstance(event.data, Alert) and event.data.category == "lp":
                name, change = event.data.title.split()
                assert reader.lps[name]["status"] == {"disconnected": "disconnected", "recovered": "connected"}[change]
                by_lp.setdefault(name, []).append(change)

        assert by_lp
        for changes in by_lp.values():
            assert changes == [("disconnected", "recovered")[number % 2] for number in range(len(changes))]


class FakeTime:
    """A clock that advances only while sleeping. `lag` returns by how much each sleep is longer than requested."""

    def __init__(self, lag: Callable[[], float] = lambda: 0.0) -> None:
        self.now = 1000.0
        self._lag = lag

    def clock(self) -> float:
        return self.now

    async def sleep(self, delay: float) -> None:
        assert delay >= TICK
        self.now += delay + self._lag()


class FakeHub:
    """Records what is published, and shuts down after a time."""

    def __init__(self, time: FakeTime | None = None, *, closes_after: float = 0.0) -> None:
        self.published: list[tuple[str, object, str | None]] = []
        self.times: list[float] = []
        self._time = time or FakeTime()
        self._closes_at = self._time.now + closes_after if closes_after else None

    def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None:
        if self._closes_at is not None and self._time.now >= self._closes_at:
            raise HubClosed("this hub has been shut down")
        assert type is None
        self.published.append((channel, data, key))
        self.times.append(self._time.now)


class TestPublishEvents:
    @pytest.mark.parametrize(("rate", "seconds"), [(1, 20), (2.5, 20), (333, 20), (20_000, 1)])
    async def test_the_rate_is_exact(self, rate: float, seconds: int) -> None:
        time = FakeTime()
        hub = FakeHub(time, closes_after=seconds)

        published = await publish_events(hub, BackOffice(1), rate, clock=time.clock, sleep=time.sleep)

        assert published == len(hub.published)
        assert rate * (seconds - 2 * TICK) <= published <= rate * seconds + 1

    @pytest.mark.parametrize(("rate", "seconds"), [(1, 20), (30, 20), (20_000, 1)])
    async def test_late_wake_ups_do_not_accumulate(self, rate: float, seconds: int) -> None:
        random = Random(1)
        time = FakeTime(lag=lambda: random.random() * (MAX_LAG - 2 * TICK))
        hub = FakeHub(time, closes_after=seconds)

        published = await publish_events(hub, BackOffice(1), rate, clock=time.clock, sleep=time.sleep)

        assert rate * (seconds - 2 * MAX_LAG) - 1 <= published <= rate * seconds + 1

    async def test_a_blocked_event_loop_does_not_cause_a_burst(self) -> None:
        lags = iter([0.0, 0.0, 60.0])
        time = FakeTime(lag=lambda: next(lags, 0.0))
        hub = FakeHub(time, closes_after=62)

        await publish_events(hub, BackOffice(1), 1000, clock=time.clock, sleep=time.sleep)

        assert max(Counter(hub.times).values()) <= 1000 * MAX_LAG
        assert 1900 <= len(hub.published) <= 2200  # the two seconds around the lag, and what is caught up

    async def test_every_event_is_published_once_up_to_the_count(self) -> None:
        time = FakeTime()
        office, hub = BackOffice(5), FakeHub(time)

        published = await publish_events(hub, office, 500, count=1234, clock=time.clock, sleep=time.sleep)

        *expected, following = events_of(BackOffice(5), 1235)
        assert published == 1234
        assert hub.published == [(event.channel, event.data, event.key) for event in expected]
        assert next(office) == following

    async def test_a_hub_that_was_never_open_raises(self) -> None:
        class Closed:
            def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None:
                raise HubClosed("not entered")

        with pytest.raises(HubClosed, match="not entered"):
            await publish_events(Closed(), BackOffice(1), 10)

    @pytest.mark.parametrize("rate", [0, 0.99, 20_001, float("nan"), True, None, "100"], ids=repr)
    async def test_an_invalid_rate_raises_before_the_first_event(self, rate: Any) -> None:
        hub = FakeHub()

        with pytest.raises(ValueError, match="it must be a number from 1 to 20,000 events a second"):
            await publish_events(hub, BackOffice(1), rate)

        assert hub.published == []

    @pytest.mark.parametrize("rate", [1, 2.5, 20_000])
    def test_valid_rates(self, rate: float) -> None:
        assert validate_rate(rate) == rate

    async def test_other_tasks_run_even_at_the_maximum_rate(self) -> None:
        """With the real clock."""
        hub = FakeHub()
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.sleep(0.001)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(count_turns)
                await publish_events(hub, BackOffice(1), 20_000, count=3000)
                tasks.cancel_scope.cancel()

        assert len(hub.published) == 3000
        assert turns > 1

    async def test_it_can_be_cancelled(self) -> None:
        hub = FakeHub()

        with anyio.fail_after(30), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish_events, hub, BackOffice(1), 10)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()

        assert len(hub.published) >= 1

    async def test_a_client_of_a_real_hub_receives_the_events(self) -> None:
        """All decisions and alerts, the newest metrics of each LP, and the newest exposure."""
        admin = Identity(id="a", roles=frozenset({"admin"}))
        events = events_of(BackOffice(11), 3000)
        items: list[dict[str, Any]] = []

        async def receive(client: MemoryClient) -> None:
            async for batch in client:
                items.extend(batch)

        with anyio.fail_after(60):
            async with (
                Hub(CHANNELS, authenticate=anonymous, tuning=Tuning(rate=None), grace=30.0) as hub,
                subscribe(hub, *(channel.name for channel in CHANNELS), identity=admin) as client,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(receive, client)
                await publish_events(hub, BackOffice(11), 20_000, count=len(events))
                await hub.shutdown()

        published = {
            channel.name: [wire_data(event) for event in events if event.channel == channel.name]
            for channel in CHANNELS
        }
        received = {
            channel.name: [item for item in items if item.get("channel") == channel.name] for channel in CHANNELS
        }
        assert [item["type"] for item in items if item["type"].startswith("$")] == ["$drain"]
        for name in ("routing-metrics", "alerts"):
            assert [item["data"] for item in received[name]] == published[name]
        newest = {data["lpName"]: data for data in published["lp-performance"]}
        assert {item["key"]: item["data"] for item in received["lp-performance"]} == newest
        assert received["exposure-updates"][-1]["data"] == published["exposure-updates"][-1]


class TestPace:
    @given(st.floats(1, 20_000), st.lists(st.floats(0, MAX_LAG / 2), max_size=100))
    def test_the_number_of_due_events_depends_on_the_time_alone(self, rate: float, steps: list[float]) -> None:
        now = 1e6
        pace = Pace(rate, now)
        published = pace.due(now)
        pace.published(published)
        for step in steps:
            now += step
            due = pace.due(now)
            pace.published(due)
            published += due

            if rate * MAX_LAG / 2 >= 1:  # otherwise the limit of one event at a time applies
                assert published == 1 + int((now - 1e6) * rate)

    def test_a_clock_that_goes_back(self) -> None:
        pace = Pace(100, 10.0)
        pace.published(pace.due(10.0))

        assert pace.due(5.0) == 0
        assert pace.delay(5.0) > 5.0
