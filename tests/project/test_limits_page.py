"""`docs/security.md` shows the limits and counters that the code has, all of them."""

from __future__ import annotations

from analytics_hub.telemetry import COUNTERS
from tools.limits_page import GROUPS, NO_LIMITS, PAGE, renew, settable, shown


def test_the_tables_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert renew(text) == text, "renew them: python -m tools.limits_page"


def test_every_setting_is_a_limit_or_is_none() -> None:
    assert {name for name in settable() if name.partition(".")[2] not in NO_LIMITS} == shown()


def test_every_limit_that_names_a_counter_has_one() -> None:
    named = {name for limits in GROUPS.values() for limit in limits for name in limit.counter.split(", ") if name}

    assert named <= set(COUNTERS)
