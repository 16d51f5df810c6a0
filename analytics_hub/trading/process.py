"""The four channels of the trading profile, the hub of the process, and helpers that publish through it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from ..channels import Channel
from ..contracts import Authenticate
from ..exceptions import HubClosed, HubError
from ..hub import Hub
from .items import Alert, Decision, ExposureUpdate, LPMetrics, LPStatus, RoutingDecision, Severity, Side

ROUTING_METRICS: Final = "routing-metrics"
LP_PERFORMANCE: Final = "lp-performance"
EXPOSURE_UPDATES: Final = "exposure-updates"
ALERTS: Final = "alerts"

CHANNELS: Final[tuple[Channel, ...]] = (
    Channel(ROUTING_METRICS, type="routing-decision", roles=frozenset({"admin"}), schema=RoutingDecision),
    Channel(
        LP_PERFORMANCE,
        mode="table",
        key="lpName",
        type="lp-metrics",
        roles=frozenset({"admin", "monitor"}),
        schema=LPMetrics,
    ),
    Channel(
        EXPOSURE_UPDATES,
        mode="latest",
        type="exposure-update",
        roles=frozenset({"admin", "trader"}),
        schema=ExposureUpdate,
    ),
    Channel(ALERTS, mode="durable", type="alert", roles=frozenset({"admin", "trader", "monitor"}), schema=Alert),
)


def with_publishers(channels: Iterable[Channel], roles: Iterable[str]) -> list[Channel]:
    """Copies of `channels` to which these roles may publish over HTTP."""
    return [replace(channel, publishers=frozenset(roles)) for channel in channels]


_lock = threading.Lock()
_current: Hub | None = None


def init_hub(
    *,
    authenticate: Authenticate,
    channels: Iterable[Channel] = (),
    publishers: Iterable[str] = (),
    **options: Any,
) -> Hub:
    """Create the hub of this process, with the four channels and `channels`; `options` are those of `Hub`.

    `publishers` are the roles that may publish to the four channels over HTTP, for workers in other processes; by
    default none.

    Enter it for the lifetime of the application: `async with init_hub(authenticate=...):`. A second hub is refused
    until the first has been shut down, because a part of the process would publish to a hub without subscribers.
    """
    global _current
    with _lock:
        if _current is not None and not _current.is_draining:
            raise HubError("this process already has a hub; leave its `async with` or await shutdown_hub() first")
        trading = with_publishers(CHANNELS, publishers)
        _current = Hub([*trading, *channels], authenticate=authenticate, **options)
        return _current


def get_hub() -> Hub:
    """The hub of this process, from any thread; raises `HubClosed` if there is none."""
    hub = _current
    if hub is None:
        raise HubClosed("this process has no hub yet; start it with `async with init_hub(authenticate=...):`")
    return hub


async def shutdown_hub(grace: float | None = None) -> None:
    """Drain the hub of this process and forget it. Does nothing if there is none."""
    global _current
    hub = _current
    if hub is None:
        return
    try:
        await hub.shutdown(grace)
    finally:
        with _lock:
            if _current is hub:  # otherwise the next one was started in the meantime
                _current = None


def notify_routing_decision(
    symbol: str,
    side: Side,
    volume: float,
    decision: Decision,
    lp: str | None,
    execution_time_ms: float,
    spread: float,
    slippage: float = 0.0,
) -> None:
    """Publish the routing of an order. Like all these helpers, it may be called from any thread and does not wait."""
    item = RoutingDecision(
        symbol=symbol,
        side=side,
        volume=volume,
        routing_decision=decision,
        lp_name=lp,
        execution_time_ms=execution_time_ms,
        spread=spread,
        slippage=slippage,
    )
    get_hub().publish(ROUTING_METRICS, item)


def notify_lp_status_change(
    name: str,
    status: LPStatus,
    avg_spread: float,
    execution_quality: float,
    latency_ms: float,
    quotes_per_second: float,
    reject_rate: float,
    uptime: float,
) -> None:
    """Publish the metrics of an LP; they replace the previous ones of the same name."""
    item = LPMetrics(
        lp_name=name,
        status=status,
        avg_spread=avg_spread,
        execution_quality=execution_quality,
        latency_ms=latency_ms,
        quotes_per_second=quotes_per_second,
        reject_rate=reject_rate,
        uptime=uptime,
    )
    get_hub().publish(LP_PERFORMANCE, item, key=item.lp_name)


def notify_exposure_change(
    total: float, net: float, limit: float, by_symbol: Mapping[str, float], by_lp: Mapping[str, float]
) -> None:
    """Publish the total exposure; the utilization of the limit and the risk level are computed (`assess`)."""
    item = ExposureUpdate(
        total_exposure=total, net_exposure=net, exposure_limit=limit, by_symbol=by_symbol, by_lp=by_lp
    )
    get_hub().publish(EXPOSURE_UPDATES, item)


def notify_alert(
    severity: Severity, category: str, title: str, message: str, source: str, suggested_actions: Iterable[str] = ()
) -> None:
    """Publish an alert; the channel is durable, so a subscriber that reconnects in time does not miss it."""
    item = Alert(
        severity=severity,
        category=category,
        title=title,
        message=message,
        source=source,
        suggested_actions=suggested_actions,  # type: ignore[arg-type]  # the struct validates it and converts it to a tuple
    )
    get_hub().publish(ALERTS, item)
