"""The trading profile: its items on the wire, their validation, its channels, and the hub of the process."""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analytics_hub import (
    Channel,
    Hub,
    HubClosed,
    HubError,
    Identity,
    InvalidItem,
    PermissionDenied,
    anonymous,
    trading,
)
from analytics_hub.trading import (
    CHANNELS,
    Alert,
    ExposureUpdate,
    LPMetrics,
    RoutingDecision,
    assess,
    get_hub,
    init_hub,
    notify_alert,
    notify_exposure_change,
    notify_lp_status_change,
    notify_routing_decision,
    process,
    shutdown_hub,
)
from analytics_hub.transports.memory import MemoryClient, subscribe

pytestmark = pytest.mark.anyio

ROUTING: dict[str, Any] = {
    "symbol": "EURUSD",
    "side": "BUY",
    "volume": 10_000,
    "routing_decision": "ABOOK",
    "lp_name": "OANDA",
    "execution_time_ms": 45,
    "spread": 0.00015,
    "slippage": 0.00002,
}
LP: dict[str, Any] = {
    "lp_name": "OANDA",
    "status": "connected",
    "avg_spread": 0.00015,
    "execution_quality": 0.98,
    "latency_ms": 25,
    "quotes_per_second": 500,
    "reject_rate": 0.02,
    "uptime": 99.9,
}
EXPOSURE: dict[str, Any] = {
    "total_exposure": 80_000.0,
    "net_exposure": -20_000.0,
    "exposure_limit": 100_000.0,
    "by_symbol": {"EURUSD": 30_000.0, "GBPUSD": -50_000.0},
    "by_lp": {"OANDA": 80_000.0},
}
ALERT: dict[str, Any] = {
    "severity": "critical",
    "category": "exposure",
    "title": "Exposure limit exceeded",
    "message": "Net exposure is at 95 % of its limit",
    "source": "ExposureMonitor",
    "suggested_actions": ("Review positions", "Consider hedging"),
}
KINDS: list[tuple[type[msgspec.Struct], dict[str, Any]]] = [
    (RoutingDecision, ROUTING),
    (LPMetrics, LP),
    (ExposureUpdate, EXPOSURE),
    (Alert, ALERT),
]
NAMES = [kind.__name__ for kind, _ in KINDS]


WIRE: dict[type[msgspec.Struct], dict[str, Any]] = {
    RoutingDecision: {
        "symbol": "EURUSD",
        "side": "BUY",
        "volume": 10_000,
        "routingDecision": "ABOOK",
        "lpName": "OANDA",
        "executionTimeMs": 45,
        "spread": 0.00015,
        "slippage": 0.00002,
    },
    LPMetrics: {
        "lpName": "OANDA",
        "status": "connected",
        "avgSpread": 0.00015,
        "executionQuality": 0.98,
        "latencyMs": 25,
        "quotesPerSecond": 500,
        "rejectRate": 0.02,
        "uptime": 99.9,
    },
    ExposureUpdate: {
        "totalExposure": 80_000.0,
        "netExposure": -20_000.0,
        "exposureLimit": 100_000.0,
        "bySymbol": {"EURUSD": 30_000.0, "GBPUSD": -50_000.0},
        "byLP": {"OANDA": 80_000.0},
        "utilizationPct": 80.0,
        "riskLevel": "high",
    },
    Alert: {
        "severity": "critical",
        "category": "exposure",
        "title": "Exposure limit exceeded",
        "message": "Net exposure is at 95 % of its limit",
        "source": "ExposureMonitor",
        "suggestedActions": ["Review positions", "Consider hedging"],
    },
}


def on_the_wire(item: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(item))


class NumPyFloat(float):
    """Like `numpy.float64`: a subclass of float that the encoder does not support."""


class Side(enum.StrEnum):
    LONG = "BUY"


class OldSide(str, enum.Enum):  # noqa: UP042  # as in code for Python 3.10
    LONG = "BUY"


