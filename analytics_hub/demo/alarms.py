"""Alarms with hysteresis, and the alerts for their changes."""

from __future__ import annotations

from typing import Final, Literal

from ..trading import Alert, Severity
from .books import Books
from .liquidity import LPChange
from .market import SYMBOLS

AlarmChange = Literal["raised", "cleared"]


class Alarm:
    """Is raised at `raise_at` or more and cleared only below `clear_below`; in between it does not change."""

    __slots__ = ("clear_below", "is_raised", "raise_at")

    def __init__(self, *, raise_at: int, clear_below: int) -> None:
        self.raise_at = raise_at
        self.clear_below = clear_below
        self.is_raised = False

    def update(self, value: int) -> AlarmChange | None:
        """Process the newest value; returns what changed."""
        if self.is_raised:
            if value < self.clear_below:
                self.is_raised = False
                return "cleared"
        elif value >= self.raise_at:
            self.is_raised = True
            return "raised"
        return None


class ExposureMonitor:
    """Compares the books with their limits, in whole per cent."""

    SOURCE: Final = "ExposureMonitor"

    def __init__(self) -> None:
        self._totals: tuple[tuple[Severity, Alarm], ...] = (
            ("warning", Alarm(raise_at=75, clear_below=60)),
            ("critical", Alarm(raise_at=90, clear_below=70)),
        )
        self._symbols = {symbol.name: Alarm(raise_at=90, clear_below=60) for symbol in SYMBOLS}

    def update(self, books: Books, symbol: str) -> list[Alert]:
        """The alerts after the position in `symbol` has changed; nearly always none."""
        alerts = []
        used = 100 * books.total // books.exposure_limit
        for severity, alarm in self._totals:
            if change := alarm.update(used):
                alerts.append(self._alert(severity, "Exposure", used, alarm, change))
        alarm = self._symbols[symbol]
        used = 100 * abs(books.by_symbol[symbol]) // books.symbol_limit
        if change := alarm.update(used):
            alerts.append(self._alert("warning", f"{symbol} exposure", used, alarm, change))
        return alerts

    def _alert(self, severity: Severity, what: str, used: int, alarm: Alarm, change: AlarmChange) -> Alert:
        if change == "raised":
            return Alert(
                severity=severity,
                category="exposure",
                title=f"{what} above {alarm.raise_at} % of its limit",
                message=f"{what} is at {used} % of its limit.",
                source=self.SOURCE,
                suggested_actions=("Review positions", "Consider hedging"),
            )
        return Alert(
            severity="info",
            category="exposure",
            title=f"{what} below {alarm.clear_below} % of its limit",
            message=f"{what} is back at {used} % of its limit.",
            source=self.SOURCE,
        )


def lp_alert(name: str, change: LPChange) -> Alert:
    """The alert for an LP that was lost or has recovered."""
    if change == "lost":
        return Alert(
            severity="error",
            category="lp",
            title=f"{name} disconnected",
            message=f"The connection to {name} was lost. Its orders go to the next best LP.",
            source="LPManager",
            suggested_actions=("Check the session", "Check the network"),
        )
    return Alert(
        severity="info",
        category="lp",
        title=f"{name} recovered",
        message=f"{name} accepts orders again.",
        source="LPManager",
    )
