"""The trading profile: typed items, four channels, and a hub for the whole process.

`items` defines the items, `process` the channels, the process-wide hub and the `notify_*` helpers.
"""

from __future__ import annotations

from .items import (
    Alert,
    Decision,
    ExposureUpdate,
    LPMetrics,
    LPStatus,
    Risk,
    RiskLevel,
    RoutingDecision,
    Severity,
    Side,
    assess,
)
from .process import (
    ALERTS,
    CHANNELS,
    EXPOSURE_UPDATES,
    LP_PERFORMANCE,
    ROUTING_METRICS,
    get_hub,
    init_hub,
    notify_alert,
    notify_exposure_change,
    notify_lp_status_change,
    notify_routing_decision,
    shutdown_hub,
)

__all__ = [
    "ALERTS",
    "CHANNELS",
    "EXPOSURE_UPDATES",
    "LP_PERFORMANCE",
    "ROUTING_METRICS",
    "Alert",
    "Decision",
    "ExposureUpdate",
    "LPMetrics",
    "LPStatus",
    "Risk",
    "RiskLevel",
    "RoutingDecision",
    "Severity",
    "Side",
    "assess",
    "get_hub",
    "init_hub",
    "notify_alert",
    "notify_exposure_change",
    "notify_lp_status_change",
    "notify_routing_decision",
    "shutdown_hub",
]