class TestItems:
    @pytest.mark.parametrize(("kind", "fields", "wire"), [(*kind, WIRE[kind[0]]) for kind in KINDS], ids=NAMES)
    def test_items_on_the_wire(self, kind: type[msgspec.Struct], fields: dict[str, Any], wire: dict[str, Any]) -> None:
        item = kind(**fields)

        assert on_the_wire(item) == wire
        assert msgspec.json.decode(msgspec.json.encode(item), type=kind) == item

    @pytest.mark.parametrize("lp", ["", None])
    def test_an_order_without_an_lp(self, lp: str | None) -> None:
        item = RoutingDecision(**{**ROUTING, "routing_decision": "BBOOK", "lp_name": lp})

        assert on_the_wire(item)["lpName"] is None

    def test_the_exposure_is_copied(self) -> None:
        """The caller may change its dict later."""
        books = {"EURUSD": 1.0}
        item = ExposureUpdate(**{**EXPOSURE, "by_symbol": books})

        books["EURUSD"] = 2.0

        assert item.by_symbol == {"EURUSD": 1.0}

    def test_computed_fields_cannot_contradict_the_others(self) -> None:
        item = ExposureUpdate(**EXPOSURE, utilization_pct=1.0, risk_level="low")

        assert (item.utilization_pct, item.risk_level) == (80.0, "high")

    def test_items_are_immutable(self) -> None:
        with pytest.raises(AttributeError):
            RoutingDecision(**ROUTING).volume = 1  # type: ignore[misc]

    @pytest.mark.parametrize("side", [Side.LONG, OldSide.LONG], ids=["StrEnum", "str, Enum"])
    def test_members_of_string_enums_become_strings(self, side: str) -> None:
        assert on_the_wire(RoutingDecision(**{**ROUTING, "side": side, "symbol": side})) == {
            **on_the_wire(RoutingDecision(**ROUTING)),
            "side": "BUY",
            "symbol": "BUY",
        }

    @pytest.mark.parametrize("number", [NumPyFloat(0.5), Decimal("0.5"), Fraction(1, 2)], ids=repr)
    def test_other_types_of_numbers_become_int_or_float(self, number: Any) -> None:
        assert on_the_wire(RoutingDecision(**{**ROUTING, "spread": number}))["spread"] == 0.5
        assert on_the_wire(ExposureUpdate(**{**EXPOSURE, "by_lp": {"LMAX": number}}))["byLP"] == {"LMAX": 0.5}

    def test_a_list_of_actions_becomes_a_tuple(self) -> None:
        assert Alert(**{**ALERT, "suggested_actions": ["Wait"]}).suggested_actions == ("Wait",)


REFUSED: list[tuple[type[msgspec.Struct], dict[str, Any], str, Any, str]] = [
    (RoutingDecision, ROUTING, "side", "buy", "side is 'buy'; it must be one of BUY, SELL"),
    (RoutingDecision, ROUTING, "side", ["BUY"], "side is ['BUY']; it must be one of"),
    (RoutingDecision, ROUTING, "routing_decision", "A", "must be one of ABOOK, BBOOK, CBOOK, PARTIAL, HEDGE, REJECT"),
    (RoutingDecision, ROUTING, "symbol", "", "symbol is ''; it must be a non-empty string"),
    (RoutingDecision, ROUTING, "symbol", None, "symbol is None; it must be a non-empty string"),
    (RoutingDecision, ROUTING, "lp_name", 7, "lp_name is 7; it must be a non-empty string"),
    (RoutingDecision, ROUTING, "volume", -1, "volume is -1; it must be a finite number, at least 0"),
    (RoutingDecision, ROUTING, "volume", "10", "volume is '10'; it must be a finite number, at least 0"),
    (RoutingDecision, ROUTING, "volume", True, "volume is True; it must be a finite number, at least 0"),
    (RoutingDecision, ROUTING, "volume", 10**400, "it must be a finite number, at least 0"),
    (RoutingDecision, ROUTING, "volume", 10**5000, "a number of thousands of digits; it must be a finite number"),
    (RoutingDecision, ROUTING, "execution_time_ms", -0.5, "execution_time_ms is -0.5; it must be"),
    (RoutingDecision, ROUTING, "spread", Decimal("NaN"), "spread is Decimal('NaN'); it must be a finite number"),
    (RoutingDecision, ROUTING, "spread", Decimal("sNaN"), "spread is Decimal('sNaN'); it must be a finite number"),
    (RoutingDecision, ROUTING, "slippage", Fraction(10**400), "it must be a finite number"),
    (LPMetrics, LP, "status", "up", "status is 'up'; it must be one of connected, degraded, disconnected"),
    (LPMetrics, LP, "reject_rate", -0.1, "reject_rate is -0.1; it must be a finite number, at least 0"),
    (ExposureUpdate, EXPOSURE, "exposure_limit", 0, "exposure_limit is 0; it must be above 0"),
    (ExposureUpdate, EXPOSURE, "exposure_limit", -5.0, "exposure_limit is -5.0; it must be above 0"),
    (ExposureUpdate, EXPOSURE, "exposure_limit", 1e-310, "utilization_pct is inf; it must be a finite number"),
    (ExposureUpdate, EXPOSURE, "by_symbol", [1], "by_symbol is [1]; it must map names to numbers"),
    (ExposureUpdate, EXPOSURE, "by_symbol", {7: 1.0}, "a name in by_symbol is 7; it must be a non-empty string"),
    (ExposureUpdate, EXPOSURE, "by_lp", {"LMAX": math.nan}, "by_lp is nan; it must be a finite number"),
    (ExposureUpdate, EXPOSURE, "by_lp", {"LMAX": "1"}, "by_lp is '1'; it must be a finite number"),
    (Alert, ALERT, "severity", "fatal", "severity is 'fatal'; it must be one of info, warning, error, critical"),
    (Alert, ALERT, "suggested_actions", "Wait", "suggested_actions is 'Wait'; it must be a list of strings"),
    (Alert, ALERT, "suggested_actions", 3, "suggested_actions is 3; it must be a list of strings"),
    (Alert, ALERT, "suggested_actions", ["Wait", 3], "one of suggested_actions is 3; it must be a non-empty string"),
]


