"""What a trading back office publishes, as msgspec structs: Python names here, camelCase on the wire.

Each is checked where it is made, so that a wrong value raises in the caller's frame and never reaches a dashboard.
Every complaint is an `InvalidItem`.
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
"""ABOOK: passed on to an LP. BBOOK: kept by the house. CBOOK and PARTIAL: a part of each, as the house names it.

HEDGE: an order of the house itself that passes on what it had kept. REJECT: refused.
"""
LPStatus = Literal["connected", "degraded", "disconnected"]
RiskLevel = Literal["low", "medium", "high", "critical"]
Severity = Literal["info", "warning", "error", "critical"]

_LARGEST: Final = sys.float_info.max


class RoutingDecision(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """Where one order went. `volume` is in whatever unit the application counts exposure in."""

    symbol: str
    side: Side
    volume: float
    routing_decision: Decision
    lp_name: str | None = None
    """None where no LP had a part in it; an empty text becomes None."""
    execution_time_ms: float
    spread: float
    slippage: float = 0.0
    """Signed; what is above zero was to the client's disadvantage."""

    def __post_init__(self) -> None:
        _settle_texts(self, ("symbol",))
        _settle_choice(self, "side", _SIDES)
        _settle_choice(self, "routing_decision", _DECISIONS)
        if self.lp_name == "":
            force_setattr(self, "lp_name", None)
        elif self.lp_name is not None:
            _settle_texts(self, ("lp_name",))
        _settle_numbers(self, ("volume", "execution_time_ms"), 0)
        _settle_numbers(self, ("spread", "slippage"))


