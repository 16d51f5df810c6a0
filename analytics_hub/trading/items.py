"""The items of a trading back office, as msgspec structs: Python names here, camelCase on the wire.

Each is validated when it is created, so that an invalid value raises `InvalidItem` in the caller's frame and never
reaches a dashboard.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Final, Literal, NamedTuple, get_args

import msgspec
from msgspec.structs import force_setattr

from ..channels import shorten
from ..exceptions import InvalidItem

Side = Literal["BUY", "SELL"]
Decision = Literal["ABOOK", "BBOOK", "CBOOK", "PARTIAL", "HEDGE", "REJECT"]
"""ABOOK: passed on to an LP. BBOOK: kept by the broker. CBOOK and PARTIAL: a part of each, by the broker's own terms.

HEDGE: an order of the broker itself that passes on what it had kept. REJECT: refused.
"""
LPStatus = Literal["connected", "degraded", "disconnected"]
RiskLevel = Literal["low", "medium", "high", "critical"]
Severity = Literal["info", "warning", "error", "critical"]

_LARGEST: Final = sys.float_info.max


class RoutingDecision(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The routing of one order. `volume` is in the unit in which the application counts exposure."""

    symbol: str
    side: Side
    volume: float
    routing_decision: Decision
    lp_name: str | None = None
    """None if no LP was involved; an empty string becomes None."""
    execution_time_ms: float
    spread: float
    slippage: float = 0.0
    """Signed; a positive value is to the disadvantage of the client."""

    def __post_init__(self) -> None:
        _normalize_strings(self, ("symbol",))
        _normalize_choice(self, "side", _SIDES)
        _normalize_choice(self, "routing_decision", _DECISIONS)
        if self.lp_name == "":
            force_setattr(self, "lp_name", None)
        elif self.lp_name is not None:
            _normalize_strings(self, ("lp_name",))
        _normalize_numbers(self, ("volume", "execution_time_ms"), 0)
        _normalize_numbers(self, ("spread", "slippage"))