class TestValidation:
    @pytest.mark.parametrize(
        ("kind", "fields", "field", "value", "message"),
        [pytest.param(*case, id=f"{case[2]}-{number}") for number, case in enumerate(REFUSED)],
    )
    def test_an_invalid_value_raises_what_is_allowed(
        self, kind: type[msgspec.Struct], fields: dict[str, Any], field: str, value: Any, message: str
    ) -> None:
        with pytest.raises(InvalidItem) as caught:
            kind(**{**fields, field: value})

        assert message in str(caught.value)

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize(("kind", "fields"), KINDS[:3], ids=NAMES[:3])
    def test_numbers_that_json_does_not_have(
        self, kind: type[msgspec.Struct], fields: dict[str, Any], number: float
    ) -> None:
        """The encoder would write null, and a dashboard would show nothing."""
        for field in (name for name, value in fields.items() if isinstance(value, (int, float))):
            with pytest.raises(InvalidItem, match=field):
                kind(**{**fields, field: number})

    def test_a_missing_field_is_named(self) -> None:
        with pytest.raises(TypeError, match="symbol"):
            RoutingDecision(**{name: value for name, value in ROUTING.items() if name != "symbol"})

    def test_decoding_validates_too(self) -> None:
        sent = msgspec.json.encode({**on_the_wire(RoutingDecision(**ROUTING)), "volume": -1})

        with pytest.raises(msgspec.ValidationError, match="volume is -1"):
            msgspec.json.decode(sent, type=RoutingDecision)


class TestAssess:
    @pytest.mark.parametrize(
        ("total", "used", "level"),
        [
            (0, 0.0, "low"),
            (49_999, 49.999, "low"),
            (50_000, 50.0, "medium"),
            (74_999, 74.999, "medium"),
            (75_000, 75.0, "high"),
            (89_999, 89.999, "high"),
            (90_000, 90.0, "critical"),
            (250_000, 250.0, "critical"),
            (-90_000, 90.0, "critical"),
        ],
    )
    def test_thresholds(self, total: float, used: float, level: str) -> None:
        assert assess(total, 100_000) == (used, level)

    @given(st.integers(1, 2**53), st.sampled_from([(50, "medium"), (75, "high"), (90, "critical")]))
    @example(241_017_372_875_003, (50, "medium"))
    def test_a_threshold_that_is_reached_exactly_counts(self, unit: int, threshold: tuple[int, str]) -> None:
        """Whatever the limit is: rounding does not move the utilization below a threshold that it has reached."""
        percent, level = threshold

        assert assess(unit * percent, unit * 100) == (percent, level)
        assert assess(float(unit * percent), float(unit * 100)) == (percent, level)

    @given(st.floats(0, 1e300), st.floats(0, 1e300), st.floats(1e-3, 1e300))
    def test_more_exposure_is_never_less_risk(self, one: float, other: float, limit: float) -> None:
        order = ["low", "medium", "high", "critical"]
        less, more = assess(min(one, other), limit), assess(max(one, other), limit)

        assert less.utilization_pct <= more.utilization_pct
        assert order.index(less.level) <= order.index(more.level)