class LPMetrics(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """How one liquidity provider does.

    `execution_quality` and `reject_rate` are meant as shares from 0 to 1, `uptime` as a percentage; only negative
    values are refused, because houses differ.
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
        _settle_texts(self, ("lp_name",))
        _settle_choice(self, "status", _STATUSES)
        _settle_numbers(self, ("execution_quality", "latency_ms", "quotes_per_second", "reject_rate", "uptime"), 0)
        _settle_numbers(self, ("avg_spread",))  # below zero in a crossed market


class Risk(NamedTuple):
    utilization_pct: float
    level: RiskLevel


def assess(total_exposure: float, exposure_limit: float) -> Risk:
    """How much of the limit is used, and how bad that is.

    Below 50 % is low, below 75 % medium, below 90 % high, everything else critical. A short exposure uses the limit as
    a long one does. The percentage has six decimals at most. The limit must be above zero: without one there is nothing
    that could be used up.
    """
    exposure = _number("total_exposure", total_exposure)
    limit = _number("exposure_limit", exposure_limit)
    if limit <= 0:
        raise InvalidItem(f"exposure_limit is {_shown(exposure_limit)}; it must be above 0")
    # In this order and rounded, a threshold that is reached exactly is never missed by the last bit of a float.
    used = _number("utilization_pct", round(abs(exposure) / limit * 100, 6))  # inf where the limit is next to 0
    if used < 50:
        return Risk(used, "low")
    if used < 75:
        return Risk(used, "medium")
    return Risk(used, "high" if used < 90 else "critical")


class ExposureUpdate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The whole exposure of the house. `utilization_pct` and `risk_level` always are what `assess` says."""

    total_exposure: float
    net_exposure: float
    exposure_limit: float
    by_symbol: Mapping[str, float]
    by_lp: Mapping[str, float] = msgspec.field(name="byLP")
    utilization_pct: float = 0.0
    risk_level: RiskLevel = "low"

    def __post_init__(self) -> None:
        _settle_numbers(self, ("total_exposure", "net_exposure", "exposure_limit"))
        force_setattr(self, "by_symbol", _amounts("by_symbol", self.by_symbol))
        force_setattr(self, "by_lp", _amounts("by_lp", self.by_lp))
        risk = assess(self.total_exposure, self.exposure_limit)
        force_setattr(self, "utilization_pct", risk.utilization_pct)
        force_setattr(self, "risk_level", risk.level)


class Alert(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """Something a person should know. `category` is a word of the application's: exposure, lp, routing, system."""

    severity: Severity
    category: str
    title: str
    message: str
    source: str
    suggested_actions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _settle_choice(self, "severity", _SEVERITIES)
        _settle_texts(self, ("category", "title", "message", "source"))
        actions: object = self.suggested_actions
        if isinstance(actions, (str, bytes)) or not isinstance(actions, Iterable):  # a text would become its letters
            raise InvalidItem(f"suggested_actions is {_shown(actions)}; it must be a list of texts")
        force_setattr(self, "suggested_actions", tuple(_text("one of suggested_actions", action) for action in actions))


# Checks. Each says what is wrong, shows it, and says what would be right. `_settle_...` puts a value that is right but
# of a kind the encoder does not take (an enum's text, a NumPy number) into the form that it takes.

_SIDES: Final = get_args(Side)
_DECISIONS: Final = get_args(Decision)
_STATUSES: Final = get_args(LPStatus)
_SEVERITIES: Final = get_args(Severity)


def _settle_texts(item: msgspec.Struct, fields: tuple[str, ...]) -> None:
    for field in fields:
        value = getattr(item, field)
        if type(value) is not str or not value:
            force_setattr(item, field, _text(field, value))


def _text(field: str, value: object) -> str:
    if isinstance(value, str) and value:
        return str.__str__(value)  # str() of a member of an enum would be its name
    raise InvalidItem(f"{field} is {_shown(value)}; it must be a text that is not empty")


def _settle_choice(item: msgspec.Struct, field: str, choices: tuple[str, ...]) -> None:
    value = getattr(item, field)
    if not isinstance(value, str) or value not in choices:
        raise InvalidItem(f"{field} is {_shown(value)}; it must be one of {', '.join(choices)}")
    if type(value) is not str:
        force_setattr(item, field, str.__str__(value))


def _settle_numbers(item: msgspec.Struct, fields: tuple[str, ...], least: float = -_LARGEST) -> None:
    for field in fields:
        value = getattr(item, field)
        if not _is_plain(value) or not least <= value <= _LARGEST:
            force_setattr(item, field, _number(field, value, least))


def _number(field: str, value: object, least: float = -_LARGEST) -> float:
    """`value` as an int or a float, also from NumPy and `Decimal`, never from a bool; JSON has no NaN or infinity."""
    if isinstance(value, (int, float, Real, Decimal)) and not isinstance(value, bool):
        try:
            number = int(value) if isinstance(value, (int, Integral)) else float(value)
        except (ValueError, OverflowError):  # Decimal("sNaN"), a Fraction beyond all floats
            number = math.nan
        if least <= number <= _LARGEST:
            return number
    right = "a finite number" if least < 0 else f"a finite number, at least {least:g}"
    raise InvalidItem(f"{field} is {_shown(value)}; it must be {right}")


def _amounts(field: str, value: object) -> dict[str, float]:
    """A copy, so that the caller may go on changing its own."""
    if not isinstance(value, (dict, Mapping)):
        raise InvalidItem(f"{field} is {_shown(value)}; it must map names to numbers")
    amounts = dict(value)
    if all(type(name) is str and name and _is_plain(amount) for name, amount in amounts.items()):
        return amounts
    return {_text(f"a name in {field}", name): _number(field, amount) for name, amount in amounts.items()}


def _is_plain(value: object) -> bool:
    """Whether the encoder takes this number as it is: nearly always. NaN fails every comparison."""
    return (type(value) is float or type(value) is int) and -_LARGEST <= value <= _LARGEST


def _shown(value: object) -> str:
    try:
        return shorten(value)
    except ValueError:  # an int of more digits than Python prints
        return "a number of thousands of digits"