class LPMetrics(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The metrics of one liquidity provider.

    `execution_quality` and `reject_rate` are meant as fractions from 0 to 1, `uptime` as a percentage; only negative
    values are refused, because conventions differ.
    """

    lp_name: str
    status: LPStatus
    avg_spread: float
    execution_quality: float
    latency_ms: float
    quotes_per_second: float
    reject_rate: float
    uptime: float

    def __post_init__(self) -> None:
        _normalize_strings(self, ("lp_name",))
        _normalize_choice(self, "status", _STATUSES)
        _normalize_numbers(self, ("execution_quality", "latency_ms", "quotes_per_second", "reject_rate", "uptime"), 0)
        _normalize_numbers(self, ("avg_spread",))  # negative in a crossed market


class Risk(NamedTuple):
    utilization_pct: float
    level: RiskLevel


def assess(total_exposure: float, exposure_limit: float) -> Risk:
    """The utilization of the limit, and the level of risk.

    Below 50 % is low, below 75 % medium, below 90 % high, everything else critical. A short exposure uses the limit as
    a long one does. The percentage is rounded to six decimals. The limit must be above zero.
    """
    exposure = _number("total_exposure", total_exposure)
    limit = _number("exposure_limit", exposure_limit)
    if limit <= 0:
        raise InvalidItem(f"exposure_limit is {shorten(exposure_limit)}; it must be above 0")
    # In this order and rounded, the last bit of a float cannot miss a threshold that is reached exactly.
    used = _number("utilization_pct", round(abs(exposure) / limit * 100, 6))  # inf if the limit is close to 0
    if used < 50:
        return Risk(used, "low")
    if used < 75:
        return Risk(used, "medium")
    return Risk(used, "high" if used < 90 else "critical")


class ExposureUpdate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The total exposure of the broker. `utilization_pct` and `risk_level` are always computed by `assess`."""

    total_exposure: float
    net_exposure: float
    exposure_limit: float
    by_symbol: Mapping[str, float]
    by_lp: Mapping[str, float] = msgspec.field(name="byLP")
    utilization_pct: float = 0.0
    risk_level: RiskLevel = "low"

    def __post_init__(self) -> None:
        _normalize_numbers(self, ("total_exposure", "net_exposure", "exposure_limit"))
        force_setattr(self, "by_symbol", _amounts("by_symbol", self.by_symbol))
        force_setattr(self, "by_lp", _amounts("by_lp", self.by_lp))
        risk = assess(self.total_exposure, self.exposure_limit)
        force_setattr(self, "utilization_pct", risk.utilization_pct)
        force_setattr(self, "risk_level", risk.level)


class Alert(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """A message for an operator. `category` is chosen by the application, such as exposure, lp, routing or system."""

    severity: Severity
    category: str
    title: str
    message: str
    source: str
    suggested_actions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _normalize_choice(self, "severity", _SEVERITIES)
        _normalize_strings(self, ("category", "title", "message", "source"))
        actions: object = self.suggested_actions
        if isinstance(actions, (str, bytes)) or not isinstance(actions, Iterable):  # a string would become its letters
            raise InvalidItem(f"suggested_actions is {shorten(actions)}; it must be a list of strings")
        force_setattr(
            self, "suggested_actions", tuple(_string("one of suggested_actions", action) for action in actions)
        )


# Validation. Each message shows the value and what is allowed. `_normalize_...` also converts values that are valid but
# of a type that the encoder does not support: a member of a string enum, a NumPy number.

_SIDES: Final = get_args(Side)
_DECISIONS: Final = get_args(Decision)
_STATUSES: Final = get_args(LPStatus)
_SEVERITIES: Final = get_args(Severity)


def _normalize_strings(item: msgspec.Struct, fields: tuple[str, ...]) -> None:
    for field in fields:
        value = getattr(item, field)
        if type(value) is not str or not value:
            force_setattr(item, field, _string(field, value))


def _string(field: str, value: object) -> str:
    if isinstance(value, str) and value:
        return str.__str__(value)  # str() of an enum member would be its name
    raise InvalidItem(f"{field} is {shorten(value)}; it must be a non-empty string")


def _normalize_choice(item: msgspec.Struct, field: str, choices: tuple[str, ...]) -> None:
    value = getattr(item, field)
    if not isinstance(value, str) or value not in choices:
        raise InvalidItem(f"{field} is {shorten(value)}; it must be one of {', '.join(choices)}")
    if type(value) is not str:
        force_setattr(item, field, str.__str__(value))


def _normalize_numbers(item: msgspec.Struct, fields: tuple[str, ...], minimum: float = -_LARGEST) -> None:
    for field in fields:
        value = getattr(item, field)
        if not _is_plain(value) or not minimum <= value <= _LARGEST:
            force_setattr(item, field, _number(field, value, minimum))


def _number(field: str, value: object, minimum: float = -_LARGEST) -> float:
    """`value` as an int or a float, also from NumPy and `Decimal`, but not from a bool. JSON has no NaN or infinity."""
    if isinstance(value, (int, float, Real, Decimal)) and not isinstance(value, bool):
        try:
            number = int(value) if isinstance(value, (int, Integral)) else float(value)
        except (ValueError, OverflowError):  # Decimal("sNaN"), a Fraction out of the range of float
            number = math.nan
        if minimum <= number <= _LARGEST:
            return number
    allowed = "a finite number" if minimum < 0 else f"a finite number, at least {minimum:g}"
    raise InvalidItem(f"{field} is {shorten(value)}; it must be {allowed}")


def _amounts(field: str, value: object) -> dict[str, float]:
    """A copy, because the caller may change its mapping later."""
    if not isinstance(value, (dict, Mapping)):
        raise InvalidItem(f"{field} is {shorten(value)}; it must map names to numbers")
    amounts = dict(value)
    if all(type(name) is str and name and _is_plain(amount) for name, amount in amounts.items()):
        return amounts
    return {_string(f"a name in {field}", name): _number(field, amount) for name, amount in amounts.items()}


def _is_plain(value: object) -> bool:
    """Whether the encoder supports this number as it is, which is nearly always so. NaN fails every comparison."""
    return (type(value) is float or type(value) is int) and -_LARGEST <= value <= _LARGEST