class TestChannels:
    def test_modes_and_types(self) -> None:
        declared = {channel.name: (channel.mode, channel.key, channel.type) for channel in CHANNELS}

        assert declared == {
            "routing-metrics": ("events", None, "routing-decision"),
            "lp-performance": ("table", "lpName", "lp-metrics"),
            "exposure-updates": ("latest", None, "exposure-update"),
            "alerts": ("durable", None, "alert"),
        }

    @pytest.mark.parametrize(
        ("role", "names"),
        [
            ("admin", {"routing-metrics", "lp-performance", "exposure-updates", "alerts"}),
            ("trader", {"exposure-updates", "alerts"}),
            ("monitor", {"lp-performance", "alerts"}),
            ("guest", set()),
        ],
    )
    def test_roles(self, role: str, names: set[str]) -> None:
        identity = Identity(id="ann", roles=frozenset({role}))

        assert {channel.name for channel in CHANNELS if channel.admits(identity, channel.name)} == names

    def test_every_exported_name_exists(self) -> None:
        assert [name for name in trading.__all__ if not hasattr(trading, name)] == []


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts and ends without a hub of the process."""
    monkeypatch.setattr(process, "_current", None)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object, str | None]]:
    """What is published to a hub of the process that is not open."""
    items: list[tuple[str, object, str | None]] = []

    def publish(hub: Hub, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None:
        assert type is None, "the type is that of the channel"
        items.append((channel, data, key))

    monkeypatch.setattr(Hub, "publish", publish)
    init_hub(authenticate=anonymous)
    return items


class TestHubOfTheProcess:
    def test_without_a_hub_the_message_says_how_to_start_one(self) -> None:
        with pytest.raises(HubClosed, match=r"async with init_hub\(authenticate=...\):"):
            get_hub()

    def test_init_creates_the_hub_with_the_channels_and_options(self) -> None:
        hub = init_hub(authenticate=anonymous, channels=[Channel("user:*")], node="here")

        assert hub.channels == (*CHANNELS, Channel("user:*"))
        assert hub.node == "here"
        assert get_hub() is hub

    async def test_a_hub_can_follow_another_one(self) -> None:
        with anyio.fail_after(30):
            async with init_hub(authenticate=anonymous) as first:
                with pytest.raises(HubError, match="already has a hub"):
                    init_hub(authenticate=anonymous)
                assert get_hub() is first
            with pytest.raises(HubClosed):
                publish_one_of_each()

            async with init_hub(authenticate=anonymous) as second:
                publish_one_of_each()
                assert get_hub() is second is not first
                await shutdown_hub(0.0)
                await shutdown_hub()
            with pytest.raises(HubClosed, match="no hub yet"):
                get_hub()

    async def test_a_hub_that_was_never_entered_can_be_shut_down(self) -> None:
        init_hub(authenticate=anonymous)
        with pytest.raises(HubClosed, match="async with"):
            publish_one_of_each()

        await shutdown_hub()

        init_hub(authenticate=anonymous)

    async def test_shutdown_forgets_the_hub_if_draining_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(hub: Hub, grace: float | None = None) -> None:
            raise ConnectionError

        monkeypatch.setattr(Hub, "shutdown", fail)
        init_hub(authenticate=anonymous)

        with pytest.raises(ConnectionError):
            await shutdown_hub()

        with pytest.raises(HubClosed):
            get_hub()

    async def test_shutdown_does_not_forget_a_hub_that_was_created_meanwhile(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        created: list[Hub] = []
        graces: list[float | None] = []

        async def shutdown(hub: Hub, grace: float | None = None) -> None:
            graces.append(grace)
            monkeypatch.setattr(process, "_current", None)
            created.append(init_hub(authenticate=anonymous))

        monkeypatch.setattr(Hub, "shutdown", shutdown)
        init_hub(authenticate=anonymous)

        await shutdown_hub(1.5)

        assert graces == [1.5]
        assert get_hub() is created[0]

    def test_only_one_of_several_threads_creates_the_hub(self) -> None:
        created: list[object] = []
        refused: list[HubError] = []
        start = threading.Barrier(8)

        def init() -> None:
            start.wait()
            try:
                created.append(init_hub(authenticate=anonymous))
            except HubError as error:
                refused.append(error)

        threads = [threading.Thread(target=init) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(created) == 1
        assert len(refused) == 7
        assert get_hub() is created[0]

    async def test_the_roles_that_may_publish_over_http(self) -> None:
        worker = Identity(id="w", roles=frozenset({"worker"}))
        hub = init_hub(authenticate=anonymous, publishers=["worker"])

        assert all(channel.takes_from(worker, channel.name) for channel in hub.channels)
        assert not any(channel.publishers for channel in CHANNELS)

    async def test_a_trader_must_not_subscribe_to_the_routing(self) -> None:
        trader = Identity(id="t", roles=frozenset({"trader"}))
        with anyio.fail_after(30):
            async with init_hub(authenticate=anonymous) as hub:
                with pytest.raises(PermissionDenied):
                    await subscribe(hub, "routing-metrics", identity=trader).__aenter__()
                async with subscribe(hub, "exposure-updates", "alerts", identity=trader):
                    pass


class TestHelpers:
    async def test_the_helpers_publish_from_another_thread(self) -> None:
        names = [channel.name for channel in CHANNELS]
        admin = Identity(id="a", roles=frozenset({"admin"}))
        with anyio.fail_after(30):
            async with init_hub(authenticate=anonymous) as hub, subscribe(hub, *names, identity=admin) as client:
                await anyio.to_thread.run_sync(publish_one_of_each)
                items = await read_items(client, 4)

        assert {item["channel"]: (item["type"], item.get("key"), item["data"]) for item in items} == {
            "routing-metrics": ("routing-decision", None, WIRE[RoutingDecision]),
            "lp-performance": ("lp-metrics", "OANDA", WIRE[LPMetrics]),
            "exposure-updates": ("exposure-update", None, WIRE[ExposureUpdate]),
            "alerts": ("alert", None, WIRE[Alert]),
        }

    def test_optional_arguments(self, published: list[tuple[str, object, str | None]]) -> None:
        notify_routing_decision("EURUSD", "SELL", 1, "REJECT", None, 0, 0.0)
        notify_alert("info", "system", "Hello", "World", "Test")

        rejected = RoutingDecision(
            symbol="EURUSD", side="SELL", volume=1, routing_decision="REJECT", execution_time_ms=0, spread=0.0
        )
        alert = Alert(severity="info", category="system", title="Hello", message="World", source="Test")
        assert published == [("routing-metrics", rejected, None), ("alerts", alert, None)]

    @pytest.mark.parametrize(
        "notify",
        [
            lambda: notify_routing_decision("EURUSD", "BUY", 1, "ABOOK", "LMAX", 1, 0.0),
            lambda: notify_lp_status_change("LMAX", "degraded", 0.0, 1, 1, 1, 0, 100),
            lambda: notify_exposure_change(0, 0, 1, {}, {}),
            lambda: notify_alert("info", "system", "Hello", "World", "Test"),
        ],
        ids=["routing", "lp", "exposure", "alert"],
    )
    def test_without_a_hub_the_helpers_raise(self, notify: Callable[[], None]) -> None:
        with pytest.raises(HubClosed):
            notify()

    def test_an_invalid_value_raises_and_publishes_nothing(
        self, published: list[tuple[str, object, str | None]]
    ) -> None:
        with pytest.raises(InvalidItem, match="severity is 'fatal'"):
            notify_alert("fatal", "system", "Hello", "World", "Test")  # type: ignore[arg-type]

        assert published == []


def publish_one_of_each() -> None:
    notify_routing_decision(*ROUTING.values())
    notify_lp_status_change(*LP.values())
    notify_exposure_change(*EXPOSURE.values())
    notify_alert(*ALERT.values())


async def read_items(client: MemoryClient, count: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    async for batch in client:
        items += [item for item in batch if not item["type"].startswith("$")]
        if len(items) >= count:
            break
    return items
