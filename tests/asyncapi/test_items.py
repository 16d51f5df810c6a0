"""The schemas describe what a real engine sends and accepts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, get_args

import jsonschema
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analytics_hub.asyncapi.schemas import json_schemas
from analytics_hub.channels import Channel
from analytics_hub.core.commands import MALFORMED_IN_A_ROW
from analytics_hub.exceptions import AuthenticationUnavailable
from analytics_hub.identity import Identity
from analytics_hub.protocol import MAX_SEQ, Command, InvalidCommand, control_item, parse_json
from analytics_hub.protocol.control_items import ControlItem
from analytics_hub.trading import CHANNELS, Alert, ExposureUpdate, LPMetrics, RoutingDecision
from analytics_hub.tuning import Tuning

from ..core.rig import ALICE, WALL, Peer, Rig

SCHEMAS: Final = {
    name: jsonschema.Draft7Validator(schema)
    for name, schema in json_schemas([*CHANNELS, Channel("user:*"), Channel("short", keep_items=2)]).items()
}
ADMIN: Final = Identity(id="admin", roles=frozenset({"admin"}), expires=WALL + 60)
ITEMS: Final[dict[str, Any]] = {
    "routing-metrics": RoutingDecision(
        symbol="EURUSD", side="BUY", volume=1, routing_decision="ABOOK", execution_time_ms=4.5, spread=0.1
    ),
    "lp-performance": LPMetrics(
        lp_name="LMAX",
        status="connected",
        avg_spread=0.1,
        execution_quality=0.9,
        latency_ms=3,
        quotes_per_second=500,
        reject_rate=0.1,
        uptime=99.9,
    ),
    "exposure-updates": ExposureUpdate(
        total_exposure=8.5, net_exposure=-2, exposure_limit=10, by_symbol={"EURUSD": 3}, by_lp={"LMAX": 8}
    ),
    "alerts": Alert(severity="error", category="lp", title="Late", message="m", source="s", suggested_actions=["a"]),  # type: ignore[arg-type]  # made a tuple by the struct
}


def schema_of(item: dict[str, Any]) -> jsonschema.Draft7Validator:
    return SCHEMAS["user-member" if item["channel"] == "user:7" else item["channel"]]


def check(items: Sequence[dict[str, Any]]) -> set[str]:
    """Validate the items that a client received; returns the types of the control items."""
    seen = set()
    for item in items:
        if item["type"].startswith("$"):
            SCHEMAS["control"].validate(item)
            # There are no other fields than the declared ones.
            assert msgspec.to_builtins(msgspec.convert(item, ControlItem)) == item
            seen.add(item["type"])
        else:
            schema_of(item).validate(item)
    return seen


# --- data items -------------------------------------------------------------------------------------------------------


def published(**options: Any) -> Peer:
    rig = Rig(*CHANNELS, Channel("user:*"))
    peer = rig.connect(ADMIN)
    peer.subscribe(*ITEMS, "user:7")
    for channel, data in ITEMS.items():
        rig.deliver(channel, data, key="LMAX" if channel == "lp-performance" else None, **options)
        rig.advance(1.0)
    rig.commit("alerts")
    rig.deliver("user:7", {"whatever": None})
    rig.engine.delete("lp-performance", "LMAX", rig.now)
    rig.advance(1.0)
    return peer


@pytest.mark.parametrize("type_", [None, "another"])
def test_items_of_the_trading_profile(type_: str | None) -> None:
    items = published(type=type_).items

    check(items)

    assert [item["channel"] for item in items if "seq" in item] == [
        *("routing-metrics", "lp-performance", "exposure-updates", "alerts", "user:7", "lp-performance"),
    ]


@pytest.mark.parametrize("field", ["channel", "seq", "type", "timestamp", "data"])
def test_an_item_without_one_of_its_fields_is_invalid(field: str) -> None:
    for item in published().items:
        if "seq" in item:
            schema = schema_of(item)
            del item[field]
            assert not schema.is_valid(item)


# --- control items ----------------------------------------------------------------------------------------------------


def converse(rig: Rig) -> set[str]:
    """The control items of a session without limits exceeded, and some errors."""
    peer = rig.connect(None)
    peer.send({"action": "ping"}, {"action": "auth", "id": "a", "token": "t"})
    rig.engine.authenticated(peer.session, ADMIN, rig.now)
    peer.subscribe(*ITEMS, "user:7", "short", "nowhere", "not a name", {"channel": "alerts", "last": 1})
    peer.send({"action": "ping", "id": 1.5}, {"action": "ping"}, {"action": "seen", "frames": 3}, {"action": "jump"})
    peer.subscribe({"channel": "short", "since": {"epoch": "of yore", "seq": 3}})
    rig.publish("short", *range(300))
    epoch = peer.subscribe("short")["channels"][0]["epoch"]
    peer.subscribe({"channel": "short", "since": {"epoch": epoch, "seq": 1}})
    peer.unsubscribe("short", "never-there")
    rig.advance(40.0)
    peer.send({"action": "auth", "token": "t"})
    rig.engine.authenticated(peer.session, Identity(id="admin", roles=frozenset({"trader"})), rig.now)
    peer.send({"action": "auth", "token": "t"})
    rig.engine.authenticated(peer.session, AuthenticationUnavailable(), rig.now)
    rig.engine.drain(5.0, rig.now)
    rig.pump()
    return check(peer.items)


def lose(rig: Rig) -> set[str]:
    """The control items for a slow client."""
    peer = rig.connect(ALICE)
    peer.subscribe("short")
    peer.stall()
    rig.publish("short", *range(300))
    rig.advance(1.0)
    peer.resume()
    rig.advance(1.0)
    assert [gap["reason"] for gap in peer.items_of("$gap")] == ["buffer"]
    return check(peer.items)


def offend(rig: Rig) -> set[str]:
    """The control items for a client that exceeds its limits."""
    peer = rig.connect(ALICE)
    peer.send(*({"action": "ping"} for _ in range(4)))
    assert peer.items_of("$error")[-1]["code"] == "rate-limited"
    for _ in range(MALFORMED_IN_A_ROW):
        rig.advance(10.0)
        peer.send_raw("[1")
    assert peer.close is not None
    return check(peer.items)


def test_every_control_item_is_declared() -> None:
    rig = Rig(*CHANNELS, Channel("user:*"), Channel("short", keep_items=2))

    seen = converse(rig) | lose(rig)
    seen |= offend(Rig(Channel("short"), tuning=Tuning(command_rate=2.0)))
    seen |= check([json.loads(control_item("$close", "2026-01-19T10:30:45.160Z", code=4401, reason="expired token"))])

    assert seen == {str(item.__struct_config__.tag) for item in get_args(ControlItem)}


def test_an_answer_is_an_acceptance_or_a_refusal() -> None:
    rig = Rig(Channel("short"))
    item = rig.connect().subscribe("short")
    rig.advance(0)
    check([item])

    item["channels"][0]["ok"] = False

    assert not SCHEMAS["control"].is_valid(item)


# --- commands ---------------------------------------------------------------------------------------------------------

_scalars = st.sampled_from(["", "alerts", "x" * 128, "x" * 129, True, None]) | st.sampled_from(
    [0, -1, 1, 7.5, 1000, 1000.5, MAX_SEQ, MAX_SEQ + 1]  # not 3.0: an integer to JSON Schema, but not to the hub
)
_names = st.sampled_from(["channel", "snapshot", "since", "last", "max_hz", "other"])
_positions = st.dictionaries(st.sampled_from(["epoch", "seq", "other"]), _scalars, max_size=3)
_selections = st.dictionaries(_names, _scalars | _positions, max_size=3)
_valid = st.fixed_dictionaries(
    {"channel": st.just("alerts")},
    optional={
        "snapshot": st.booleans(),
        "since": st.none() | st.fixed_dictionaries({"epoch": st.text(max_size=3), "seq": st.integers(0, MAX_SEQ)}),
        "last": st.none() | st.integers(0, MAX_SEQ),
        "max_hz": st.none() | st.floats(0.1, 1000),
    },
)
_values = _scalars | st.lists(_scalars | _selections | _valid, max_size=2) | _selections
_actions = st.sampled_from([*(str(each.__struct_config__.tag) for each in get_args(Command)), "jump", None, 3])
_near = st.builds(
    lambda action, fields: {"action": action} | fields,
    _actions,
    st.dictionaries(st.sampled_from(["id", "channels", "token", "frames", "other"]), _values, max_size=2),
)


@given(_near | _selections)
@example({"action": "subscribe", "channels": ["alerts", {"channel": "alerts", "since": {"epoch": "", "seq": 0}}]})
@example({"action": "subscribe", "channels": []})
@example({"action": "ping", "id": "x" * 129})
@example({"action": "auth", "token": None})
def test_the_hub_accepts_the_commands_that_the_schema_allows(value: dict[str, Any]) -> None:
    (parsed,) = parse_json(json.dumps(value))

    assert SCHEMAS["commands"].is_valid(value) is not isinstance(parsed, InvalidCommand), parsed
