"""The simulated back office: what it says adds up, is the same for the same seed, and comes at the rate asked for."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any, assert_never

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_hub import Hub, HubClosed, Identity, Tuning, anonymous
from analytics_hub.demo.alarms import Alarm
from analytics_hub.demo.driver import MOST_BEHIND, TICK, Pace, check_rate, run
from analytics_hub.demo.liquidity import LPS, LiquidityPool, LiquidityProvider
from analytics_hub.demo.market import SYMBOLS, Market
from analytics_hub.demo.office import BackOffice, Event
from analytics_hub.trading import CHANNELS, Alert, ExposureUpdate, LPMetrics, RoutingDecision, assess
from analytics_hub.transports.memory import MemoryClient, subscribe

from ..project.layout import ROOT

pytestmark = pytest.mark.anyio

SEEDS = st.integers(0, 2**64)
DIGEST_OF_A_SEED = """
import hashlib, msgspec
from analytics_hub.demo.office import BackOffice
print(hashlib.sha256(msgspec.json.encode(BackOffice(7).take(20_000))).hexdigest())
"""


@dataclass
class Reader:
    """What somebody knows who only reads the channels: plain sums over what is on the wire."""

    by_symbol: Counter[str] = field(default_factory=Counter)
    by_lp: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    lp_orders: Counter[str] = field(default_factory=Counter)
    lp_volume: Counter[str] = field(default_factory=Counter)
    lps: dict[str, dict[str, Any]] = field(default_factory=dict)
    alerts: int = 0
    events: int = 0

    def read(self, event: Event) -> dict[str, Any]:
        data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event.data))
        self.events += 1
        if event.channel == "routing-metrics":
            self._read_decision(data)
        elif event.channel == "lp-performance":
            assert event.key == data["lpName"]
            self.lps[data["lpName"]] = data
        elif event.channel == "alerts":
            self.alerts += 1
        return data

    def _read_decision(self, data: dict[str, Any]) -> None:
        decision, lp = data["routingDecision"], data["lpName"]
        amount = data["volume"] if data["side"] == "BUY" else -data["volume"]
        self.decisions[decision] += 1
        if decision in ("ABOOK", "HEDGE"):
            self.by_lp[lp] += amount
            self.lp_orders[lp] += 1
            self.lp_volume[lp] += data["volume"]
        if decision == "BBOOK":
            self.by_symbol[data["symbol"]] += amount
        elif decision == "HEDGE":
            self.by_symbol[data["symbol"]] -= amount

    @property
    def total(self) -> int:
        return sum(abs(amount) for amount in self.by_symbol.values())

    def agrees_with(self, exposure: ExposureUpdate) -> bool:
        said = msgspec.json.decode(msgspec.json.encode(exposure))
        return (
            said["bySymbol"] == {symbol.name: self.by_symbol[symbol.name] for symbol in SYMBOLS}
            and said["byLP"] == {name: self.by_lp[name] for name in LPS}
            and said["totalExposure"] == self.total
            and said["netExposure"] == sum(self.by_symbol.values())
            and (said["utilizationPct"], said["riskLevel"]) == assess(self.total, said["exposureLimit"])
        )


class TestDeterminism:
    @pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
    def test_the_same_seed_gives_the_same_bytes_in_any_process(self, hash_seed: str) -> None:
        here = hashlib.sha256(msgspec.json.encode(BackOffice(7).take(20_000))).hexdigest()

        there = subprocess.run(
            [sys.executable, "-c", DIGEST_OF_A_SEED],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )

        assert there.stdout.strip() == here

    def test_another_seed_gives_another_day(self) -> None:
        assert BackOffice(1).take(50) != BackOffice(2).take(50)

    @given(SEEDS, st.lists(st.integers(0, 40), max_size=8))
    def test_however_it_is_taken(self, seed: int, portions: list[int]) -> None:
        office = BackOffice(seed)

        taken = [event for portion in portions for event in office.take(portion)]

        assert taken == BackOffice(seed).take(sum(portions))

    def test_asking_changes_nothing(self) -> None:
        asked, left_alone = BackOffice(3), BackOffice(3)
        for _ in range(200):
            asked.exposure()
            asked.statistics()
            asked.prices()
            assert next(asked) == next(left_alone)


class TestBooks:
    @given(SEEDS, st.integers(0, 1500), st.sampled_from([1, 50_000, 1_000_000, 14_000_000]))
    @settings(max_examples=40)
    def test_exposure_is_the_exact_sum_of_what_was_routed(self, seed: int, steps: int, limit: int) -> None:
        """After every single event, and in every update that was published."""
        office = BackOffice(seed, exposure_limit=limit, symbol_limit=max(1, limit // 4))
        reader = Reader()
        for event in office.take(steps):
            reader.read(event)
            if isinstance(event.data, ExposureUpdate):
                assert reader.agrees_with(event.data)

        assert reader.agrees_with(office.exposure())

    @given(SEEDS)
    @settings(max_examples=10)
    def test_the_books_never_run_ahead_of_what_was_said(self, seed: int) -> None:
        office = BackOffice(seed)
        reader = Reader()
        for event in office:
            reader.read(event)
            assert reader.agrees_with(office.exposure())
            if reader.events == 400:
                break

    @given(SEEDS, st.integers(0, 2000))
    @settings(max_examples=20)
    def test_the_statistics_are_what_a_reader_counts(self, seed: int, steps: int) -> None:
        office = BackOffice(seed)
        reader = Reader()
        for event in office.take(steps):
            reader.read(event)

        statistics = office.statistics()
        assert statistics.events == reader.events == steps
        assert statistics.decisions == reader.decisions
        assert statistics.lp_orders == {name: reader.lp_orders[name] for name in LPS}
        assert statistics.lp_volume == {name: reader.lp_volume[name] for name in LPS}
        assert statistics.alerts == reader.alerts

    @pytest.mark.parametrize("limits", [{"exposure_limit": 0}, {"symbol_limit": -1}], ids=["exposure", "symbol"])
    def test_a_limit_below_a_dollar_is_refused(self, limits: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="it must be at least 1 dollar"):
            BackOffice(1, **limits)


class TestRouting:
    @given(SEEDS, st.sampled_from([200_000, 3_000_000, 14_000_000]))
    @settings(max_examples=20)
    def test_rules(self, seed: int, limit: int) -> None:
        """Orders go to LPs that are there, and what nobody takes is kept only within the limits."""
        reader = Reader()
        for event in BackOffice(seed, exposure_limit=limit, symbol_limit=limit // 4).take(1500):
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

    def test_a_house_without_room_rejects_what_no_lp_takes(self) -> None:
        office = BackOffice(1, exposure_limit=1, symbol_limit=1)
        office.take(30_000)

        decisions = office.statistics().decisions
        assert decisions["REJECT"] > 0
        assert "BBOOK" not in decisions

    def test_every_decision_occurs_in_a_day(self) -> None:
        office = BackOffice(1)
        office.take(20_000)

        assert {"ABOOK", "BBOOK", "HEDGE"} <= set(office.statistics().decisions)
        assert all(orders > 0 for orders in office.statistics().lp_orders.values())


class TestMix:
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_mostly_routing_decisions_and_few_alerts(self, seed: int) -> None:
        counts = Counter(event.channel for event in BackOffice(seed).take(40_000))

        assert 0.78 < counts["routing-metrics"] / 40_000 < 0.82
        assert counts["exposure-updates"] / 40_000 > 0.1
        assert counts["lp-performance"] / 40_000 > 0.05
        assert 0 < counts["alerts"] / 40_000 < 0.005

    def test_begins_with_every_lp_and_the_exposure(self) -> None:
        """So that a dashboard has something to show at once, at any rate."""
        events = BackOffice(1).take(len(LPS) + 1)

        assert [event.key for event in events] == [*LPS, None]
        assert events[-1].data == BackOffice(1).exposure()

    def test_exposure_is_said_only_when_it_changed(self) -> None:
        said = [event.data for event in BackOffice(1).take(20_000) if isinstance(event.data, ExposureUpdate)]

        assert all(one.by_symbol != other.by_symbol for one, other in pairwise(said))

    def test_every_risk_level_occurs(self) -> None:
        said = [event.data for event in BackOffice(1).take(40_000) if isinstance(event.data, ExposureUpdate)]

        assert {update.risk_level for update in said} == {"low", "medium", "high", "critical"}


class TestMarket:
    def test_prices_walk_and_never_reach_zero(self) -> None:
        market = Market(lambda: 0.0)  # every move is the largest one down
        for symbol in SYMBOLS:
            for _ in range(3):
                market.move(symbol, symbol.price // 3)

            assert market.price(symbol) == symbol.price // 2 / symbol.scale

    def test_prices_are_those_of_the_books(self) -> None:
        office = BackOffice(1)
        before = office.prices()
        office.take(2000)

        assert list(before) == [symbol.name for symbol in SYMBOLS]
        assert all(office.prices()[name] != price for name, price in before.items())

    def test_stress_widens_spreads(self) -> None:
        spreads = {
            event.data.spread
            for event in BackOffice(1).take(60_000)
            if isinstance(event.data, RoutingDecision) and event.data.symbol == "EURUSD"
        }

        assert spreads == {0.00008, 0.00024}


class TestLiquidity:
    def test_figures_follow_the_state(self) -> None:
        seen: dict[str, list[LPMetrics]] = {"connected": [], "degraded": [], "disconnected": []}
        for event in BackOffice(1).take(100_000):
            if isinstance(event.data, LPMetrics) and event.data.lp_name == "LMAX":
                seen[event.data.status].append(event.data)

        well, badly, gone = seen.values()
        assert max(lp.latency_ms for lp in well) < min(lp.latency_ms for lp in badly)
        assert min(lp.quotes_per_second for lp in well) > max(lp.quotes_per_second for lp in badly)
        assert {(lp.latency_ms, lp.quotes_per_second, lp.execution_quality) for lp in gone} == {(0, 0, 0.0)}
        assert max(lp.reject_rate for lp in badly) > min(lp.reject_rate for lp in well)
        assert gone[-1].uptime < 100 > well[-1].uptime > 50
        assert all(0 <= lp.execution_quality <= 1 for lps in seen.values() for lp in lps)
        assert all(0 <= lp.reject_rate <= 1 for lps in seen.values() for lp in lps)

    def test_a_lost_connection_is_told_once_until_it_is_whole_again(self) -> None:
        jitter = 0.5
        chances = iter(number for chance in [0.0, 0.3, 0.0, 0.3, 0.9, 0.0, 0.0, 0.9] for number in (chance, jitter))
        lp = LiquidityProvider(0, lambda: next(chances))

        told = [(lp.review(is_stressed=False), lp.status) for _ in range(8)]

        assert told == [
            (None, "degraded"),
            ("lost", "disconnected"),
            (None, "degraded"),
            (None, "disconnected"),
            (None, "disconnected"),
            (None, "degraded"),
            ("recovered", "connected"),
            (None, "connected"),
        ]

    def test_the_best_takes_an_order_and_the_next_best_if_it_will_not(self) -> None:
        chances = iter([0.5, 0.01, 0.5, 0.01, 0.01])
        pool = LiquidityPool(lambda: next(chances))
        first, second, *_ = sorted(pool.lps, key=lambda lp: lp.cost(SYMBOLS[0]))

        placed = [pool.place(SYMBOLS[0]) for _ in range(3)]

        assert placed == [
            (first.name, 1 + first.latency_ms),
            (second.name, 1 + first.latency_ms + second.latency_ms),
            (None, 1 + first.latency_ms + second.latency_ms),
        ]

    def test_nobody_there_takes_nothing(self) -> None:
        pool = LiquidityPool(Random(1).random)
        for lp in pool.lps:
            lp.status = "disconnected"

        assert pool.place(SYMBOLS[0]) == (None, 1)


class TestAlarm:
    @given(st.integers(0, 100), st.integers(0, 20), st.lists(st.integers(-10, 120), max_size=200))
    def test_does_not_flap(self, raise_at: int, width: int, values: list[int]) -> None:
        alarm = Alarm(raise_at=raise_at, clear_below=raise_at - width)

        changes = [(change, value) for value in values if (change := alarm.update(value))]

        assert [change for change, _ in changes] == ["raised", "cleared"] * (len(changes) // 2) + ["raised"] * (
            len(changes) % 2
        )
        assert all(value >= raise_at for change, value in changes if change == "raised")
        assert all(value < raise_at - width for change, value in changes if change == "cleared")
        assert alarm.is_raised == (len(changes) % 2 == 1)

    def test_to_the_point(self) -> None:
        alarm = Alarm(raise_at=80, clear_below=70)

        changes = [alarm.update(value) for value in (79, 80, 90, 70, 69, 70, 79, 80)]

        assert changes == [None, "raised", None, None, "cleared", None, None, "raised"]

    def test_thresholds_the_wrong_way_round(self) -> None:
        with pytest.raises(ValueError, match="clear_below is 90; it must not exceed raise_at, 80"):
            Alarm(raise_at=80, clear_below=90)


class TestAlerts:
    @pytest.mark.parametrize("seed", [1, 2])
    def test_exposure_alerts_say_what_is_so_and_take_turns(self, seed: int) -> None:
        """An alert comes right after the decision that caused it, and its opposite comes before it comes again."""
        reader = Reader()
        said: dict[str, list[str]] = {}
        for event in BackOffice(seed).take(60_000):
            reader.read(event)
            if not isinstance(event.data, Alert) or event.data.category != "exposure":
                continue
            what, _, rest = event.data.title.partition(" above " if " above " in event.data.title else " below ")
            is_above, threshold = " above " in event.data.title, int(rest.split()[0])
            amount, limit = (reader.total, 14_000_000)
            if what != "Exposure":
                amount, limit = abs(reader.by_symbol[what.split()[0]]), 3_000_000
            assert (100 * amount >= threshold * limit) is is_above
            assert f"at {100 * amount // limit} %" in event.data.message
            assert (event.data.severity == "info") is not is_above
            assert (event.data.suggested_actions == ()) is not is_above
            pair = {75: "high", 60: "high", 90: "critical", 70: "critical"}[threshold] if what == "Exposure" else what
            said.setdefault(pair, []).append("above" if is_above else "below")

        assert {"high", "critical", "EURUSD exposure"} <= set(said)
        for turns in said.values():
            assert turns == [("above", "below")[number % 2] for number in range(len(turns))]

    def test_lp_alerts_follow_the_metrics_and_take_turns(self) -> None:
        reader = Reader()
        said: dict[str, list[str]] = {}
        for event in BackOffice(2).take(60_000):
            reader.read(event)
            if isinstance(event.data, Alert) and event.data.category == "lp":
                name, what = event.data.title.split()
                assert reader.lps[name]["status"] == {"disconnected": "disconnected", "recovered": "connected"}[what]
                said.setdefault(name, []).append(what)

        assert said
        for turns in said.values():
            assert turns == [("disconnected", "recovered")[number % 2] for number in range(len(turns))]

    @given(SEEDS)
    @settings(max_examples=10)
    def test_every_event_has_the_data_of_its_channel(self, seed: int) -> None:
        for event in BackOffice(seed).take(500):
            match event.data:
                case RoutingDecision():
                    channel = "routing-metrics"
                case LPMetrics():
                    channel = "lp-performance"
                case ExposureUpdate():
                    channel = "exposure-updates"
                case Alert():
                    channel = "alerts"
                case _:
                    assert_never(event.data)
            assert event.channel == channel


class FakeTime:
    """A clock that only sleeping and working move. `late` says how much longer each sleep takes than asked for."""

    def __init__(self, late: Callable[[], float] = lambda: 0.0) -> None:
        self.now = 1000.0
        self._late = late

    def clock(self) -> float:
        return self.now

    async def sleep(self, delay: float) -> None:
        assert delay >= TICK
        self.now += delay + self._late()


class FakeHub:
    """Records what is published, and shuts down at a time."""

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


class TestDriver:
    @pytest.mark.parametrize(("rate", "seconds"), [(1, 20), (2.5, 20), (60, 20), (100, 20), (333, 20), (20_000, 1)])
    async def test_holds_the_rate(self, rate: float, seconds: int) -> None:
        time = FakeTime()
        hub = FakeHub(time, closes_after=seconds)

        published = await run(hub, BackOffice(1), rate, clock=time.clock, sleep=time.sleep)

        assert published == len(hub.published)
        assert rate * (seconds - 2 * TICK) <= published <= rate * seconds + 1

    @pytest.mark.parametrize(("rate", "seconds"), [(1, 20), (30, 20), (20_000, 1)])
    async def test_sleeps_that_take_too_long_add_up_to_nothing(self, rate: float, seconds: int) -> None:
        random = Random(1)
        time = FakeTime(late=lambda: random.random() * (MOST_BEHIND - 2 * TICK))
        hub = FakeHub(time, closes_after=seconds)

        published = await run(hub, BackOffice(1), rate, clock=time.clock, sleep=time.sleep)

        assert rate * (seconds - 2 * MOST_BEHIND) - 1 <= published <= rate * seconds + 1

    async def test_a_stall_is_not_followed_by_a_flood(self) -> None:
        delays = iter([0.0, 0.0, 60.0])
        time = FakeTime(late=lambda: next(delays, 0.0))
        hub = FakeHub(time, closes_after=62)

        await run(hub, BackOffice(1), 1000, clock=time.clock, sleep=time.sleep)

        assert max(Counter(hub.times).values()) <= 1000 * MOST_BEHIND
        assert 1900 <= len(hub.published) <= 2200  # the two seconds that were not a stall, and what is caught up

    async def test_publishes_what_the_office_tells(self) -> None:
        time = FakeTime()
        hub = FakeHub(time)

        published = await run(hub, BackOffice(5), 500, count=1234, clock=time.clock, sleep=time.sleep)

        assert published == 1234
        assert hub.published == [(event.channel, event.data, event.key) for event in BackOffice(5).take(1234)]

    async def test_stops_between_two_events(self) -> None:
        """Whenever it ends, the books and what was published agree: no event is taken and not published."""
        office = BackOffice(5)
        hub = FakeHub()

        await run(hub, office, 20_000, count=777, clock=(time := FakeTime()).clock, sleep=time.sleep)

        assert office.statistics().events == len(hub.published) == 777

    async def test_a_hub_that_was_never_open_is_a_mistake(self) -> None:
        class Closed:
            def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None:
                raise HubClosed("not entered")

        with pytest.raises(HubClosed, match="not entered"):
            await run(Closed(), BackOffice(1), 10)

    @pytest.mark.parametrize("rate", [0, -1, 0.99, 20_001, float("nan"), float("inf"), True, None, "100"], ids=repr)
    async def test_rates_out_of_range(self, rate: Any) -> None:
        hub = FakeHub()

        with pytest.raises(ValueError, match="it must be a number from 1 to 20,000 events a second"):
            await run(hub, BackOffice(1), rate)

        assert hub.published == []

    @pytest.mark.parametrize("rate", [1, 2.5, 20_000])
    def test_rates_within_range(self, rate: float) -> None:
        assert check_rate(rate) == rate

    async def test_with_the_clock_of_the_machine(self) -> None:
        """And other tasks get their turn meanwhile, at the highest rate too."""
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
                await run(hub, BackOffice(1), 20_000, count=3000)
                tasks.cancel_scope.cancel()

        assert len(hub.published) == 3000
        assert turns > 1

    async def test_can_be_cancelled(self) -> None:
        hub = FakeHub()

        with anyio.fail_after(30), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, hub, BackOffice(1), 10)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()

        assert len(hub.published) >= 1


class TestThroughARealHub:
    async def test_a_client_receives_what_the_simulation_knows(self) -> None:
        """All decisions and alerts, the newest figures of each LP and the newest exposure, to the last dollar."""
        admin = Identity(id="a", roles=frozenset({"admin"}))
        told = BackOffice(11).take(3000)
        office, reader = BackOffice(11), Reader()
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
                await run(hub, office, 20_000, count=len(told))
                await hub.shutdown()

        received = {
            channel.name: [item for item in items if item.get("channel") == channel.name] for channel in CHANNELS
        }
        for event in told:
            reader.read(event)
        assert [item["type"] for item in items if item["type"].startswith("$")] == ["$drain"]
        assert [item["data"] for item in received["routing-metrics"]] == data_of(told, "routing-metrics")
        assert [item["data"] for item in received["alerts"]] == data_of(told, "alerts")
        assert {item["key"]: item["data"] for item in received["lp-performance"]} == reader.lps
        assert received["exposure-updates"][-1]["data"] == data_of(told, "exposure-updates")[-1]
        assert reader.agrees_with(office.exposure())


def data_of(events: list[Event], channel: str) -> list[Any]:
    return [msgspec.json.decode(msgspec.json.encode(event.data)) for event in events if event.channel == channel]


class TestPace:
    @given(
        st.floats(1, 20_000),
        st.lists(st.floats(0, MOST_BEHIND / 2), max_size=100),
    )
    def test_what_is_due_depends_on_the_time_alone(self, rate: float, steps: list[float]) -> None:
        now = 1e6
        pace = Pace(rate, now)
        taken = pace.due(now)
        pace.take(taken)
        for step in steps:
            now += step
            due = pace.due(now)
            pace.take(due)
            taken += due

            if rate * MOST_BEHIND / 2 >= 1:  # else the bound of one event at a time comes into it
                assert taken == 1 + int((now - 1e6) * rate)

    def test_a_clock_that_goes_back(self) -> None:
        pace = Pace(100, 10.0)
        pace.take(pace.due(10.0))

        assert pace.due(5.0) == 0
        assert pace.wait(5.0) > 5.0
